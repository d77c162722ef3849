"""X3D's expansion: a tiny network of images grown to one of videos, an axis at a time.

Feichtenhofer, CVPR 2020 (arXiv 2004.04730), section 3. X2D sees one frame of 112 x 112. A step
makes six candidates, each twice as costly as the present network by one factor alone, trains them
all and keeps the best. When the budget is passed, the last factor is taken back as far as it must.
Five steps, 30 small trainings, lead to X3D-XS.
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
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import jax

from jaxvideo.models import MODELS, model_entry
from jaxvideo.models.summary import summarize
from jaxvideo.models.x3d import BLOCKS, CHANNELS, X3D, round_width
from jaxvideo.training.loop import train
from jaxvideo.types import CheckpointError, ConfigError, Preprocessing

#: What an axis changes, and the steps its value comes in: multiples of this.
AXES: dict[str, tuple[str, float]] = {
    "fast": ("frames", 1),
    "temporal": ("frames", 1),
    "spatial": ("crop", 8),
    "depth": ("depth", 0.1),
    "width": ("width", 0.1),
    "bottleneck": ("bottleneck", 0.05),
}

# A budget is met within this share: the paper's XS has 605 million for 600.
_SLACK = 0.02


@dataclasses.dataclass(frozen=True)
class Factors:
    """What expansion changes, in absolute numbers; the defaults are X2D.

    Attributes:
      frames: of a clip.
      fps: how many of them a second has: the clip lasts `frames / fps` seconds. A single frame
        has no rate: X2D's is such that its clip lasts as long as one of X3D-XS, once grown by
        "temporal" to its frames.
      crop: side in pixels.
      width: `widen` of `models.x3d.X3D`, twice the paper's gamma_w.
      bottleneck, depth: see `models.x3d.X3D`.
    """

    frames: int = 1
    fps: float = 1.25
    crop: int = 112
    width: float = 2.0
    bottleneck: float = 1.0
    depth: float = 1.0

    @property
    def model(self) -> dict[str, Any]:
        """`name` and arguments of `create_model`; one position of the head for any crop."""
        factors = {"widen": self.width, "bottleneck": self.bottleneck, "depth": self.depth}
        return {"name": "x3d_m", **factors, "positions": "global"}

    def preprocessing(self, pixels: float = 1.0, rate: float = 1.0) -> Preprocessing:
        """The clip's, with so many times the pixels along a side, and frames per second; frames
        are scaled to 8 / 7 of the crop, as for X3D-M."""
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
        """`4 x 160^2 at 2.5 fps, width 2, bottleneck 2.25, depth 2.2`."""
        return (
            f"{self.frames} x {self.crop}^2 at {self.fps:.3g} fps, width {self.width:g}, "
            f"bottleneck {self.bottleneck:g}, depth {self.depth:g}"
        )


@dataclasses.dataclass(frozen=True)
class Step:
    """A row of the walk.

    Attributes:
      move: "start", one of `AXES`, or "contraction" of the last one.
      factors, macs, parameters: where it has led, with 400 classes.
      value: the objective there; None where nothing was trained.
      tried: the objective of every axis's candidate.
      name: of the network in the paper, if it has one.
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
    """Forward expansion to a budget, then backward contraction if it was passed.

    Args:
      target: multiply-adds of one clip. Within 2 % it is met.
      objective: what is to be large; of equal candidates the cheapest is kept.
      steps: at most so many expansions.

    Raises:
      ConfigError: the start is over the budget, or the objective gives no number.
    """
    if complexity(start) > target:
        raise ConfigError(
            f"target={target:g}: the start has {complexity(start):g} multiply-adds already"
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
    """The factors with more along one axis, as close to `goal` multiply-adds as it can be; of
    values that round to the same network the largest."""
    best = None
    for candidate in _along(factors, axis):
        error = abs(complexity(candidate) - goal)
        if best is None or error <= best[0]:
            best = error, candidate
        elif complexity(candidate) >= goal:
            return best[1]
    raise AssertionError("an axis has no end")


def contract(before: Factors, axis: str, most: float) -> Factors:
    """The largest along the axis, from `before` on, with no more than `most` multiply-adds."""
    affordable = itertools.takewhile(lambda f: complexity(f) <= most, _along(before, axis))
    return [before, *affordable][-1]


def move(factors: Factors, axis: str, value: float) -> Factors:
    """The factors with another value along an axis.

    "fast" takes more frames of the same time; "temporal" lengthens the clip and raises the rate,
    each by the square root of what the frames are multiplied by: the paper does not say how they
    share it, but so X2D's 0.8 s become the released 4 x 12 (XS) and nearly 16 x 5 (M).
    """
    field, _ = AXES[axis]
    share = {"fast": 1.0, "temporal": 0.5}.get(axis, 0.0)
    ratio = value / getattr(factors, field)
    moved: dict[str, Any] = {field: value, "fps": round(factors.fps * ratio**share, 4)}
    return dataclasses.replace(factors, **moved)


def _along(factors: Factors, axis: str) -> Iterator[Factors]:
    """All there is on an axis beyond the factors, ascending."""
    field, grid = AXES[axis]
    first = math.floor(getattr(factors, field) / grid + 1e-6) + 1
    for multiple in itertools.count(first):
        value = round(multiple * grid, 2)
        yield move(factors, axis, int(value) if field in ("frames", "crop") else value)


@functools.cache
def complexity(factors: Factors) -> int:
    """Multiply-adds of one clip as `models.summary` counts them, for 400 classes; a search asks
    too often to trace the network."""
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
        raise ConfigError(f"the objective gives {value} for {factors.describe()}")
    return value


def published() -> Iterator[Step]:
    """The paper's own way. Its complexities and the networks with names are certain; the order
    of the first five steps is as others recollect its Figure 2, and the rates between are ours."""
    for name, axis, *numbers in _PUBLISHED:
        yield _step(axis, Factors(*numbers), name=name)


# Frames, fps, crop, width, bottleneck, depth. XL's width is twice the paper's 1.45. M goes on
# from 16 frames, not from S.
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
    """Those of X2D, or of another X3D of the registry."""
    entry = MODELS.get(name)
    if entry is None or entry.build is not X3D:
        names = [known for known, row in MODELS.items() if row.build is X3D]
        raise ConfigError(f"start={name!r}: allowed are {', '.join(names)}")
    if name == "x2d":
        return Factors()
    model, clip = X3D(**entry.arguments), entry.preprocessing
    fps = (clip.fps or 30.0) / clip.stride
    return Factors(clip.frames, fps, clip.crop, model.widen, model.bottleneck, model.depth)


def parse_macs(text: str) -> float:
    """A number of multiply-adds: 2GMAC, 600MMAC, 2e9."""
    found = re.fullmatch(r"(\d+\.?\d*(?:e\d+)?) ?(?:([KMGT]?)MACs?)?", text.strip(), re.IGNORECASE)
    if not found or not 0 < float(found[1]) < math.inf:
        raise ConfigError(f"target={text!r}: multiply-adds, as in 2GMAC, 600MMAC or 2e9")
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
    """Video top-1 after a short training on the motion data set, in `folder`, a run each.

    Its videos have 84 x 112 pixels and last a second, so clips are made smaller and faster in the
    same ratio for all: X2D's 112 pixels are `base_crop` ones, its rate is `base_fps`; at 4, 16
    frames along "temporal" are the whole video. Channels, blocks and frames are a candidate's own.
    """
    if base_crop < 8 or base_fps <= 0:
        raise ConfigError(f"base_crop={base_crop}, base_fps={base_fps:g}: at least 8, positive")
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
        with redirect_stdout(sys.stderr):  # a run tells a lot, and standard output has the table
            result = train(config, run)
        # Nobody needs the weights of a candidate, nor the programs that trained it.
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        jax.clear_caches()
        return result["top1"]

    return accuracy


def command_objective(command: str) -> Objective:
    """The last number that a command prints. `{model_json}` in it is replaced by an object with
    `model`, for `create_model`, and `preprocessing`; no shell is involved."""
    if "{model_json}" not in command:
        raise ConfigError(
            f"objective={command!r}: motion, published, or a command with {{model_json}}"
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
            raise ConfigError(f"objective {arguments[0]!r} printed no number ({error})") from error

    return value


def remembered(objective: Objective, file: Path, what: str) -> Objective:
    """An objective that keeps what it has said in a file: a walk begun again goes on there.

    Args:
      what: says which objective it is; another one's file is refused.
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
            raise CheckpointError(f"{file} is damaged ({error})") from error
        if theirs != what:
            raise ConfigError(f"{file} is of the objective {theirs!r}, not {what!r}: another --out")

    def value(factors: Factors) -> float:
        if factors not in known:
            known[factors] = _value(objective, factors)
            rows = [{**dataclasses.asdict(f), "value": v} for f, v in known.items()]
            write_json(file, {"objective": what, "values": rows})
        return known[factors]

    return value


def write_json(file: Path, value: Any) -> None:
    """Replaces a file as a whole; its folder is made."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(value, indent=2) + "\n")
        temporary.replace(file)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be written ({error.strerror})") from error
