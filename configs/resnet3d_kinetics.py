"""3D ResNet-34 (shortcut A) from scratch on Kinetics-400 (Hara et al., arXiv 1708.07632).

    python train.py --config configs/resnet3d_kinetics.py --config.data.root=/data/kinetics400
    python train.py --config configs/resnet3d_kinetics.py:smoke   (runs now)

Source: paper, section 3.2: 16 frames from a uniform start, short videos looped; a square of the
short side times 2^0, 2^-1/4, ..., 2^-1 from a corner or the center, scaled to 112; flip; bytes
less the mean; SGD, batches of 256 over 4 GPUs, 0.1 divided by 10 when the validation loss
saturates, momentum 0.9, decay 0.001. Patience 10 and dampening 0.9 (which makes the rate an
effective 0.01) are the released code's. arXiv 1711.09577 trains the deeper ones alike:
--config.model.name=resnet50_3d_b, resnext101_3d, ...

Number to reach: 58.0 % top-1, 81.3 % top-5 (paper, validation set), averaged over all
non-overlapping windows of 16 frames; here 10 evenly spaced ones are tested.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    config.model.name = "resnet34_3d_a"
    config.model.dtype = "bfloat16"
    config.model.bn_groups = 4  # GPUs
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
    config.optim.patience = 11  # torch's 10
    config.optim.weight_decay = 1e-3
    config.optim.dampening = 0.9
    config.protocol.clips = 10
    if common.is_smoke(argument):
        common.use_smoke(config)
        config.model.dtype = "float32"
        config.model.width = 0.125
        config.optim.dampening = 0.0
    return config
