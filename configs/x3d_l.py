"""X3D-L from scratch on Kinetics-400 (Feichtenhofer, arXiv 2004.04730).

    python train.py --config configs/x3d_l.py --config.data.root=/data/kinetics400
    python train.py --config configs/x3d_l.py:smoke       (runs now, on the embedded data)

Source: PySlowFast's configuration: 16 frames at stride 5 and 30 fps; the short side drawn from
356 to 446, random 312 crop, flip; SGD with Nesterov's momentum 0.9, 256 epochs, half a
cosine, linear warm-up for 35 epochs to where the cosine then is; decay 5e-5, none for BN;
dropout 0.5; rate 0.05 for a batch of 64 on 8 GPUs, each with its BN.
Test: 10 clips x 3 crops of 356, softmax averaged.

Number to reach: 77.5 % top-1 (PySlowFast's model zoo; 76.9 % on 10 center crops of 312).
With a batch of B instead of 64 scale the rate by B / 64 and set model.bn_groups to B / 8.
The released code measures BN's statistics anew on 200 batches before each test; here they are the
running ones.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    common.use_x3d(config, "x3d_l", batch_size=64, lr=0.05)
    config.epochs = 256.0
    config.augment.scales = (1.0, 446 / 356)
    config.protocol.crop = 356
    config.data.hint = "Without data: python train.py --config configs/x3d_l.py:smoke runs now"
    if common.is_smoke(argument):
        common.use_smoke(config)
        config.model.dtype = "float32"
        config.model.width = 0.5
        config.preprocessing.frames = 8
    return config
