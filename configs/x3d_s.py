"""Trains X3D-S from scratch on Kinetics-400 (Feichtenhofer, arXiv 2004.04730).

    python train.py --config configs/x3d_s.py --config.data.root=/data/kinetics400
    python train.py --config configs/x3d_s.py:smoke       (short test run on the embedded data)

Source: PySlowFast's config: 13 frames at stride 6 and 30 fps; short side drawn from 182 to 228,
random 160 crop, flip. SGD with Nesterov momentum 0.9; batch 128 on 8 GPUs, with BatchNorm
statistics per GPU. Rate 0.1, half a cosine over 300 epochs; the linear warm-up over 35 epochs ends
at the cosine's value for that step. Weight decay 5e-5, none for BatchNorm; dropout 0.5. Test: 10
clips x 3 crops of 182, mean of softmax.

Number to reach: 73.5 % top-1 (PySlowFast's model zoo); 73.1 % with 10 center crops of 160.
For another batch size B, scale the rate by B / 128 and set model.bn_groups to B / 16. Before each
test, the released code recomputes the BatchNorm statistics on 200 batches; here the test uses the
running statistics.
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
