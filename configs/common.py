"""Helpers that the recipes share."""

import ml_collections

from jaxvideo.training import schema


def default_config() -> ml_collections.ConfigDict:
    """Returns all keys with their defaults, see `jaxvideo/training/schema.py`.

    A recipe sets only the keys that differ. Keys of `preprocessing` are None, which selects the
    values that the network expects.
    """
    return ml_collections.ConfigDict(schema.defaults())


def use_motion(config: ml_collections.ConfigDict, train_videos: int, val_videos: int) -> None:
    """Replaces the data of a recipe by the embedded motion data: small clips, no flip."""
    config.data.source = "motion"
    config.data.root = ""
    config.data.train_videos = train_videos
    config.data.val_videos = val_videos
    # Mirroring changes the class of these videos.
    config.augment.flip = False
    config.augment.scales = (1.0, 1.0)
    config.augment.scale_steps = 0
    config.augment.ratios = ()
    config.augment.positions = "uniform"
    config.augment.areas = ()
    config.augment.views_per_video = 1
    config.augment.repeated = 1


def is_smoke(argument: str | None) -> bool:
    """Returns True if the config was requested as `configs/x.py:smoke`."""
    if argument not in (None, "", "smoke"):
        raise ValueError(f"argument {argument!r} after the colon: allowed is 'smoke'")
    return argument == "smoke"


def read_split(argument: str | None) -> tuple[int, bool]:
    """Returns the split of `configs/x.py:2` (default: 1), and True if requested as `:smoke`."""
    if argument in ("1", "2", "3"):
        return int(argument), False
    if argument not in (None, "", "smoke"):
        raise ValueError(f"argument {argument!r} after the colon: allowed are 1, 2, 3 and 'smoke'")
    return 1, argument == "smoke"


def use_split(config: ml_collections.ConfigDict, root: str, split: int) -> None:
    """Selects one of the three splits of UCF101 or HMDB51."""
    config.data.root = root
    config.data.train = f"train{split}.csv"
    config.data.val = f"test{split}.csv"
    config.data.fold = split


def use_slowfast(config: ml_collections.ConfigDict, name: str) -> None:
    """Sets the keys that SlowFast and X3D share; batch and rate are for 128 GPUs of 8 clips."""
    config.model.name = name
    config.model.dtype = "bfloat16"
    config.model.dropout_rate = 0.5
    config.model.bn_groups = 128
    config.model.bn_momentum = 0.9
    config.batch_size = 1024
    config.eval_batch_size = 64
    config.augment.scales = (1.0, 1.25)
    config.data.root = "data/kinetics400"
    config.optim.lr = 1.6
    config.optim.schedule = "whole_cosine"
    config.optim.warmup_factor = 0.1
    config.optim.nesterov = True
    config.optim.no_decay = ("*bn*/scale", "*bn*/bias")
    config.protocol.clips = 10
    config.protocol.crops = 3
    config.protocol.crop = 256
    config.protocol.starts = "parts"


def use_x3d(
    config: ml_collections.ConfigDict, name: str, batch_size: int = 128, lr: float = 0.1
) -> None:
    """Sets the keys that all X3D networks share, from PySlowFast's configs for 8 GPUs."""
    use_slowfast(config, name)
    config.model.bn_groups = 8
    config.epochs = 300.0
    config.batch_size = batch_size
    config.optim.lr = lr
    config.optim.warmup_epochs = 35.0
    config.optim.weight_decay = 5e-5


def use_smoke(config: ml_collections.ConfigDict) -> None:
    """Reduces a recipe to a test run of one or two minutes: two epochs on few, small clips."""
    use_motion(config, train_videos=160, val_videos=40)
    config.data.train = "train.csv"
    config.data.val = "val.csv"
    config.init.path = ""
    config.init.parts = {}
    config.epochs = 2.0
    config.epoch_steps = 0
    config.batch_size = 16
    config.eval_batch_size = 8
    if "bn_groups" in config.model:  # the network has BatchNorm
        config.model.bn_groups = 1
        config.model.bn_momentum = 0.9
    config.preprocessing.stride = 1
    config.preprocessing.fps = 0.0
    config.preprocessing.size = 64
    config.preprocessing.width = 0
    config.preprocessing.crop = 56
    config.optim.lr = 0.05
    config.optim.schedule = "cosine"
    config.optim.factors = ()
    config.optim.warmup_epochs = 0.0
    config.protocol.clips = 1
    config.protocol.crops = 1
    config.protocol.crop = 0
    config.protocol.starts = "ends"
    config.protocol.frames = 0
