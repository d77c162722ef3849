"""Fine-tunes R(2+1)D-34 on 32 frames on Kinetics-400 from Sports-1M weights (arXiv 1711.11248).

    python train.py --config configs/r2plus1d_34_kinetics.py --config.init.path=runs/SPORTS1M
    python train.py --config configs/r2plus1d_34_kinetics.py:smoke   (short test, from scratch)

Source: Tran et al., arXiv 1711.11248, section 4.4: rate 0.001 per GPU, divided by 10 every 4 of 15
epochs of a million clips. `init.path` is a run of `r2plus1d_34_sports1m.py`, or VMZ's file with
--config.init.source=vmz-caffe2. To train from scratch (72.0 % top-1, 90.0 % top-5), set
--config.init.path="" and the rates of `r2plus1d_18_kinetics.py`.

Number to reach: 74.3 % top-1, 91.4 % top-5 (paper, Table 5, RGB).
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    config.model.name = "r2plus1d_34"
    config.model.dtype = "bfloat16"
    config.model.bn_groups = 64
    config.model.bn_momentum = 0.9
    config.model.bn_epsilon = 1e-3
    config.init.path = "weights/r2plus1d_34_sports1m"
    config.init.leave_out = ("fc/*",)
    config.epochs = 15.0
    config.epoch_steps = 488  # 1M clips
    config.batch_size = 2048
    config.eval_batch_size = 256
    config.preprocessing.frames = 32
    config.data.root = "data/kinetics400"
    config.data.hint = (
        "Without data: python train.py --config configs/r2plus1d_34_kinetics.py:smoke runs now"
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
