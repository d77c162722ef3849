"""Views of a video for training and for test protocols, as pure functions.

Frame indices refer to frames in presentation order. A clip that is longer than its video loops from
the start (I3D, kinetics-i3d README) unless `Preprocessing.short` states otherwise.

If `Preprocessing.fps` is given and the video's frame rate varies, positions count in frames of the
average rate, and the frame of a position is the last one shown at or before its time. Starts are
then spread evenly over time, not over frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from jaxvideo.data.crops import RandomCrop, fixed_windows
from jaxvideo.data.samplers import (
    EPSILON,
    Sampler,
    distance,
    draw,
    find_sampler,
    free_frames,
    last_dense_start,
    last_start,
    positions,
    snippet,
)
from jaxvideo.types import BLACK, Preprocessing, Protocol, View

# Tolerance in seconds of the times of a constant frame rate: some containers store milliseconds.
_ROUNDING = 1.5e-3


def frame_step(fps: float, preprocessing: Preprocessing) -> float:
    """Returns the distance of a clip's frames, in frames of a video with frame rate `fps`."""
    if preprocessing.fps is None or fps <= 0:
        return float(preprocessing.stride)
    return preprocessing.stride * fps / preprocessing.fps


def clip_frames(
    start: float,
    frames: int,
    step: float,
    num_frames: int,
    *,
    short: str = "loop",
    times: np.ndarray | None = None,
) -> tuple[int, ...]:
    """Returns the frame indices of a clip: start, start + step, ..., rounded down.

    Args:
      start: position of the first frame.
      frames: number of frames of the clip.
      step: distance of its frames, see `frame_step`.
      num_frames: number of frames of the video.
      short: what follows the end of the video, see `Preprocessing.short`.
      times: seconds of every frame from the first, `[num_frames]`. If given, positions count in
        frames of the average rate, and the frame of a position is the last one shown at or before
        its time.
    """
    return _indices(snippet(start, frames, step), num_frames, short, times)


def random_view(
    num_frames: int,
    height: int,
    width: int,
    fps: float,
    preprocessing: Preprocessing,
    rng: np.random.Generator,
    *,
    crop: RandomCrop = RandomCrop(),
    sampler: Sampler | None = None,
    times: np.ndarray | None = None,
    pixel_aspect: float = 1.0,
) -> View:
    """Draws a training view.

    Args:
      num_frames, height, width, fps: properties of the video.
      preprocessing: what the network expects.
      rng: source of randomness.
      crop: distribution of the window.
      sampler: a row of `samplers.SAMPLERS`; None (default): as the preprocessing needs.
      times: seconds of every frame from the first, ascending. They are used only if the
        preprocessing states a frame rate and the video's rate varies.
      pixel_aspect: width of a pixel divided by its height, see `Preprocessing.square_pixels`.

    Raises:
      ConfigError: the sampler returns another number of positions than the preprocessing needs.
    """
    p = preprocessing
    step, times = _timing(num_frames, fps, times, p)
    drawn = draw(sampler or find_sampler("", p), num_frames, step, p, rng)
    frames = _indices(drawn, num_frames, p.short, times)
    return View(window=crop.window(height, width, p, rng, pixel_aspect), frames=frames)


def protocol_views(
    num_frames: int,
    height: int,
    width: int,
    fps: float,
    preprocessing: Preprocessing,
    protocol: Protocol,
    *,
    times: np.ndarray | None = None,
    pixel_aspect: float = 1.0,
) -> list[list[View]]:
    """Returns the views of a test protocol.

    With N frames, a clip of L frames and K clips, clip i of 0 ... K-1 starts at:

    | `starts` | start | as in |
    |---|---|---|
    | "ends" | floor(i (N - L) / (K - 1)); one clip: the middle | VMZ |
    | "dense" | as "ends", with `frames * stride` for L | TSM's code |
    | "centers" | floor((i + 1/2) (N - L + 1) / K); also the snippets of segments | TSN |
    | "parts" | floor(i (N - L) / K) | |
    | "windows" | every `frames * stride` frames; the last window may be incomplete | 3D ResNet |

    With `Preprocessing.spacing="linspace"`, L is `frames * stride`, and starts of "parts" and
    "ends" are not rounded. "parts" is then `get_start_end_idx` and `temporal_sampling` of
    PySlowFast, as if it had decoded the whole video; its selective decoding begins with the first
    frame at or after the start. So does pytorchvideo (`ConstantClipsPerVideoSampler`,
    `uniform_temporal_subsample`), which also spreads fewer frames if the video is shorter.

    Args:
      num_frames, height, width, fps: properties of the video.
      preprocessing: preprocessing of a test clip, see `Protocol.apply`.
      protocol: starts of the clips, and crops.
      times, pixel_aspect: as in `random_view`.

    Returns:
      For each clip its crops, which have the same frames.
    """
    p = preprocessing
    step, times = _timing(num_frames, fps, times, p)
    windows = fixed_windows(height, width, p, protocol.crops, pixel_aspect)
    sides = (False, True) if protocol.crops == 10 else (False,)
    if protocol.starts == "windows":
        clips = _windows(num_frames, step, p, times)
    else:
        clips = [
            _indices(
                (position for start in starts for position in positions(start, step, p)),
                num_frames,
                p.short,
                times,
            )
            for starts in _starts(num_frames, step, p, protocol)
        ]
    return [
        [View(frames, window, mirrored) for mirrored in sides for window in windows]
        for frames in clips
    ]


def _timing(
    num_frames: int, fps: float, times: np.ndarray | None, preprocessing: Preprocessing
) -> tuple[float, np.ndarray | None]:
    """Returns the distance of a clip's frames, and the times if they are needed.

    They are needed if the preprocessing states a frame rate and the video's rate varies.
    """
    if preprocessing.fps is None or times is None or num_frames < 2 or times[-1] <= 0:
        return frame_step(fps, preprocessing), None
    even = np.linspace(0, times[-1], num_frames)
    if np.abs(times - even).max() <= _ROUNDING:
        return frame_step(fps, preprocessing), None
    return frame_step((num_frames - 1) / float(times[-1]), preprocessing), times


def _indices(
    places: Iterable[float], num_frames: int, short: str, times: np.ndarray | None
) -> tuple[int, ...]:
    """Returns the frame indices of positions."""
    return tuple(_frame_at(place, num_frames, short, times) for place in places)


def _frame_at(position: float, num_frames: int, short: str, times: np.ndarray | None) -> int:
    position += EPSILON
    if position >= num_frames:
        if short != "loop":
            return num_frames - 1 if short == "hold" else BLACK
        position %= num_frames
    if times is None:
        return math.floor(position)
    seconds = position * times[-1] / (num_frames - 1)
    return int(np.searchsorted(times, seconds + _ROUNDING, "right")) - 1


def _starts(
    num_frames: int, step: float, preprocessing: Preprocessing, protocol: Protocol
) -> list[list[float]]:
    """Returns the starts of the segments of each clip."""
    p, k = preprocessing, protocol.clips
    if p.spacing == "linspace" and p.segments == 1 and protocol.starts in ("parts", "ends"):
        free = free_frames(num_frames, step, p)
        if protocol.starts == "parts":
            return [[free * i / k] for i in range(k)]
        return [[free * i / (k - 1)] for i in range(k)] if k > 1 else [[free / 2]]
    last = last_start(num_frames, p.snippet, distance(step, p))
    if p.segments > 1 or protocol.starts == "centers":
        # Clip i of k takes the i-th of k equal parts of every segment.
        part = (last + 1) / p.segments
        return [
            [math.floor(part * (segment + (i + 0.5) / k)) for segment in range(p.segments)]
            for i in range(k)
        ]
    if protocol.starts == "dense":
        last = last_dense_start(num_frames, p.snippet, step)
    if protocol.starts == "parts":
        return [[i * last // k] for i in range(k)]
    if k == 1:
        return [[last // 2]]
    return [[i * last // (k - 1)] for i in range(k)]


def _windows(
    num_frames: int, step: float, preprocessing: Preprocessing, times: np.ndarray | None
) -> list[tuple[int, ...]]:
    p = preprocessing
    steps = math.ceil((num_frames - EPSILON) / step)
    # Motion between two windows belongs to the first, which reads one frame of the second.
    ends = max(steps - (p.snippet - p.frames), 1)
    clips = []
    for first in range(0, ends, p.frames):
        length = min(p.snippet, steps - first)
        own = clip_frames(first * step, length, step, num_frames, times=times)
        # An incomplete window is filled like a short video.
        filled = clip_frames(0, p.snippet, 1, length, short=p.short)
        clips.append(tuple(BLACK if i == BLACK else own[i] for i in filled))
    return clips
