"""Trains R(2+1)D-18 on 16 frames, from scratch on Kinetics-400 (arXiv 1711.11248).

    python train.py --config configs/r2plus1d_18_kinetics.py --config.data.root=/data/kinetics400
    python train.py --config configs/r2plus1d_18_kinetics.py:smoke      (short test run)

Source: arXiv 1711.11248, section 4.1, and VMZ's training script: frames scaled to 128 x 171, random
112 crop, flip, 16 consecutive frames; synchronous SGD on 64 GPUs with 32 clips each (BatchNorm
statistics over 32 clips); rate 0.01 per GPU. An epoch is a million clips. The warm-up takes 10 of
45 epochs; then the rate is divided by 10 every 10 epochs. From the script: Nesterov momentum, and
weight decay 1e-4 except for biases and BatchNorm shifts. Test: 10 clips, center crop, mean of
softmax.

Number to reach: 68.0 % video top-1, 56.8 % clip top-1 (paper, Table 2, validation set).
For one host with 8 GPUs: --config.batch_size=256 --config.optim.lr=0.08 --config.epoch_steps=3906
--config.model.bn_groups=8.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    config.model.name = "r2plus1d_18"
    config.model.dtype = "bfloat16"
    config.model.bn_groups = 64
    config.model.bn_momentum = 0.9
    config.model.bn_epsilon = 1e-3
    config.epochs = 45.0
    config.epoch_steps = 488  # 1M clips
    config.batch_size = 2048
    config.eval_batch_size = 256
    config.data.root = "data/kinetics400"
    config.data.hint = (
        "Without data: python train.py --config configs/r2plus1d_18_kinetics.py:smoke runs now"
    )
    config.optim.lr = 0.64
    config.optim.schedule = "step"
    config.optim.milestones = (20.0, 30.0, 40.0)
    config.optim.warmup_epochs = 10.0
    config.optim.nesterov = True
    config.optim.weight_decay = 1e-4
    config.optim.no_decay = ("*/bias",)
    config.protocol.clips = 10
    if common.is_smoke(argument):
        common.use_smoke(config)
        config.model.dtype = "float32"
        config.model.width = 0.125
    return config
