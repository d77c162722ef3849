"""Trains TSN on optical flow on UCF101 (Wang et al., arXiv 1608.00859).

    python -m jaxvideo flow data/ucf101                  (once: TV-L1)
    python train.py --config configs/tsn_flow.py:1 --config.init.path=WEIGHTS  (:2, :3)
    python train.py --config configs/tsn_flow.py:smoke      (short test run, from scratch)

Source: the authors' Caffe recipe: three segments of five fields, batch 128; rate 0.005, divided by
10 after 10k and 16k of 18k steps; gradient norm clipped to 20, dropout 0.7. The first layer has
five times the rate and starts from the mean over RGB. For warped flow run `flow --method
warped_tvl1`. Crops of 256, 224 or 192 pixels per side at 13 positions of 256 x 340. Partial BN: all
BatchNorm layers but the first keep their statistics, scale and offset. Test: 25 snippets with 10
crops each, mean of the logits. Initial weights: an ImageNet network, converted or from a run;
`init.inflate="average"` averages its first layer over the color channels if the number of channels
differs. An "epoch" of this config is 100 steps.

Number to reach: 87.9 % (paper, split 1).
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    split, smoke = common.read_split(argument)
    config = common.default_config()
    config.model.name = "tsn_flow"
    config.model.dtype = "bfloat16"
    config.model.partial_bn = True
    config.model.dropout_rate = 0.7
    config.init.path = "weights/imagenet.safetensors"
    config.init.leave_out = ("fc/*",)
    config.init.inflate = "average"
    config.epochs = 180.0
    config.epoch_steps = 100
    config.batch_size = 128
    config.eval_batch_size = 32
    config.preprocessing.flow = "stored"
    config.augment.ratios = (1.0, 0.875, 0.75)
    config.augment.positions = "thirteen"
    common.use_split(config, "data/ucf101", split)
    config.data.hint = "Without data: python train.py --config configs/tsn_flow.py:smoke runs now"
    config.optim.lr = 0.005
    config.optim.schedule = "step"
    config.optim.milestones = (100.0, 160.0)
    config.optim.weight_decay = 5e-4
    config.optim.clip_norm = 20.0
    # As in the Caffe recipe: twice the rate for biases, five times for the first layer.
    config.optim.multipliers = (("*/bias", 2.0), ("net/conv1/*", 5.0))
    config.optim.no_decay = ("*/bias",)
    config.protocol.frames = 5
    config.optim.frozen = ("*/bn_*",)
    config.protocol.clips = 25
    config.protocol.crops = 10
    config.protocol.segments = 1
    config.protocol.starts = "centers"
    config.protocol.aggregation = "logits"
    if smoke:
        common.use_smoke(config)
        config.preprocessing.flow = "dis"
        config.preprocessing.std = (16.0, 16.0)
        config.protocol.frames = 5
        config.model.dtype = "float32"
        config.model.width = 0.25
        config.model.partial_bn = False
        config.optim.frozen = ()
        config.optim.clip_norm = 0.0
    return config
