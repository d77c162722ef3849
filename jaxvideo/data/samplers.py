"""The table of samplers, which draw the frame positions of a training clip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from jaxvideo.types import ConfigError, Preprocessing, UsageError

#: Tolerance of positions: a sum of floats can be slightly below a whole number.
EPSILON = 1e-6


class Sampler(Protocol):
    """Draws the positions of the frames of a training clip.

    Args:
      num_frames: number of frames of the video.
      step: distance of the clip's frames in frames of the video, from stride and frame rate.
      preprocessing: what the network expects.
      rng: the only source of randomness.

    Returns:
      `preprocessing.segments * preprocessing.snippet` positions in frames of the video, from 0.
      They are rounded down; positions past the end are filled as `preprocessing.short` states.
    """

    def __call__(
        self,
        num_frames: int,
        step: float,
        preprocessing: Preprocessing,
        rng: np.random.Generator,
        /,
    ) -> Sequence[float]: ...


def random(
    num_frames: int, step: float, preprocessing: Preprocessing, rng: np.random.Generator
) -> list[float]:
    """Draws one window of frames at distance `step`, at any start at which it fits."""
    start = int(rng.integers(last_start(num_frames, preprocessing.snippet, step) + 1))
    return snippet(start, preprocessing.snippet, step)


def segments(
    num_frames: int, step: float, preprocessing: Preprocessing, rng: np.random.Generator
) -> list[float]:
    """Draws one snippet in each of `preprocessing.segments` equal parts of the possible starts.

    TSN, arXiv 1608.00859, section 3.1. If there are fewer starts than segments, starts are drawn
    with replacement and sorted.
    """
    p = preprocessing
    choices = last_start(num_frames, p.snippet, step) + 1
    each = choices // p.segments
    if each:
        starts = [i * each + int(rng.integers(each)) for i in range(p.segments)]
    else:
        starts = sorted(int(start) for start in rng.integers(choices, size=p.segments))
    return [position for start in starts for position in snippet(start, p.snippet, step)]


def dense(
    num_frames: int, step: float, preprocessing: Preprocessing, rng: np.random.Generator
) -> list[float]:
    """Draws a start such that `frames * step` frames fit, for TSM 64, and takes every `step`-th.

    TSM's dense sampling (`DenseSampleFrames` in mmaction2), with the possible starts of the test
    protocol `starts="dense"`. TSM's code draws all of them but the last. A shorter video starts at
    its first frame and is extended by `preprocessing.short`.
    """
    start = int(rng.integers(last_dense_start(num_frames, preprocessing.snippet, step) + 1))
    return snippet(start, preprocessing.snippet, step)


#: Samplers by the name that the config key `augment.sampler` selects. A program may add its own,
#: a function as `Sampler` describes it, before it reads its config:
#:
#:     def first(num_frames, step, preprocessing, rng):
#:         return [i * step for i in range(preprocessing.snippet)]
#:
#:     SAMPLERS["first"] = first
SAMPLERS: dict[str, Sampler] = {
    "random": random,
    "segments": segments,
    "dense": dense,
}


def check_sampler(name: str) -> None:
    """Checks that `name` is "" or a row of `SAMPLERS`.

    Raises:
      ConfigError: unknown name.
    """
    if name and name not in SAMPLERS:
        raise UsageError(
            f"augment.sampler={name!r}: allowed are '' (as the preprocessing needs), "
            f"{', '.join(SAMPLERS)}"
        )


def find_sampler(name: str, preprocessing: Preprocessing) -> Sampler:
    """Returns a row of `SAMPLERS`.

    Args:
      name: its name; "" is "segments" if the preprocessing has several, otherwise "random".
      preprocessing: what the network expects.

    Raises:
      ConfigError: unknown name, or the sampler returns another number of positions than the
        preprocessing needs, for example because it draws one segment.
    """
    check_sampler(name)
    p = preprocessing
    sampler = SAMPLERS[name or ("segments" if p.segments > 1 else "random")]
    draw(sampler, 1000, float(p.stride), p, np.random.default_rng(0))
    return sampler


def draw(
    sampler: Sampler,
    num_frames: int,
    step: float,
    preprocessing: Preprocessing,
    rng: np.random.Generator,
) -> Sequence[float]:
    """Calls a sampler and checks the positions.

    Raises:
      ConfigError: their number differs from `preprocessing.segments * preprocessing.snippet`, or
        one is negative.
    """
    p = preprocessing
    positions = sampler(num_frames, step, p, rng)
    name = getattr(sampler, "__name__", repr(sampler))
    if len(positions) != p.segments * p.snippet:
        hint = "; for several segments use augment.sampler='' or 'segments'"
        raise ConfigError(
            f"the sampler {name!r} returned {len(positions)} positions, but preprocessing.frames="
            f"{p.frames}, segments={p.segments}, modality={p.modality!r} needs "
            f"{p.segments * p.snippet}{hint if p.segments > 1 else ''}"
        )
    if min(positions) < 0:
        raise ConfigError(
            f"the sampler {name!r} returned the position {min(positions)} for a video of "
            f"{num_frames} frames; positions must be at least 0"
        )
    return positions


def snippet(start: float, frames: int, step: float) -> list[float]:
    """Returns the positions of `frames` frames from `start` at distance `step`."""
    return [start + i * step for i in range(frames)]


def last_start(num_frames: int, frames: int, step: float) -> int:
    """Returns the largest start index at which a whole clip fits; 0 if none does."""
    span = math.floor((frames - 1) * step + EPSILON) + 1
    return max(num_frames - span, 0)


def last_dense_start(num_frames: int, frames: int, step: float) -> int:
    """Returns the largest start index at which `frames * step` frames fit; 0 if none does."""
    return max(num_frames - math.floor(frames * step + EPSILON), 0)
