"""Trains the temporal stream of the two-stream networks on UCF101 (arXiv 1406.2199).

    python -m jaxvideo flow data/ucf101 --method farneback              (once; or tvl1, dis)
    python train.py --config configs/two_stream_2014_temporal.py:1      (:2, :3)
    python -m jaxvideo fuse runs/two_stream_2014_spatial-* runs/two_stream_2014_temporal-*
    python train.py --config configs/two_stream_2014_temporal.py:smoke  (short test run)

Source: paper, sections 3 and 5: CNN-M-2048 on 10 flow fields stacked into 20 channels, each field
minus its mean; 256 videos per batch; SGD with momentum 0.9; rate 0.01, divided by 10 after 50k and
70k of 80k steps; dropout 0.9; random crop and flip. The authors use Brox's flow. Test: 25 stacks
with 10 crops each, mean of softmax. An "epoch" of this config is 1000 steps. The paper does not
give the weight decay; here it is 5e-4.

Number to reach: 81.0 % (paper, Table 1b: split 1); 83.7 % (three splits) with multi-task learning;
86.9 % for the average of both streams.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    split, smoke = common.read_split(argument)
    config = common.default_config()
    config.model.name = "two_stream_temporal"
    config.model.dtype = "bfloat16"
    config.model.dropout_rate = 0.9
    config.epochs = 80.0
    config.epoch_steps = 1000
    config.batch_size = 256
    config.eval_batch_size = 32
    config.preprocessing.flow = "stored"
    common.use_split(config, "data/ucf101", split)
    config.data.hint = (
        "Without data: python train.py --config configs/two_stream_2014_temporal.py:smoke runs now"
    )
    config.optim.lr = 0.01
    config.optim.schedule = "step"
    config.optim.milestones = (50.0, 70.0)
    config.optim.weight_decay = 5e-4
    config.optim.no_decay = ("*/bias",)
    config.protocol.clips = 25
    config.protocol.crops = 10
    if smoke:
        common.use_smoke(config)
        config.model.dtype = "float32"
        config.model.width = 0.125
        config.preprocessing.flow = "dis"
    return config
