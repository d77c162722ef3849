"""X3D expansion: grows a small image network to a video network, one axis at a time.

Feichtenhofer, CVPR 2020 (arXiv 2004.04730), section 3. The start is X2D, which sees one frame of
112 x 112 pixels. Each step trains six candidates, each of which doubles the complexity of the
current network along one axis, and keeps the best. If the result exceeds the budget, the last axis
is reduced again (backward contraction). X3D-XS takes five steps, hence 30 short trainings.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from jaxvideo.models import MODELS, model_entry
from jaxvideo.models.summary import summarize
from jaxvideo.models.x3d import BLOCKS, CHANNELS, X3D, round_width
from jaxvideo.progress import write_file
from jaxvideo.training.loop import train
from jaxvideo.types import CheckpointError, ConfigError, Preprocessing

#: Field of `Factors` that each axis changes, and the step size of its values.
AXES: dict[str, tuple[str, float]] = {
    "fast": ("frames", 1),
    "temporal": ("frames", 1),
    "spatial": ("crop", 8),
    "depth": ("depth", 0.1),
    "width": ("width", 0.1),
    "bottleneck": ("bottleneck", 0.05),
}

# Relative tolerance of the budget: X3D-XS has 605 million multiply-adds for a budget of 600.
_SLACK = 0.02


@dataclasses.dataclass(frozen=True)
class Factors:
    """Factors that expansion changes. The defaults are X2D.

    Attributes:
      frames: frames per clip.
      fps: frame rate of the clip in 1/s. That of X2D, which has a single frame, is chosen so that
        expansion along "temporal" leads to the clip duration of X3D-XS.
      crop: height and width in pixels.
      width: see `models.x3d.X3D`.
      bottleneck: see `models.x3d.X3D`.
      depth: see `models.x3d.X3D`.
    """

    frames: int = 1
    fps: float = 1.25
    crop: int = 112
    width: float = 2.0
    bottleneck: float = 1.0
    depth: float = 1.0

    @property
    def model(self) -> dict[str, Any]:
        """Arguments of `create_model`, with global pooling for any crop."""
        factors = {name: getattr(self, name) for name in ("width", "bottleneck", "depth")}
        return {"name": "x3d_m", **factors, "positions": "global"}

    def preprocessing(self, pixels: float = 1.0, rate: float = 1.0) -> Preprocessing:
        """Returns the preprocessing of a clip.

        Frames are scaled to 8/7 of the crop, as for X3D-M.

        Args:
          pixels: factor on the crop.
          rate: factor on the frame rate.
        """
        crop = max(round(self.crop * pixels), 8)
        return dataclasses.replace(
            model_entry("x3d_m").preprocessing,
            frames=self.frames,
            stride=1,
            fps=self.fps * rate,
            size=round(crop * 8 / 7),
            crop=crop,
        )

    def describe(self) -> str:
        """Formats the factors: `4 x 160^2 at 2.5 fps, width 2, bottleneck 2.25, depth 2.2`."""
        return (
            f"{self.frames} x {self.crop}^2 at {self.fps:.3g} fps, width {self.width:g}, "
            f"bottleneck {self.bottleneck:g}, depth {self.depth:g}"
        )


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the expansion.

    Attributes:
      move: "start", one of `AXES`, or "contraction".
      factors: resulting factors.
      macs: multiply-adds of one clip, with 400 classes.
      parameters: number of parameters, with 400 classes.
      value: objective; None if nothing was trained.
      tried: objective of the candidate of each axis.
      name: name of the network in the paper, or "".
    """

    move: str
    factors: Factors
    macs: int
    parameters: int
    value: float | None = None
    tried: dict[str, float] = dataclasses.field(default_factory=dict)
    name: str = ""


Objective = Callable[[Factors], float]


def expand(
    start: Factors, target: float, objective: Objective, *, steps: int | None = None
) -> Iterator[Step]:
    """Expands a network to a budget, then contracts it if the budget is exceeded.

    Args:
      start: factors to start from.
      target: budget in multiply-adds of one clip, met within 2 %.
      objective: function to maximize; of equal candidates the cheapest is kept.
      steps: maximum number of expansions; None: no limit.

    Yields:
      The start, each expansion, and the contraction if there is one.

    Raises:
      ConfigError: the start exceeds the budget, or the objective is NaN or infinite.
    """
    if complexity(start) > target:
        raise ConfigError(
            f"target={target:g}: the start already has {complexity(start):g} multiply-adds"
        )
    yield _step("start", start, _value(objective, start))
    now, before, axis = start, start, ""
    for _ in itertools.count() if steps is None else range(steps):
        if complexity(now) >= target * (1 - _SLACK):
            break
        grown = {axis: grow(now, axis, 2 * complexity(now)) for axis in AXES}
        tried = {axis: _value(objective, candidate) for axis, candidate in grown.items()}
        axis = max(AXES, key=lambda axis: (tried[axis], -complexity(grown[axis])))
        before, now = now, grown[axis]
        yield _step(axis, now, tried[axis], tried)
    if complexity(now) > target * (1 + _SLACK):
        now = contract(before, axis, target * (1 + _SLACK))
        yield _step("contraction", now, _value(objective, now))


def grow(factors: Factors, axis: str, goal: float) -> Factors:
    """Increases one axis so that the complexity is as close as possible to `goal` multiply-adds.

    Of values that round to the same network the largest is taken.
    """
    best = None
    for candidate in _along(factors, axis):
        error = abs(complexity(candidate) - goal)
        if best is None or error <= best[0]:
            best = error, candidate
        elif complexity(candidate) >= goal:
            return best[1]
    raise AssertionError("unreachable: complexity grows along every axis")


def contract(before: Factors, axis: str, most: float) -> Factors:
    """Increases one axis from `before` as far as `most` multiply-adds allow."""
    affordable = itertools.takewhile(lambda f: complexity(f) <= most, _along(before, axis))
    return [before, *affordable][-1]


def move(factors: Factors, axis: str, value: float) -> Factors:
    """Sets the value of one axis.

    "fast" raises the frame rate at constant duration. "temporal" raises both the duration and the
    frame rate by the square root of the factor. The paper does not specify this; it leads from the
    0.8 s of X2D to the released 4 x 12 (XS) and nearly to 16 x 5 (M).
    """
    field, _ = AXES[axis]
    share = {"fast": 1.0, "temporal": 0.5}.get(axis, 0.0)
    ratio = value / getattr(factors, field)
    moved: dict[str, Any] = {field: value, "fps": round(factors.fps * ratio**share, 4)}
    return dataclasses.replace(factors, **moved)


def _along(factors: Factors, axis: str) -> Iterator[Factors]:
    """Yields all larger values along an axis, ascending."""
    field, grid = AXES[axis]
    first = math.floor(getattr(factors, field) / grid + 1e-6) + 1
    for multiple in itertools.count(first):
        value = round(multiple * grid, 2)
        yield move(factors, axis, int(value) if field in ("frames", "crop") else value)


@functools.cache
def complexity(factors: Factors) -> int:
    """Computes the multiply-adds of one clip with 400 classes, as `models.summary` counts them.

    A closed form, because a search evaluates it too often to trace the network.
    """
    f = factors
    side, total, last = _half(f.crop), 0, 0
    inputs = round_width(CHANNELS[0], f.width)
    total += f.frames * side**2 * inputs * (3 * 9 + 5)
    for channels, base in zip(CHANNELS, BLOCKS, strict=True):
        outputs = round_width(channels, f.width)
        last, blocks = int(f.bottleneck * outputs), math.ceil(f.depth * base)
        before, side = side, _half(side)
        first = before**2 * inputs * last + side**2 * inputs * outputs
        others = (blocks - 1) * side**2 * outputs * last
        total += f.frames * (first + others + blocks * side**2 * last * (27 + outputs))
        total += (blocks + 1) // 2 * 2 * last * round_width(last, 1 / 16)
        inputs = outputs
    return total + f.frames * side**2 * inputs * last + last * 2048 + 2048 * 400


def _half(side: int) -> int:
    return -(-side // 2)


def _step(move: str, factors: Factors, value=None, tried=None, name: str = "") -> Step:
    summary = summarize(**factors.model, frames=factors.frames, crop=factors.crop)
    return Step(move, factors, summary.macs, summary.parameters, value, tried or {}, name)


def _value(objective: Objective, factors: Factors) -> float:
    value = float(objective(factors))
    if not math.isfinite(value):
        raise ConfigError(f"the objective is {value} for {factors.describe()}; it must be finite")
    return value


def published() -> Iterator[Step]:
    """Yields the expansion of the paper.

    Complexities and named networks are those of the paper. The order of the first five steps
    follows secondary descriptions of its Figure 2; the frame rates in between are interpolated.
    """
    for name, axis, *numbers in _PUBLISHED:
        yield _step(axis, Factors(*numbers), name=name)


# Frames, fps, crop, width, bottleneck, depth. The width of XL is twice the 1.45 of the paper. M
# continues from the network with 16 frames, not from S.
_PUBLISHED: tuple[tuple[Any, ...], ...] = (
    ("X2D", "start", 1, 1.25, 112, 2.0, 1.0, 1.0),
    ("", "bottleneck", 1, 1.25, 112, 2.0, 2.25, 1.0),
    ("", "temporal", 2, 1.7678, 112, 2.0, 2.25, 1.0),
    ("", "spatial", 2, 1.7678, 160, 2.0, 2.25, 1.0),
    ("", "depth", 2, 1.7678, 160, 2.0, 2.25, 2.2),
    ("X3D-XS", "temporal", 4, 2.5, 160, 2.0, 2.25, 2.2),
    ("", "temporal", 8, 3.5355, 160, 2.0, 2.25, 2.2),
    ("", "temporal", 16, 5.0, 160, 2.0, 2.25, 2.2),
    ("X3D-S", "contraction", 13, 5.0, 160, 2.0, 2.25, 2.2),
    ("X3D-M", "spatial", 16, 6.0, 224, 2.0, 2.25, 2.2),
    ("", "spatial", 16, 6.0, 312, 2.0, 2.25, 2.2),
    ("X3D-L", "depth", 16, 6.0, 312, 2.0, 2.25, 5.0),
    ("X3D-XL", "width", 16, 6.0, 312, 2.9, 2.25, 5.0),
)


def start_factors(name: str) -> Factors:
    """Returns the factors of X2D or of another X3D in the registry.

    Raises:
      ConfigError: the registry has no X3D of this name.
    """
    entry = MODELS.get(name)
    if entry is None or entry.build is not X3D:
        names = [known for known, row in MODELS.items() if row.build is X3D]
        raise ConfigError(f"start={name!r}: allowed are {', '.join(names)}")
    if name == "x2d":
        return Factors()
    model, clip = X3D(**entry.arguments), entry.preprocessing
    fps = (clip.fps or 30.0) / clip.stride
    return Factors(clip.frames, fps, clip.crop, model.width, model.bottleneck, model.depth)


def parse_macs(text: str) -> float:
    """Parses a number of multiply-adds.

    Raises:
      ConfigError: `text` is not a positive number with an optional unit.

    Example:
      >>> parse_macs("600MMAC")
      600000000.0
    """
    found = re.fullmatch(r"(\d+\.?\d*(?:e\d+)?) ?(?:([KMGT]?)MACs?)?", text.strip(), re.IGNORECASE)
    if not found or not 0 < float(found[1]) < math.inf:
        raise ConfigError(
            f"target={text!r}: must be a number of multiply-adds, such as 2GMAC, 600MMAC or 2e9"
        )
    return float(found[1]) * 1000 ** " KMGT".index((found[2] or " ").upper())


# --- Objectives -----------------------------------------------------------------------------


def motion_objective(
    folder: Path,
    *,
    base_crop: int = 48,
    base_fps: float = 4.0,
    epochs: float = 27.0,
    train_videos: int = 1200,
    val_videos: int = 320,
) -> Objective:
    """Returns the objective "video top-1 after a short training on the motion data set".

    Videos of that data set have 84 x 112 pixels and last one second. Hence the crop and the frame
    rate of all candidates are scaled by constant factors. Channels, blocks and frames are not.

    Args:
      folder: directory of the runs, one per candidate.
      base_crop: pixels that replace the 112 pixels of X2D.
      base_fps: frame rate that replaces that of X2D. At 4, a candidate that "temporal" has grown
        to 16 frames sees the whole video.
      epochs: epochs of each training.
      train_videos: size of the training set.
      val_videos: size of the test set.

    Raises:
      ConfigError: `base_crop` is less than 8, or `base_fps` is not positive.
    """
    if base_crop < 8 or base_fps <= 0:
        raise ConfigError(
            f"base_crop={base_crop}, base_fps={base_fps:g}: the crop must be at least 8, the frame "
            "rate positive"
        )
    pixels, rate = base_crop / Factors.crop, base_fps / Factors.fps

    def accuracy(factors: Factors) -> float:
        config = {
            "seed": 0,
            "epochs": epochs,
            "epoch_steps": 0,
            "batch_size": 32,
            "eval_batch_size": 32,
            "label_smoothing": 0.0,
            "log_seconds": 5.0,
            "model": {**factors.model, "dropout_rate": 0.2, "bn_epsilon": 1e-3},
            "preprocessing": dataclasses.asdict(factors.preprocessing(pixels, rate)),
            "data": {"source": "motion", "train_videos": train_videos, "val_videos": val_videos},
            "augment": {"flip": False},
            "optim": {
                "lr": 0.05,
                "warmup_epochs": min(2.0, epochs / 4),
                "nesterov": True,
                "weight_decay": 1e-4,
            },
            "protocol": {"clips": 2},
            "checkpoint": {"keep": 1},
        }
        run = folder / re.sub(r"[^\d.]+", "-", factors.describe()).strip("-")
        result = train(config, run)
        # Neither the weights of a candidate nor its compiled programs are needed again.
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        jax.clear_caches()
        return result["top1"]

    return accuracy


def command_objective(command: str) -> Objective:
    """Returns the objective "last number that a command prints".

    Args:
      command: command line, run without a shell. `{model_json}` is replaced by a JSON object with
        `model` (arguments of `create_model`) and `preprocessing`.

    Raises:
      ConfigError: the command does not contain `{model_json}`, or is not a valid command line.
    """
    if "{model_json}" not in command:
        raise ConfigError(
            f"objective={command!r}: must be motion, published, or a command with {{model_json}}"
        )
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"objective={command!r}: {error}") from error

    def value(factors: Factors) -> float:
        given = {
            "model": factors.model,
            "preprocessing": dataclasses.asdict(factors.preprocessing()),
        }
        filled = [part.replace("{model_json}", json.dumps(given)) for part in arguments]
        try:
            done = subprocess.run(filled, stdout=subprocess.PIPE, text=True, check=True)
            return float(done.stdout.split()[-1])
        except (OSError, subprocess.CalledProcessError) as error:
            raise ConfigError(f"objective {arguments[0]!r} failed ({error})") from error
        except (IndexError, ValueError) as error:
            raise ConfigError(
                f"objective {arguments[0]!r} printed no number ({error}); its last word must be one"
            ) from error

    return value


def remembered(objective: Objective, file: Path, what: str) -> Objective:
    """Caches an objective in a file, so that an interrupted expansion resumes.

    Args:
      objective: function to cache.
      file: JSON file.
      what: identifies the objective; a file of another objective is rejected.

    Raises:
      CheckpointError: the file is corrupt.
      ConfigError: the file belongs to another objective.
    """
    known: dict[Factors, float] = {}
    if file.exists():
        try:
            content = json.loads(file.read_text())
            theirs = content["objective"]
            for row in content["values"]:
                measured = row.pop("value")
                known[Factors(**row)] = measured
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{file} is corrupt ({error}); delete it to start again"
            ) from error
        if theirs != what:
            raise ConfigError(
                f"{file} belongs to the objective {theirs!r}, not {what!r}; choose another --out"
            )

    def value(factors: Factors) -> float:
        if factors not in known:
            known[factors] = _value(objective, factors)
            rows = [{**dataclasses.asdict(f), "value": v} for f, v in known.items()]
            write_json(file, {"objective": what, "values": rows})
        return known[factors]

    return value


def write_json(file: Path, value: Any) -> None:
    """Writes a value as JSON; creates the directory.

    Raises:
      CheckpointError: the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, json.dumps(value, indent=2) + "\n")
    except OSError as error:
        raise CheckpointError(f"{file} cannot be written ({error.strerror})") from error
