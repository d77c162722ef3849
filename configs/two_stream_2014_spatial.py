"""Trains the spatial stream of the two-stream networks on UCF101 (arXiv 1406.2199).

    python train.py --config configs/two_stream_2014_spatial.py:1      (:2, :3)
    python train.py --config configs/two_stream_2014_temporal.py:1
    python -m jaxvideo fuse runs/two_stream_2014_spatial-* runs/two_stream_2014_temporal-*
    python train.py --config configs/two_stream_2014_spatial.py:smoke  (short test run)

Source: paper, section 5: CNN-M-2048 on single frames, 256 videos per batch, short side 256, random
224 crop, flip; SGD from scratch with momentum 0.9; rate 0.01, divided by 10 after 50k and 70k of
80k steps; dropout 0.9. Test: 25 frames with 10 crops each, mean of softmax. An "epoch" of this
config is 1000 steps. The color jitter of the paper is not used. The paper does not give the weight
decay; here it is AlexNet's, 5e-4.

Number to reach: 52.3 % (paper, Table 1a: split 1, from scratch, dropout 0.9); 73.0 % (three splits)
with ImageNet weights if only the last layer is trained.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    split, smoke = common.read_split(argument)
    config = common.default_config()
    config.model.name = "two_stream_spatial"
    config.model.dtype = "bfloat16"
    config.model.dropout_rate = 0.9
    config.epochs = 80.0
    config.epoch_steps = 1000
    config.batch_size = 256
    config.eval_batch_size = 32
    common.use_split(config, "data/ucf101", split)
    config.data.hint = (
        "Without data: python train.py --config configs/two_stream_2014_spatial.py:smoke runs now"
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
        config.optim.lr = 0.001
    return config
