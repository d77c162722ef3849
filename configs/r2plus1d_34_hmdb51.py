"""Fine-tunes R(2+1)D-34 on 32 frames on HMDB51 (Tran et al., arXiv 1711.11248).

    python train.py --config configs/r2plus1d_34_hmdb51.py:1 --config.init.path=R34.pkl  (:2, :3)
    python -m jaxvideo average runs/r2plus1d_34_hmdb51-*              (mean of the three splits)
    python train.py --config configs/r2plus1d_34_hmdb51.py:smoke      (short test, from scratch)

Source: VMZ's script: 8 GPUs with 4 clips each; rate 0.0002 per GPU, divided by 10 every 2 of 8
epochs of 40,000 clips; weight decay 0.005. `init.source` is the library that wrote the weights:
"vmz-caffe2" for VMZ's pickles, "vmz" for torch files, "" for a run directory or converted weights.

Number to reach: 74.5 % (paper, Table 6: RGB, Kinetics weights, mean of three splits).
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    split, smoke = common.read_split(argument)
    config = common.default_config()
    config.model.name = "r2plus1d_34"
    config.model.dtype = "bfloat16"
    config.model.bn_groups = 8
    config.model.bn_momentum = 0.9
    config.model.bn_epsilon = 1e-3
    config.init.path = "weights/r2plus1d_34_kinetics.pkl"
    config.init.source = "vmz-caffe2"
    config.init.leave_out = ("fc/*",)
    config.epochs = 8.0
    config.epoch_steps = 1250  # 40,000 clips
    config.batch_size = 32
    config.eval_batch_size = 32
    config.preprocessing.frames = 32
    common.use_split(config, "data/hmdb51", split)
    config.data.hint = (
        "Without data: python train.py --config configs/r2plus1d_34_hmdb51.py:smoke runs now"
    )
    config.optim.lr = 0.0016
    config.optim.schedule = "step"
    config.optim.milestones = (2.0, 4.0, 6.0)
    config.optim.weight_decay = 5e-3
    config.optim.nesterov = True
    config.optim.no_decay = ("*/bias",)
    config.protocol.clips = 10
    if smoke:
        common.use_smoke(config)
        config.model.dtype = "float32"
        config.model.width = 0.125
    return config
