"""Trains I3D on optical flow, from scratch on Kinetics-400 (arXiv 1705.07750).

    python -m jaxvideo flow /data/kinetics400                   (once: TV-L1, beside the videos)
    python train.py --config configs/i3d_flow.py --config.data.root=/data/kinetics400
    python train.py --config configs/i3d_flow.py:smoke     (short test run on the embedded data)

Source: kinetics-i3d, README (Carreira and Zisserman): as `i3d_rgb.py`, on TV-L1 flow at 25 fps and
short side 256, clipped to 20 pixels. Training is longer: rate 0.1, then 0.01 after 97k steps and
0.001 after 104.5k; restarted with 0.1 at 115k, 0.01 at 140k and 0.001 at 150k; 155k steps. An
"epoch" of this config is 1000 steps. Mirrored clips have the sign of their horizontal flow changed.
`--config.preprocessing.flow=tvl1` computes flow on the device instead of reading stored flow.

Number to reach: 61.5 % top-1, 83.4 % top-5 (paper, Table 3, Kinetics test set, from scratch).
For another batch size B, scale the rate by B / 384 and set model.bn_groups to B / 6.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    config.model.name = "i3d_flow"
    config.model.dtype = "bfloat16"
    config.model.dropout_rate = 0.5
    config.model.bn_groups = 64
    config.model.bn_momentum = 0.999
    config.epochs = 155.0
    config.epoch_steps = 1000
    config.batch_size = 384
    config.eval_batch_size = 64
    config.preprocessing.flow = "stored"
    config.data.root = "data/kinetics400"
    config.data.hint = "Without data: python train.py --config configs/i3d_flow.py:smoke runs now"
    config.optim.lr = 0.1
    config.optim.schedule = "step"
    config.optim.milestones = (97.0, 104.5, 115.0, 140.0, 150.0)
    config.optim.factors = (0.1, 0.01, 1.0, 0.1, 0.01)
    config.optim.weight_decay = 1e-7
    config.protocol.clips = 1
    config.protocol.frames = 250
    config.protocol.aggregation = "logits"
    if common.is_smoke(argument):
        common.use_smoke(config)
        config.model.dtype = "float32"
        config.model.width = 0.25
        config.preprocessing.frames = 16
        config.preprocessing.flow = "dis"
    return config
