"""Trains 3D ResNet-18 (shortcut A) from scratch on ActivityNet (Hara et al., arXiv 1708.07632).

    python train.py --config configs/resnet3d_activitynet.py --config.data.root=/data/activitynet
    python train.py --config configs/resnet3d_activitynet.py:smoke   (short test run)

Source: as `resnet3d_kinetics.py`, on trimmed activity instances (one file each). ActivityNet's mean
and the batch size of 128 are those of the released code.

Number to reach: none. The paper shows curves only and reports that the network overfits here.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    config.model.name = "resnet18_3d_a"
    config.model.dtype = "bfloat16"
    config.model.bn_groups = 4  # one group per GPU
    config.model.bn_momentum = 0.9
    config.epochs = 200.0
    config.batch_size = 128
    config.eval_batch_size = 128
    config.augment.scales = (1.0, 2.0)
    config.augment.scale_steps = 5
    config.augment.positions = "five"
    config.data.root = "data/activitynet"
    config.data.hint = (
        "Without data: python train.py --config configs/resnet3d_activitynet.py:smoke runs now"
    )
    config.optim.lr = 0.1
    config.optim.schedule = "plateau"
    config.optim.patience = 11  # equals torch's patience of 10
    config.optim.weight_decay = 1e-3
    config.optim.dampening = 0.9
    config.protocol.clips = 10
    if common.is_smoke(argument):
        common.use_smoke(config)
        config.model.dtype = "float32"
        config.model.width = 0.125
        config.optim.dampening = 0.0
    return config
