"""Trains a small R(2+1)D to recognize eight motions, in a few minutes on a CPU.

    python train.py --config configs/motion.py
    python train.py --config configs/motion.py:f_r2d_18         (another network)

No single frame shows the motion. The data set is rendered on first use (`jaxvideo/data/motion`), so
no download is needed. `RECIPES` lists networks that need other values: more epochs or another rate,
or another kind of clip.

Source: all numbers were chosen for this library.

Number to reach: 95 % video top-1. A network that ignores the order of frames cannot exceed 50 %, by
construction of the data. A per-frame network stays under 30 %: `configs/motion.py:f_r2d_18`.
"""

import ml_collections

from configs import common

# Inception's BatchNorm momentum, 0.999, is too large for such short runs.
_INCEPTION = {"model.width": 0.125, "model.bn_momentum": 0.9}
_LONG = {"preprocessing.frames": 16, "preprocessing.stride": 1}
# Flow in units of pixels, because motions are only one or two pixels per frame.
_FLOW = {
    "preprocessing.modality": "flow",
    "preprocessing.flow": "dis",
    "preprocessing.range": (-20.0, 20.0),
    "preprocessing.mean": (0.0, 0.0),
    "preprocessing.std": (1.0, 1.0),
}
# Training: three segments of one frame or five differences. Test: single snippets.
_TSN = {
    "model.width": 0.25,
    "model.dropout_rate": 0.2,
    "preprocessing.segments": 3,
    "preprocessing.stride": 1,
    "protocol.clips": 5,
    "protocol.segments": 1,
    "protocol.starts": "centers",
    "protocol.aggregation": "logits",
}

#: Config keys that a network needs in addition to its name.
RECIPES = {
    # Without BatchNorm these need more epochs; with it, `c3d` does not learn at rate 0.05.
    "c3d": {"model.norm": "all", "optim.lr": 0.01},
    "c3d_depth1": {"model.norm": "all"},
    "c3d_depth3": {"model.norm": "all"},
    # Pooling reduces 8 frames to one in the third stage (13 to 21 % top-1 after nine epochs).
    "p3d_63": {
        "preprocessing.frames": 16,
        "preprocessing.stride": 1,
        "model.dropout_rate": 0.0,
        "optim.lr": 0.02,
        "epochs": 24.0,
    },
    "i3d_rgb": {**_INCEPTION, **_LONG},
    "i3d_flow": {**_INCEPTION, **_LONG, **_FLOW},
    "s3dg": {**_INCEPTION, **_LONG},
    "convnet_lstm": {
        "model.width": 0.25,
        "model.bn_momentum": 0.9,
        "optim.rule": "adam",
        "optim.nesterov": False,
        "optim.lr": 2e-3,
        "epochs": 27.0,
    },
    # At rate 0.05 the losses of Slow-only and CSN diverge; that of Slow-only also at 0.02.
    "slowfast_r50": {
        **_LONG,
        "model.width": 0.5,
        "model.dropout_rate": 0.2,
        "optim.lr": 0.02,
    },
    "slow_r50": {
        "model.width": 0.25,
        "model.dropout_rate": 0.2,
        "optim.rule": "adam",
        "optim.nesterov": False,
        "optim.lr": 1e-3,
        "epochs": 12.0,
    },
    "fast_r50": {**_LONG, "model.width": 1.0, "model.dropout_rate": 0.2},
    "x3d_xs": {"model.width": 0.5, "model.dropout_rate": 0.2},
    "csn_r50": {"model.width": 0.25, "optim.lr": 0.02, "epochs": 18.0},
    "t3d_121": {**_LONG, "model.width": 0.25},
    "tsn_rgb": {**_TSN, "preprocessing.frames": 3, "protocol.frames": 1},
    "tsn_rgb_diff": {
        **_TSN,
        "preprocessing.modality": "rgb_diff",
        "preprocessing.frames": 15,
        "protocol.frames": 5,
    },
    "two_stream_temporal": {
        **_FLOW,
        "model.width": 0.125,
        "model.dropout_rate": 0.5,
        "model.bn_epsilon": None,  # the network has no BatchNorm
        "preprocessing.frames": 10,
        "preprocessing.stride": 1,
        "optim.lr": 0.01,
    },
    "hidden_two_stream": {
        "model.width": 0.125,
        "model.dropout_rate": 0.2,
        "model.bn_epsilon": None,
        # Otherwise these losses are ten times as large as the classification loss.
        "model.loss_weights": (0.1, 0.1, 0.01),
        "preprocessing.frames": 11,
        "preprocessing.stride": 2,
        "preprocessing.std": (1.0, 1.0, 1.0),
        "optim.rule": "adam",
        "optim.nesterov": False,
        "optim.lr": 1e-3,
        "epochs": 27.0,
    },
}


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    common.use_motion(config, train_videos=1200, val_videos=320)
    config.model.name = argument or "r2plus1d_18"
    config.model.width = 0.125
    config.model.bn_groups = 1
    config.model.bn_epsilon = 1e-3
    config.epochs = 9.0
    config.batch_size = 32
    config.preprocessing.frames = 8
    config.preprocessing.stride = 3
    config.preprocessing.fps = 0.0
    config.preprocessing.size = 56
    config.preprocessing.width = 0
    config.preprocessing.crop = 48
    config.preprocessing.order = "RGB"
    config.preprocessing.range = (0.0, 1.0)
    config.preprocessing.mean = (0.45, 0.45, 0.45)
    config.preprocessing.std = (0.225, 0.225, 0.225)
    config.optim.lr = 0.05
    # With half an epoch of warm-up, the loss does not fall in the first two epochs.
    config.optim.warmup_epochs = 2.0
    config.optim.nesterov = True
    config.optim.weight_decay = 1e-4
    config.protocol.clips = 2
    with config.ignore_type():  # None deletes a key below
        config.update_from_flattened_dict(RECIPES.get(config.model.name, {}))
    if config.model.bn_epsilon is None:
        del config.model.bn_epsilon
        del config.model.bn_groups
    return config
