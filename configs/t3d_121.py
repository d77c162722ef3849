"""Trains T3D-121 from scratch on Kinetics-400 (Diba et al., arXiv 1711.08200).

    python train.py --config configs/t3d_121.py --config.data.root=/data/kinetics400
    python train.py --config configs/t3d_121.py:smoke     (short test run on the embedded data)

Source: the paper, as quoted by others: 32 frames at stride 2, short side 256, 224 crops from the
corners and the center, flip, mean subtraction (the mean is not specified); SGD with Nesterov
momentum 0.9, batch 64, weight decay 1e-4; rate 0.1, divided by 10 when the validation loss
saturates; 200 epochs. The patience was chosen for this library. Test in the paper: all clips of 32
frames that do not overlap, center crop. Here: ten evenly spaced clips.

Number to reach: 62.2 % top-1 (T3D of unknown depth; the paper's number as quoted by others).
The network has the form of the released code. The form of the paper is --config.model.ttl=instead
--config.model.ttl_depths="(6,4,4)". `configs/t3d_transfer.py` trains initial weights with an image
network as teacher.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    config.model.name = "t3d_121"
    config.model.dtype = "bfloat16"
    config.model.ttl = "before"
    config.model.ttl_depths = (4, 4, 4)
    config.model.bn_groups = 1
    config.model.bn_momentum = 0.9
    config.epochs = 200.0
    config.batch_size = 64
    config.eval_batch_size = 64
    config.augment.positions = "five"
    config.data.root = "data/kinetics400"
    config.data.hint = "Without data: python train.py --config configs/t3d_121.py:smoke runs now"
    config.optim.lr = 0.1
    config.optim.schedule = "plateau"
    config.optim.nesterov = True
    config.optim.weight_decay = 1e-4
    config.protocol.clips = 10
    if common.is_smoke(argument):
        common.use_smoke(config)
        config.model.dtype = "float32"
        config.model.width = 0.125
        config.preprocessing.frames = 8
    return config
