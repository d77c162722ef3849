"""Trains R(2+1)D-34 on 32 frames, from scratch on Sports-1M (Tran et al., arXiv 1711.11248).

    python train.py --config configs/r2plus1d_34_sports1m.py --config.data.root=/data/sports1m
    python train.py --config configs/r2plus1d_34_sports1m.py:smoke   (short test run)

Source: paper, section 4.3, with the schedule of section 4.1, see `r2plus1d_18_kinetics.py`. For the
8-frame network set --config.preprocessing.frames=8. Test: 100 clips (with 20 clips the accuracy is
half a point lower), center crop, mean of softmax.

Number to reach: 57.0 % clip top-1, 73.0 % video top-1, 91.5 % video top-5 (paper, Table 4).
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    config.model.name = "r2plus1d_34"
    config.model.dtype = "bfloat16"
    config.model.bn_groups = 64
    config.model.bn_momentum = 0.9
    config.model.bn_epsilon = 1e-3
    config.epochs = 45.0
    config.epoch_steps = 488  # 1M clips
    config.batch_size = 2048
    config.eval_batch_size = 256
    config.preprocessing.frames = 32
    config.data.root = "data/sports1m"
    config.data.hint = (
        "Without data: python train.py --config configs/r2plus1d_34_sports1m.py:smoke runs now"
    )
    config.optim.lr = 0.64
    config.optim.schedule = "step"
    config.optim.milestones = (20.0, 30.0, 40.0)
    config.optim.warmup_epochs = 10.0
    config.optim.weight_decay = 1e-4
    config.optim.nesterov = True
    config.optim.no_decay = ("*/bias",)
    config.protocol.clips = 100
    if common.is_smoke(argument):
        common.use_smoke(config)
        config.model.dtype = "float32"
        config.model.width = 0.125
    return config
