"""Trains 3D ResNet-34 (shortcut A) from scratch on Kinetics-400 (arXiv 1708.07632).

    python train.py --config configs/resnet3d_kinetics.py --config.data.root=/data/kinetics400
    python train.py --config configs/resnet3d_kinetics.py:smoke   (short test run)

Source: arXiv 1708.07632, section 3.2: 16 frames from a uniform start, short videos looped. A square
crop with 2^0, 2^-1/4, ... or 2^-1 times the short side, in a corner or the center, is scaled to
112; flip; the mean of the uint8 values is subtracted. SGD with batches of 256 on 4 GPUs; rate 0.1,
divided by 10 when the validation loss saturates; momentum 0.9, weight decay 0.001. From the
released code: patience 10, and dampening 0.9, which makes the effective rate 0.01. arXiv 1711.09577
trains the deeper networks the same way: --config.model.name=resnet50_3d_b, resnext101_3d, ...

Number to reach: 58.0 % top-1, 81.3 % top-5 (paper, validation set), averaged over all windows of 16
frames that do not overlap. Here the test uses 10 evenly spaced windows.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    config.model.name = "resnet34_3d_a"
    config.model.dtype = "bfloat16"
    config.model.bn_groups = 4  # one group per GPU
    config.model.bn_momentum = 0.9
    config.epochs = 200.0
    config.batch_size = 256
    config.eval_batch_size = 128
    config.preprocessing.mean = (110.6367, 103.1607, 96.2902)
    config.augment.scales = (1.0, 2.0)
    config.augment.scale_steps = 5
    config.augment.positions = "five"
    config.data.root = "data/kinetics400"
    config.data.hint = (
        "Without data: python train.py --config configs/resnet3d_kinetics.py:smoke runs now"
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
