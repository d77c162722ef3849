"""Fine-tunes a network, whose weights exist, on one's own folder of videos.

    python train.py --config configs/finetune.py --config.data.root=DIR --config.init.path=WEIGHTS
    python train.py --config configs/finetune.py:resnet50_3d_b --config.data.root=DIR ...
    python train.py --config configs/finetune.py:smoke         (runs now, on the embedded data)

The network stands after the colon, r2plus1d_18 without one. DIR is a folder per class, or has
annotations in any form that the library knows: it finds out. WEIGHTS is a run's folder, what
`python -m jaxvideo convert` wrote, or with `--config.init.source=LIBRARY` another library's file;
jaxvideo's own weights bring the arguments of their network. The classifier starts fresh.
`:smoke` takes the weights of a finished `configs/motion.py` run; without them it starts fresh.

Source: RECIPES, by the names of networks; those of C3D (the authors' solver), R(2+1)D and its
kin (VMZ's scripts), 3D ResNet (arXiv 1711.09577: conv5_x and fc alone) and P3D (arXiv 1711.10305)
are their authors' for UCF101, with as many clips of a video; the others' rates are ours. Rates
are for the batch they stand beside; with a batch of B instead scale them.
What is frozen: `optim.frozen`; layers with other rates: `optim.multipliers`, pairs of a pattern of
parameters' names and a factor, e.g. `--config.optim.multipliers="(('conv1/*', 0.1),)"`.

Number to reach: none for one's own videos.
"""

import ml_collections

from configs import common

# Ours: small steps for what is learned already, ten times as large ones for the new layer.
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
# The running statistics' own memory, 0.999, is longer than these runs are.
_INCEPTION = {"model.bn_groups": 1, "model.bn_momentum": 0.99}


def _new(layer: str) -> dict:
    """The layer of the classes starts fresh, at ten times the rate."""
    return {"init.leave_out": (f"{layer}/*",), "optim.multipliers": ((f"{layer}/*", 10.0),)}


# (patterns of network names, recipe). The first row that matches applies.
RECIPES = (
    (
        ("c3d", "c3d_sports1m", "c3d_bn*"),
        {
            **_BN,
            "init.leave_out": ("fc8/*",),
            # 20,000 batches of UCF101's 9,537 videos: 63 clips of each.
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
            "optim.patience": 11,  # torch's 10
            "optim.weight_decay": 1e-5,
            "optim.dampening": 0.9,
            "optim.frozen": ("conv1/*", "bn1/*", "conv2_x/*", "conv3_x/*", "conv4_x/*"),
        },
    ),
    (
        ("r2plus1d_*", "r2d_*", "f_r2d_*", "r3d_*", "mc*", "rmc*"),
        {
            **_BN,
            "model.bn_epsilon": 1e-3,
            "init.leave_out": ("fc/*",),
            # 100,000 clips an epoch, of the same videos; 8 GPUs, each 4 clips at 0.0001.
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
            # 7,500 batches, divided by 10 every 3,000; the scales of all BN but the first frozen.
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


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    smoke = argument == "smoke"
    name = "r2plus1d_18" if smoke or not argument else argument
    recipe = _row(name)
    config = common.default_config()
    config.model.name = name
    config.init.path = f"weights/{name}.safetensors"
    config.data.source = "auto"
    config.data.root = "data/own"
    config.data.hint = "Without data: python train.py --config configs/finetune.py:smoke runs now"
    with config.ignore_type():  # the model has keys of its own
        config.update_from_flattened_dict(recipe)
    config.eval_batch_size = config.batch_size
    config.protocol.clips = 10
    if smoke:
        common.use_smoke(config)
        # As `configs/motion.py` has it, of whose weights this is the fine-tuning.
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


def _row(name: str) -> dict:
    for patterns, recipe in RECIPES:
        if any(_fits(name, pattern) for pattern in patterns):
            return recipe
    known = ", ".join(pattern for patterns, _ in RECIPES for pattern in patterns)
    raise ValueError(f"{name!r} after the config's colon: a network of {known}, or 'smoke'")


def _fits(name: str, pattern: str) -> bool:
    start, star, _ = pattern.partition("*")
    return name.startswith(start) if star else name == pattern
