"""Trains S3D from scratch on Kinetics-400 (Xie et al., arXiv 1712.04851).

    python train.py --config configs/s3d.py --config.data.root=/data/kinetics400
    python train.py --config configs/s3d.py:smoke       (short test run on the embedded data)

The network has torchvision's form, for which weights exist. Other forms: `s3d_paper`, `s3d_slim`.

Source: paper, section 3, as quoted by others: 64 frames, short side 256, random 224 crop, flip; SGD
with momentum 0.9, 56 GPUs with 6 clips each; rate 0.1, divided by 10 after 60k and 70k of 80k
steps. Weight decay 1e-7 and dropout 0.2 are those of the released code. An "epoch" of this config
is 1000 steps. Test: one center crop of 250 frames.

Number to reach: 72.2 % top-1, 90.6 % top-5, initialized from ImageNet weights (the paper's numbers
as quoted by others).
torchvision's weights: 68.4 % and 88.1 %, with one clip of 128 frames at 15 fps.
For another batch size B, scale the rate by B / 336 and set model.bn_groups to B / 6.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    config.model.name = "s3d"
    config.model.dtype = "bfloat16"
    config.model.bn_groups = 56
    config.model.bn_momentum = 0.999
    config.epochs = 80.0
    config.epoch_steps = 1000
    config.batch_size = 336
    config.eval_batch_size = 56
    config.preprocessing.mean = (0.0, 0.0, 0.0)
    config.preprocessing.std = (1.0, 1.0, 1.0)
    config.preprocessing.width = 0
    config.preprocessing.frames = 64
    config.preprocessing.fps = 25.0
    config.preprocessing.range = (-1.0, 1.0)
    config.data.root = "data/kinetics400"
    config.data.hint = "Without data: python train.py --config configs/s3d.py:smoke runs now"
    config.optim.lr = 0.1
    config.optim.schedule = "step"
    config.optim.milestones = (60.0, 70.0)
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
