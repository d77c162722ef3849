"""Trains X3D-L from scratch on Kinetics-400 (Feichtenhofer, arXiv 2004.04730).

    python train.py --config configs/x3d_l.py --config.data.root=/data/kinetics400
    python train.py --config configs/x3d_l.py:smoke       (short test run on the embedded data)

Source: PySlowFast's config: 16 frames at stride 5 and 30 fps; short side drawn from 356 to 446,
random 312 crop, flip. SGD with Nesterov momentum 0.9; batch 64 on 8 GPUs, with BatchNorm statistics
per GPU. Rate 0.05, half a cosine over 256 epochs; the linear warm-up over 35 epochs ends at the
cosine's value for that step. Weight decay 5e-5, none for BatchNorm; dropout 0.5. Test: 10 clips x 3
crops of 356, mean of softmax.

Number to reach: 77.5 % top-1 (PySlowFast's model zoo); 76.9 % with 10 center crops of 312.
For another batch size B, scale the rate by B / 64 and set model.bn_groups to B / 8. Before each
test, the released code recomputes the BatchNorm statistics on 200 batches; here the test uses the
running statistics.
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
