"""Trains C3D from scratch on Sports-1M (Tran et al., arXiv 1412.0767).

    python train.py --config configs/c3d_sports1m.py --config.data.root=/data/sports1m
    python train.py --config configs/c3d_sports1m.py:smoke      (short test run)

Source: paper, section 3.3, and the authors' prototxts: five random clips of each training video,
frames scaled to 128 x 171, random 112 crop, 16 frames, flip; SGD with batches of 30; rate 0.003,
halved every 150,000 of 1.9 million steps. The paper gives neither momentum nor weight decay; those
used here are the ones of the authors' UCF101 solver (decay 0.0005). Test: 10 clips, center crop,
mean of softmax. The clips are evenly spaced; the authors drew them at random.

Number to reach: 44.9 % clip top-1, 60.0 % video top-1, 84.4 % video top-5 (paper, Table 2).
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    config.model.name = "c3d_sports1m"
    config.model.bn_groups = 1
    config.model.bn_momentum = 0.9
    config.epochs = 190.0
    config.epoch_steps = 10_000
    config.batch_size = 30
    config.eval_batch_size = 30
    config.augment.views_per_video = 5
    config.data.root = "data/sports1m"
    config.data.hint = (
        "Without data: python train.py --config configs/c3d_sports1m.py:smoke runs now"
    )
    config.optim.lr = 0.003
    config.optim.schedule = "step"
    config.optim.milestones = tuple(15.0 * k for k in range(1, 13))
    config.optim.gamma = 0.5
    config.optim.weight_decay = 5e-4
    # As in Caffe, biases have twice the rate and no weight decay.
    config.optim.multipliers = (("*/bias", 2.0),)
    config.optim.no_decay = ("*/bias",)
    config.protocol.clips = 10
    if common.is_smoke(argument):
        common.use_smoke(config)
        config.model.width = 0.125
        config.optim.lr = 0.003
    return config
