"""Fine-tunes R(2+1)D-18 on 32 frames of Kinetics-400 from an 8-frame network (arXiv 1711.11248).

    python train.py --config configs/r2plus1d_18_kinetics.py --config.preprocessing.frames=8
    python train.py --config configs/r2plus1d_18_32f_from_8f.py --config.init.path=runs/THE_ABOVE
    python train.py --config configs/r2plus1d_18_32f_from_8f.py:smoke   (short test, from scratch)

Source: arXiv 1711.11248, Table 3. It takes a third of the time of training on 32 frames from
scratch. The paper does not give the schedule; here it is that of the fine-tuning from Sports-1M.

Number to reach: 59.8 % clip top-1, 68.0 % video top-1 (8 frames alone: 52.8 %, 64.8 %).
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    config.model.name = "r2plus1d_18"
    config.model.dtype = "bfloat16"
    config.model.bn_groups = 64
    config.model.bn_momentum = 0.9
    config.model.bn_epsilon = 1e-3
    config.init.path = "runs/r2plus1d_18_kinetics"
    config.epochs = 15.0
    config.epoch_steps = 488  # 1M clips
    config.batch_size = 2048
    config.eval_batch_size = 256
    config.preprocessing.frames = 32
    config.data.root = "data/kinetics400"
    config.data.hint = (
        "Without data: python train.py --config configs/r2plus1d_18_32f_from_8f.py:smoke runs now"
    )
    config.optim.lr = 0.064
    config.optim.schedule = "step"
    config.optim.milestones = (4.0, 8.0, 12.0)
    config.optim.weight_decay = 1e-4
    config.optim.nesterov = True
    config.optim.no_decay = ("*/bias",)
    config.protocol.clips = 10
    if common.is_smoke(argument):
        common.use_smoke(config)
        config.model.dtype = "float32"
        config.model.width = 0.125
    return config
