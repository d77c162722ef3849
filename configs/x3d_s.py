"""X3D-S from scratch on Kinetics-400 (Feichtenhofer, arXiv 2004.04730).

    python train.py --config configs/x3d_s.py --config.data.root=/data/kinetics400
    python train.py --config configs/x3d_s.py:smoke       (runs now, on the embedded data)

Source: PySlowFast's configuration: 13 frames at stride 6 and 30 fps; the short side drawn from
182 to 228, random 160 crop, flip; SGD with Nesterov's momentum 0.9, 300 epochs, half a
cosine, linear warm-up for 35 epochs to where the cosine then is; decay 5e-5, none for BN;
dropout 0.5; rate 0.1 for a batch of 128 on 8 GPUs, each with its BN.
Test: 10 clips x 3 crops of 182, softmax averaged.

Number to reach: 73.5 % top-1 (PySlowFast's model zoo; 73.1 % on 10 center crops of 160).
With a batch of B instead of 128 scale the rate by B / 128 and set model.bn_groups to B / 16.
The released code measures BN's statistics anew on 200 batches before each test; here they are the
running ones.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    common.use_x3d(config, "x3d_s")
    config.augment.scales = (1.0, 228 / 182)
    config.protocol.crop = 182
    config.data.hint = "Without data: python train.py --config configs/x3d_s.py:smoke runs now"
    if common.is_smoke(argument):
        common.use_smoke(config)
        config.model.dtype = "float32"
        config.model.width = 0.5
        config.preprocessing.frames = 8
    return config
