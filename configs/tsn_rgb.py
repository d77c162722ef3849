"""Trains TSN on RGB on UCF101 (Wang et al., arXiv 1608.00859).

    python train.py --config configs/tsn_rgb.py:1 --config.init.path=WEIGHTS  (:2, :3)
    python train.py --config configs/tsn_rgb.py:smoke      (short test run, from scratch)

Source: the authors' Caffe recipe: three segments of one frame, batch 128; rate 0.001, divided by 10
every 1500 of 3500 steps; gradient norm clipped to 40, dropout 0.8. Crops of 256, 224, 192 or 168
pixels per side at 13 positions of 256 x 340. Partial BN: all BatchNorm layers but the first keep
their statistics, scale and offset. Test: 25 snippets with 10 crops each, mean of the logits.
Initial weights: an ImageNet network, converted or from a run; `init.inflate="average"` averages its
first layer over the color channels if the number of channels differs. An "epoch" of this config is
100 steps.

Number to reach: 85.7 % (paper, split 1).
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    split, smoke = common.read_split(argument)
    config = common.default_config()
    config.model.name = "tsn_rgb"
    config.model.dtype = "bfloat16"
    config.model.partial_bn = True
    config.model.dropout_rate = 0.8
    config.init.path = "weights/imagenet.safetensors"
    config.init.leave_out = ("fc/*",)
    config.init.inflate = "average"
    config.epochs = 35.0
    config.epoch_steps = 100
    config.batch_size = 128
    config.eval_batch_size = 32
    config.augment.ratios = (1.0, 0.875, 0.75, 0.65625)
    config.augment.positions = "thirteen"
    common.use_split(config, "data/ucf101", split)
    config.data.hint = "Without data: python train.py --config configs/tsn_rgb.py:smoke runs now"
    config.optim.lr = 0.001
    config.optim.schedule = "step"
    config.optim.milestones = (15.0, 30.0)
    config.optim.weight_decay = 5e-4
    config.optim.clip_norm = 40.0
    config.optim.multipliers = (("*/bias", 2.0),)
    config.optim.no_decay = ("*/bias",)
    config.protocol.frames = 1
    config.optim.frozen = ("*/bn_*",)
    config.protocol.clips = 25
    config.protocol.crops = 10
    config.protocol.segments = 1
    config.protocol.starts = "centers"
    config.protocol.aggregation = "logits"
    if smoke:
        common.use_smoke(config)
        config.protocol.frames = 1
        config.model.dtype = "float32"
        config.model.width = 0.25
        config.model.partial_bn = False
        config.optim.frozen = ()
        config.optim.clip_norm = 0.0
    return config
