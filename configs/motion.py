"""A small R(2+1)D learns eight motions that no single frame tells, in a few minutes on a CPU.

    python train.py --config configs/motion.py

The data set is made on first use (`jaxvideo/data/motion.py`). Number to reach: 95 % video
top-1; a network blind to the order of frames cannot pass 50 %, by construction, and a
per-frame one stays under 30 %: `--config.model.name=f_r2d_18`. `configs/motion.py:c3d` is for
C3D and the nets of its study, with BN after every layer: without, they need longer than this.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    if argument not in (None, "", "c3d"):
        raise ValueError(f"{argument!r} after the config's colon: only 'c3d' is known")
    config = common.default_config()
    common.use_motion(config, train_videos=1200, val_videos=320)
    config.model.name = "r2plus1d_18"
    config.model.width = 8
    config.model.bn_epsilon = 1e-3
    config.epochs = 9.0
    config.batch_size = 32
    config.preprocessing.frames = 8
    config.preprocessing.stride = 3
    config.preprocessing.size = 56
    config.preprocessing.crop = 48
    config.preprocessing.mean = (0.45, 0.45, 0.45)
    config.preprocessing.std = (0.225, 0.225, 0.225)
    config.optim.lr = 0.05
    # With half an epoch of warm-up at this rate nothing was learned in the first two epochs.
    config.optim.warmup_epochs = 2.0
    config.optim.nesterov = True
    config.optim.weight_decay = 1e-4
    config.protocol.clips = 2
    if argument == "c3d":
        config.model.name = "c3d_depth3"
        config.model.norm = "all"
    return config
