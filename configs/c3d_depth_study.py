"""Trains the five-layer networks of C3D's study of temporal kernel depths on UCF101 split 1.

    python train.py --config configs/c3d_depth_study.py --config.model.name=c3d_depth1
    python train.py --config configs/c3d_depth_study.py:smoke     (short test run)

Source: arXiv 1412.0767, section 3.1: frames scaled to 128 x 171, random 112 crop, 16 frames; SGD
from scratch with batches of 30; rate 0.003, divided by 10 every 4 of 16 epochs. Momentum and the
weight decay of 0.005 are those of the authors' solver, whose schedule differs (divided by 10 every
20,000 of 60,000 steps). The paper splits each video into all clips that do not overlap. Here an
epoch draws 11 clips of each video, which is about the same number.

Networks: c3d_depth1, c3d_depth3, c3d_depth5, c3d_depth7, c3d_increasing and c3d_decreasing; and the
resolution study, c3d_net64 and c3d_net256. For c3d_net64 set --config.preprocessing.size=64,
.width=85 and .crop=56; for c3d_net256 set 256, 342 and 224.

Number to reach: the paper shows curves only (Figure 2). Depth 3 is best, depth 1 clearly worst.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    config.model.name = "c3d_depth3"
    config.model.bn_groups = 1
    config.model.bn_momentum = 0.9
    config.epochs = 16.0
    config.batch_size = 30
    config.eval_batch_size = 30
    config.augment.views_per_video = 11
    common.use_split(config, "data/ucf101", 1)
    config.data.hint = (
        "Without data: python train.py --config configs/c3d_depth_study.py:smoke runs now"
    )
    config.optim.lr = 0.003
    config.optim.schedule = "step"
    config.optim.milestones = (4.0, 8.0, 12.0)
    config.optim.weight_decay = 5e-3
    # As in Caffe, biases have twice the rate and no weight decay.
    config.optim.multipliers = (("*/bias", 2.0),)
    config.optim.no_decay = ("*/bias",)
    config.protocol.clips = 1
    if common.is_smoke(argument):
        common.use_smoke(config)
        config.model.width = 0.125
        config.optim.lr = 0.003
    return config
