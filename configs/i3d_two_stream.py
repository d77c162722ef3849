"""Tests Two-Stream I3D: adds the logits of two trained networks (arXiv 1705.07750).

    python train.py --config configs/i3d_two_stream.py --config.data.root=/data/kinetics400 \\
      --config.init.parts.rgb=runs/RGB --config.init.parts.flow=runs/FLOW

`parts` are run directories of `i3d_rgb.py` and `i3d_flow.py`, or converted weights. Nothing is
trained.

Source: kinetics-i3d, `evaluate_sample.py`: softmax of the sum of both logits. (The paper describes
an average of predictions.) Test: one center crop of 250 frames.

Number to reach: 71.6 % top-1, 90.0 % top-5 (paper, Table 3, Kinetics test set, from scratch).
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    config.model.name = "i3d_two_stream"
    config.model.dtype = "bfloat16"
    config.init.parts = {"rgb": "runs/i3d_rgb", "flow": "runs/i3d_flow"}
    config.epochs = 0.0
    config.batch_size = 16
    config.eval_batch_size = 16
    config.preprocessing.mean = (0.0,) * 5
    config.preprocessing.std = (1.0,) * 5
    config.preprocessing.flow = "stored"
    config.data.root = "data/kinetics400"
    config.optim.lr = 0.1
    config.protocol.clips = 1
    config.protocol.frames = 250
    config.protocol.aggregation = "logits"
    if common.is_smoke(argument):
        common.use_smoke(config)
        config.model.dtype = "float32"
        config.model.width = 0.125
    return config
