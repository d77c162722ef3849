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
    """Draws one window of frames, at any start at which it fits.

    With `spacing="stride"`, starts are whole numbers and the window ends with its last frame, as
    in torchvision's `VideoClips` with `frames_between_clips=1`. With `spacing="linspace"`, the
    start is uniform in `[0, num_frames - T * step]` and not rounded: PySlowFast's
    `get_start_end_idx(clip_idx=-1)`. pytorchvideo's `RandomClipSampler` draws the same starts in
    seconds, but begins with the first frame at or after them, and spreads fewer frames if the
    video is shorter.
    """
    p = preprocessing
    if p.spacing == "linspace":
        return positions(rng.uniform(0, free_frames(num_frames, step, p)), step, p)
    start = int(rng.integers(last_start(num_frames, p.snippet, step) + 1))
    return positions(start, step, p)


def segments(
    num_frames: int, step: float, preprocessing: Preprocessing, rng: np.random.Generator
) -> list[float]:
    """Draws one snippet in each of `preprocessing.segments` equal parts of the possible starts.

    TSN, arXiv 1608.00859, section 3.1, and `_sample_indices` of tsn-pytorch. If there are fewer
    starts than segments, starts are drawn with replacement and sorted. (If a video has no more
    frames than segments, that code takes its first frame for all of them.)
    """
    p = preprocessing
    choices = last_start(num_frames, p.snippet, distance(step, p)) + 1
    each = choices // p.segments
    if each:
        starts = [i * each + int(rng.integers(each)) for i in range(p.segments)]
    else:
        starts = sorted(int(start) for start in rng.integers(choices, size=p.segments))
    return [position for start in starts for position in positions(start, step, p)]


def dense(
    num_frames: int, step: float, preprocessing: Preprocessing, rng: np.random.Generator
) -> list[float]:
    """Draws a start such that `frames * step` frames fit, for TSM 64, and takes every `step`-th.

    TSM's dense sampling (`DenseSampleFrames` in mmaction2), with the possible starts of the test
    protocol `starts="dense"`. TSM's code draws all of them but the last. A shorter video starts at
    its first frame and is extended by `preprocessing.short`.
    """
    start = int(rng.integers(last_dense_start(num_frames, preprocessing.snippet, step) + 1))
    return positions(start, step, preprocessing)


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
    drawn = sampler(num_frames, step, p, rng)
    name = getattr(sampler, "__name__", repr(sampler))
    if len(drawn) != p.segments * p.snippet:
        hint = "; for several segments use augment.sampler='' or 'segments'"
        raise ConfigError(
            f"the sampler {name!r} returned {len(drawn)} positions, but preprocessing.frames="
            f"{p.frames}, segments={p.segments}, modality={p.modality!r} needs "
            f"{p.segments * p.snippet}{hint if p.segments > 1 else ''}"
        )
    if min(drawn) < 0:
        raise ConfigError(
            f"the sampler {name!r} returned the position {min(drawn)} for a video of "
            f"{num_frames} frames; positions must be at least 0"
        )
    return drawn


def snippet(start: float, frames: int, step: float) -> list[float]:
    """Returns the positions of `frames` frames from `start` at distance `step`."""
    return [start + i * step for i in range(frames)]


def positions(start: float, step: float, preprocessing: Preprocessing) -> list[float]:
    """Returns the positions of one snippet, as `Preprocessing.spacing` states.

    Those of "linspace" are rounded down, with the rounding errors of `torch.linspace` in float32 on
    a CPU with fused multiply-add: they decide between two frames where a position is close to a
    whole number.

    Args:
      start: position of the first frame.
      step: the stride in frames of the video, see `views.frame_step`.
      preprocessing: what the network expects.
    """
    p, frames = preprocessing, preprocessing.frames // preprocessing.segments
    if p.spacing == "stride" or frames == 1:
        return snippet(start, p.snippet, step)
    first, last = np.float32(start), np.float32(start + max(frames * step - 1, 0))
    apart, index = float((last - first) / np.float32(frames - 1)), np.arange(frames)
    # From both ends to the middle, in double precision until the sum is rounded.
    up, down = float(first) + apart * index, float(last) - apart * (frames - 1 - index)
    spread = np.where(index < frames // 2, up, down).astype(np.float32)
    # Motion needs one frame more than the network's input.
    more = [float(last) + apart * (i + 1) for i in range(p.snippet - frames)]
    return [*np.floor(spread).tolist(), *more]


def distance(step: float, preprocessing: Preprocessing) -> float:
    """Returns the distance of a clip's frames, in frames of the video.

    Args:
      step: the stride in frames of the video, see `views.frame_step`.
      preprocessing: its `spacing` is the rule.
    """
    frames = preprocessing.frames // preprocessing.segments
    if preprocessing.spacing == "stride" or frames == 1:
        return step
    return max(frames * step - 1, 0) / (frames - 1)


def free_frames(num_frames: int, step: float, preprocessing: Preprocessing) -> float:
    """Returns how many frames remain beside a window of `frames * step` frames; 0 if none."""
    frames = preprocessing.frames // preprocessing.segments
    return max(num_frames - frames * step, 0.0)


def last_start(num_frames: int, frames: int, step: float) -> int:
    """Returns the largest start index at which a whole clip fits; 0 if none does."""
    span = math.floor((frames - 1) * step + EPSILON) + 1
    return max(num_frames - span, 0)


def last_dense_start(num_frames: int, frames: int, step: float) -> int:
    """Returns the largest start index at which `frames * step` frames fit; 0 if none does."""
    return max(num_frames - math.floor(frames * step + EPSILON), 0)
