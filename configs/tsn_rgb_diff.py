"""Trains TSN on RGB differences on UCF101 (Wang et al., arXiv 1608.00859).

    python train.py --config configs/tsn_rgb_diff.py:1 --config.init.path=WEIGHTS  (:2, :3)
    python train.py --config configs/tsn_rgb_diff.py:smoke      (short test run, from scratch)

Source: the recipe of tsn-pytorch: segments of five differences, batch 128; rate 0.001, divided by
10 after 80 and 160 of 180 passes over the data (9537 videos of split 1, 75 steps each); gradient
norm clipped to 40, dropout 0.8. That recipe has seven segments: --config.preprocessing.segments=7
--config.preprocessing.frames=35. Crops of 256, 224 or 192 pixels per side at 13 positions of 256 x
340. Partial BN: all BatchNorm layers but the first keep their statistics, scale and offset. Test:
25 snippets with 10 crops each, mean of the logits. Initial weights: an ImageNet network, converted
or from a run; `init.inflate="average"` averages its first layer over the color channels if the
number of channels differs. An "epoch" of this config is 100 steps.

Number to reach: 83.8 % (paper, split 1).
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    split, smoke = common.read_split(argument)
    config = common.default_config()
    config.model.name = "tsn_rgb_diff"
    config.model.dtype = "bfloat16"
    config.model.partial_bn = True
    config.model.dropout_rate = 0.8
    config.init.path = "weights/imagenet.safetensors"
    config.init.leave_out = ("fc/*",)
    config.init.inflate = "average"
    config.epochs = 135.0
    config.epoch_steps = 100
    config.batch_size = 128
    config.eval_batch_size = 32
    config.preprocessing.mean = (0.0, 0.0, 0.0)
    config.augment.ratios = (1.0, 0.875, 0.75)
    config.augment.positions = "thirteen"
    common.use_split(config, "data/ucf101", split)
    config.data.hint = (
        "Without data: python train.py --config configs/tsn_rgb_diff.py:smoke runs now"
    )
    config.optim.lr = 0.001
    config.optim.schedule = "step"
    config.optim.milestones = (60.0, 120.0)
    config.optim.weight_decay = 5e-4
    config.optim.clip_norm = 40.0
    config.optim.multipliers = (("*/bias", 2.0),)
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
        config.preprocessing.std = (16.0, 16.0, 16.0)
        config.protocol.frames = 5
        config.model.dtype = "float32"
        config.model.width = 0.25
        config.model.partial_bn = False
        config.optim.frozen = ()
        config.optim.clip_norm = 0.0
    return config
