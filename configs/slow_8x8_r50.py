"""Trains Slow-only 8 x 8, R50, from scratch on Kinetics-400 (arXiv 1812.03982).

    python train.py --config configs/slow_8x8_r50.py --config.data.root=/data/kinetics400
    python train.py --config configs/slow_8x8_r50.py:smoke    (short test, embedded data)

Source: Feichtenhofer et al., section 4: 8 frames at stride 8 and 30 fps. Short side drawn from 256
to 320, random 224 crop, flip. SGD with momentum 0.9 and batch 1024 on 128 GPUs, with BatchNorm
statistics per GPU. Rate 1.6, half a cosine over 196 epochs; weight decay 1e-4; dropout 0.5. From
the released code: Nesterov momentum, no weight decay for BatchNorm, and a linear warm-up over 8000
steps (34 epochs) that ends at the cosine's value for that step. Test: 10 clips x 3 crops of 256,
mean of softmax.

Number to reach: 74.8 % top-1, 91.6 % top-5 (PySlowFast's model zoo).
For another batch size B, scale the rate by B / 1024 and set model.bn_groups to B / 8. Before each
test, the released code recomputes the BatchNorm statistics on 200 batches; here the test uses the
running statistics.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    common.use_slowfast(config, "slow_r50")
    config.epochs = 196.0
    config.data.hint = (
        "Without data: python train.py --config configs/slow_8x8_r50.py:smoke runs now"
    )
    config.optim.warmup_epochs = 34.0
    config.optim.weight_decay = 1e-4
    if common.is_smoke(argument):
        common.use_smoke(config)
        config.model.dtype = "float32"
        config.model.width = 0.25
    return config
