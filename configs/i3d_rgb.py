"""Trains I3D on RGB, from scratch on Kinetics-400 (Carreira and Zisserman, arXiv 1705.07750).

    python train.py --config configs/i3d_rgb.py --config.data.root=/data/kinetics400
    python train.py --config configs/i3d_rgb.py:smoke      (short test run on the embedded data)

Source: kinetics-i3d, README, "Training": 64 frames at 25 fps, short side 256, random 224 crop,
flip; SGD with momentum 0.9, batch 6 on each of 64 replicas (BatchNorm statistics over 6 clips);
rate 0.1, divided by 10 after 97k and 108k of 115k steps; weight decay 1e-7; dropout 0.5. An "epoch"
of this config is 1000 steps. Test: one center crop of 250 frames, the whole ten-second video.

Number to reach: 68.4 % top-1, 88.0 % top-5 (paper, Table 3, Kinetics test set, from scratch).
For another batch size B, scale the rate by B / 384 and set model.bn_groups to B / 6.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    config.model.name = "i3d_rgb"
    config.model.dtype = "bfloat16"
    config.model.dropout_rate = 0.5
    config.model.bn_groups = 64
    config.model.bn_momentum = 0.999
    config.epochs = 115.0
    config.epoch_steps = 1000
    config.batch_size = 384
    config.eval_batch_size = 64
    config.data.root = "data/kinetics400"
    config.data.hint = "Without data: python train.py --config configs/i3d_rgb.py:smoke runs now"
    config.optim.lr = 0.1
    config.optim.schedule = "step"
    config.optim.milestones = (97.0, 108.0)
    config.optim.weight_decay = 1e-7
    config.protocol.clips = 1
    config.protocol.frames = 250
    config.protocol.aggregation = "logits"
    if common.is_smoke(argument):
        common.use_smoke(config)
        config.model.dtype = "float32"
        config.model.width = 0.25
        config.preprocessing.frames = 16
    return config
