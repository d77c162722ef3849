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
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from jaxvideo.models import MODELS, model_entry
from jaxvideo.models.summary import summarize
from jaxvideo.models.x3d import BLOCKS, CHANNELS, X3D, round_width
from jaxvideo.types import ConfigError, Preprocessing, UsageError

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
      width: `widen` of `models.x3d.X3D`, twice the paper's gamma_w.
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
        factors = {"widen": self.width, "bottleneck": self.bottleneck, "depth": self.depth}
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
    yield _step("start", start, evaluate_objective(objective, start))
    now, before, axis = start, start, ""
    for _ in itertools.count() if steps is None else range(steps):
        if complexity(now) >= target * (1 - _SLACK):
            break
        grown = {axis: grow(now, axis, 2 * complexity(now)) for axis in AXES}
        tried = {
            axis: evaluate_objective(objective, candidate) for axis, candidate in grown.items()
        }
        axis = max(AXES, key=lambda axis: (tried[axis], -complexity(grown[axis])))
        before, now = now, grown[axis]
        yield _step(axis, now, tried[axis], tried)
    if complexity(now) > target * (1 + _SLACK):
        now = contract(before, axis, target * (1 + _SLACK))
        yield _step("contraction", now, evaluate_objective(objective, now))


def grow(factors: Factors, axis: str, goal: float) -> Factors:
    """Increases one axis so that the complexity is as close as possible to `goal` multiply-adds.

    If several values round to the same network, the largest is taken.
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


def evaluate_objective(objective: Objective, factors: Factors) -> float:
    """Evaluates an objective.

    Raises:
      ConfigError: the value is NaN or infinite.
    """
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
        raise UsageError(f"start={name!r}: allowed are {', '.join(names)}")
    if name == "x2d":
        return Factors()
    model, clip = X3D(**entry.arguments), entry.preprocessing
    fps = (clip.fps or 30.0) / clip.stride
    return Factors(clip.frames, fps, clip.crop, model.widen, model.bottleneck, model.depth)


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
