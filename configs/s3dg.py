"""Trains S3D-G from scratch on Kinetics-400 (Xie et al., arXiv 1712.04851).

    python train.py --config configs/s3dg.py --config.data.root=/data/kinetics400
    python train.py --config configs/s3dg.py:smoke       (short test run on the embedded data)

The network has the form of the authors' code. The form of the paper is `s3dg_paper`.

Source: paper, section 3, as quoted by others: 64 frames, short side 256, random 224 crop, flip; SGD
with momentum 0.9, 56 GPUs with 6 clips each; rate 0.1, divided by 10 after 60k and 70k of 80k
steps. Weight decay 1e-7 and dropout 0.2 are those of the released code. An "epoch" of this config
is 1000 steps. Test: one center crop of 250 frames.

Number to reach: 74.7 % top-1, 93.4 % top-5, initialized from ImageNet weights (the paper's numbers
as quoted by others).
For another batch size B, scale the rate by B / 336 and set model.bn_groups to B / 6.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    config.model.name = "s3dg"
    config.model.dtype = "bfloat16"
    config.model.bn_groups = 56
    config.model.bn_momentum = 0.999
    config.epochs = 80.0
    config.epoch_steps = 1000
    config.batch_size = 336
    config.eval_batch_size = 56
    config.data.root = "data/kinetics400"
    config.data.hint = "Without data: python train.py --config configs/s3dg.py:smoke runs now"
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
