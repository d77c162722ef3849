"""Which frames and which crop: every sampling scheme as a pure function.

Frame indices count presentation order. A clip longer than its video loops from the start
(I3D, kinetics-i3d README), unless `Preprocessing.short` says otherwise. Windows are rectangles
of the source frame: cropping `crop` pixels of a frame scaled to `size` is the same picture as
scaling a window of the source to `crop`, at half the work.

Where a frame rate is asked for (`Preprocessing.fps`) and the video's varies, positions count in
frames of its average rate, and the frame of a position is the last one shown at or before its
time; starts are then spread evenly over the time, not over the frames.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from jaxvideo.types import BLACK, ConfigError, Preprocessing, Protocol, View, Window

# Quarters of the free space down and across: the corners and the center; and TSN's others.
_FIVE = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))
_THIRTEEN = (*_FIVE, (0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (1, 3), (3, 1), (3, 3))
POSITIONS: dict[str, tuple[tuple[int, int], ...]] = {
    "uniform": (),
    "five": _FIVE,
    "thirteen": _THIRTEEN,
}

# Seconds by which the times of a video of constant rate may be off: some containers keep
# milliseconds.
_ROUNDING = 1.5e-3
# Frames; a position is a sum of floats, which may come out just below a whole number.
_EPSILON = 1e-6
# Draws of a random resized crop, until one lies within the frame (torchvision).
_ATTEMPTS = 10


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """What a training crop's size and place are drawn from.

    Attributes:
      scales: the crop is cut from the frame scaled to `size` times a factor of this range:
        (1, 1.25) is 256 to 320 of a `size` of 256.
      scale_steps: 0 draws the factor uniformly; n > 1 draws one of n in geometric
        progression, the ends included (3D ResNet: five from 1 to 2).
      ratios: instead, the crop's height and width are drawn from these shares of `size`, at most
        one step apart (TSN: 1, 0.875, 0.75, 0.66 of 256); the crop then has another aspect.
      positions: "uniform" anywhere; "five", one of the four corners and the center; "thirteen",
        these, the middles of the sides and of the corners' ways to the center (TSN's code).
      areas: instead of scales and ratios, the crop's area is drawn from this range of shares
        of the frame's, `size` aside: the random resized crop of Inception (arXiv 1409.4842,
        section 6: 0.08 to 1; 3D ResNet's newer code: 0.25 to 1). Empty is off.
      aspects: then its width over its height is drawn from this range, evenly on a log scale.
    """

    scales: tuple[float, float] = (1.0, 1.0)
    scale_steps: int = 0
    ratios: tuple[float, ...] = ()
    positions: str = "uniform"
    areas: tuple[float, ...] = ()
    aspects: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self):
        for name in ("scales", "ratios", "areas", "aspects"):  # JSON knows lists only
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.scales) != 2 or not 1 <= self.scales[0] <= self.scales[1]:
            raise ConfigError(f"augment.scales={self.scales}: two factors, 1 <= low <= high")
        if self.scale_steps < 0 or self.scale_steps == 1:
            raise ConfigError(f"augment.scale_steps={self.scale_steps}: 0, or at least 2")
        if self.positions not in POSITIONS:
            raise ConfigError(
                f"augment.positions={self.positions!r}: allowed are {', '.join(POSITIONS)}"
            )
        if any(not 0 < ratio <= 1 for ratio in self.ratios):
            raise ConfigError(f"augment.ratios={self.ratios}: shares of the short side, up to 1")
        if self.ratios and self.scales != (1.0, 1.0):
            raise ConfigError(f"augment.ratios={self.ratios}, scales={self.scales}: one of the two")
        if self.areas and not (len(self.areas) == 2 and 0 < self.areas[0] <= self.areas[1] <= 1):
            raise ConfigError(f"augment.areas={self.areas}: two shares, 0 < low <= high <= 1")
        if len(self.aspects) != 2 or not 0 < self.aspects[0] <= self.aspects[1]:
            raise ConfigError(f"augment.aspects={self.aspects}: two ratios, 0 < low <= high")
        if self.areas and (self.ratios or self.scales != (1.0, 1.0)):
            raise ConfigError(
                f"augment.areas={self.areas}, scales={self.scales}, ratios={self.ratios}: "
                "one of the three"
            )

    def window(
        self, height: int, width: int, preprocessing: Preprocessing, rng: np.random.Generator
    ) -> Window:
        """A window of a frame, drawn."""
        p = preprocessing
        if self.areas:
            h, w, drawn = self._resized(height, width, rng)
            if not drawn:
                return Window((height - h) // 2, (width - w) // 2, h, w)
        elif self.ratios:
            n = len(self.ratios)
            pairs = [(i, j) for i in range(n) for j in range(n) if abs(i - j) <= 1]
            shares = [self.ratios[i] * p.size / p.crop for i in pairs[rng.integers(len(pairs))]]
            h, w = window_size(height, width, p, *(1 / share for share in shares))
        else:
            h, w = window_size(height, width, p, self._scale(rng))
        return Window(*self._place(height - h, width - w, rng), h, w)

    def _resized(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, bool]:
        """Height and width by `areas` and `aspects`, and whether a draw fitted; if none did,
        the largest of the aspects, for the middle."""
        low, high = self.aspects
        for _ in range(_ATTEMPTS):
            area = height * width * rng.uniform(self.areas[0], self.areas[1])
            aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
            h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 0 < h <= height and 0 < w <= width:
                return h, w, True
        aspect = min(max(width / height, low), high)
        return min(height, round(width / aspect)), min(width, round(height * aspect)), False

    def _scale(self, rng: np.random.Generator) -> float:
        low, high = self.scales
        if not self.scale_steps:
            return rng.uniform(low, high)
        return low * (high / low) ** (rng.integers(self.scale_steps) / (self.scale_steps - 1))

    def _place(self, free_h: int, free_w: int, rng: np.random.Generator) -> tuple[int, int]:
        """(top, left), drawn; `free_h` and `free_w` pixels are left beside the crop."""
        places = POSITIONS[self.positions]
        if not places:
            return int(rng.integers(free_h + 1)), int(rng.integers(free_w + 1))
        down, across = places[rng.integers(len(places))]
        return down * free_h // 4, across * free_w // 4


def frame_step(fps: float, preprocessing: Preprocessing) -> float:
    """Distance between a clip's frames, in frames of a video that has `fps`."""
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
    """Indices of a clip: start, start + step, ..., rounded down.

    Past the end come the first frames, the last one or `BLACK` (`Preprocessing.short`). With
    `times`, seconds of every frame from the first, positions count in frames of the average
    rate, and the frame of one is the last shown at or before it.
    """
    return tuple(_frame_at(start + i * step, num_frames, short, times) for i in range(frames))


def _frame_at(position: float, num_frames: int, short: str, times: np.ndarray | None) -> int:
    position += _EPSILON
    if position >= num_frames:
        if short != "loop":
            return num_frames - 1 if short == "hold" else BLACK
        position %= num_frames
    if times is None:
        return math.floor(position)
    seconds = position * times[-1] / (num_frames - 1)
    return int(np.searchsorted(times, seconds + _ROUNDING, "right")) - 1


def last_start(num_frames: int, frames: int, step: float) -> int:
    """The last first frame from which a whole clip fits (0 if none does)."""
    span = math.floor((frames - 1) * step + _EPSILON) + 1
    return max(num_frames - span, 0)


def _timing(
    num_frames: int, fps: float, times: np.ndarray | None, preprocessing: Preprocessing
) -> tuple[float, np.ndarray | None]:
    """Distance between a clip's frames, and the times where they are needed: a rate is asked
    for, and the video's varies."""
    if preprocessing.fps is None or times is None or num_frames < 2 or times[-1] <= 0:
        return frame_step(fps, preprocessing), None
    even = np.linspace(0, times[-1], num_frames)
    if np.abs(times - even).max() <= _ROUNDING:
        return frame_step(fps, preprocessing), None
    return frame_step((num_frames - 1) / float(times[-1]), preprocessing), times


def random_view(
    num_frames: int,
    height: int,
    width: int,
    fps: float,
    preprocessing: Preprocessing,
    rng: np.random.Generator,
    *,
    crop: RandomCrop = RandomCrop(),
    times: np.ndarray | None = None,
) -> View:
    """A training view: frames at a uniformly drawn start, and a crop.

    `times` are the seconds of every frame from the first, ascending; they matter only where
    the preprocessing asks for a frame rate and the video's varies.

    With segments, a start is drawn in each equal part of the possible ones (TSN, arXiv
    1608.00859, section 3.1); where there are fewer than segments, they are drawn with
    replacement, in order.
    """
    p = preprocessing
    step, times = _timing(num_frames, fps, times, p)
    choices = last_start(num_frames, p.snippet, step) + 1
    each, k = choices // p.segments, p.segments
    if each:
        starts = [i * each + int(rng.integers(each)) for i in range(k)]
    else:
        starts = sorted(int(start) for start in rng.integers(choices, size=k))
    frames = _snippets(starts, p, step, num_frames, times)
    return View(window=crop.window(height, width, p, rng), frames=frames)


def protocol_views(
    num_frames: int,
    height: int,
    width: int,
    fps: float,
    preprocessing: Preprocessing,
    protocol: Protocol,
    *,
    times: np.ndarray | None = None,
) -> list[list[View]]:
    """The views of a protocol: for each clip, its crops (which share their frames).

    Clip starts are floor(i (N - L) / (K - 1)) for i = 0 ... K-1 (VMZ); one clip is the
    middle one. "dense" takes `frames * stride` for the length L (TSM's code), whose last frames
    a clip does not reach. "centers" are floor((i + 1/2) (N - L + 1) / K) (TSN), and so are the
    snippets of a clip with segments. "parts" are floor(i (N - L) / K) (SlowFast's code).
    "windows" are every `frames * stride` frames from the first; what is left at the end is a
    clip too, filled by itself (3D ResNet's code). Three crops lie at the start, the middle and
    the end of the longer side. `times` as in `random_view`.
    """
    p = preprocessing
    step, times = _timing(num_frames, fps, times, p)
    h, w = window_size(height, width, p)
    windows = [Window(y, x, h, w) for y, x in _places(height - h, width - w, protocol.crops)]
    sides = (False, True) if protocol.crops == 10 else (False,)
    if protocol.starts == "windows":
        clips = _windows(num_frames, step, p, times)
    else:
        starts = _starts(num_frames, step, p, protocol)
        clips = [_snippets(clip, p, step, num_frames, times) for clip in starts]
    return [
        [View(frames, window, mirrored) for mirrored in sides for window in windows]
        for frames in clips
    ]


def _starts(
    num_frames: int, step: float, preprocessing: Preprocessing, protocol: Protocol
) -> list[list[int]]:
    """For each clip, the start of each of its segments."""
    p, k = preprocessing, protocol.clips
    last = last_start(num_frames, p.snippet, step)
    if p.segments > 1 or protocol.starts == "centers":
        # Clip i of k takes the i-th of k equal parts of every segment.
        part = (last + 1) / p.segments
        return [
            [math.floor(part * (segment + (i + 0.5) / k)) for segment in range(p.segments)]
            for i in range(k)
        ]
    if protocol.starts == "dense":
        last = max(num_frames - math.floor(p.snippet * step + _EPSILON), 0)
    if protocol.starts == "parts":
        return [[i * last // k] for i in range(k)]
    if k == 1:
        return [[last // 2]]
    return [[i * last // (k - 1)] for i in range(k)]


def _windows(
    num_frames: int, step: float, preprocessing: Preprocessing, times: np.ndarray | None
) -> list[tuple[int, ...]]:
    p = preprocessing
    steps = math.ceil((num_frames - _EPSILON) / step)
    # Motion between two windows belongs to the first, which reads one frame of the second.
    ends = max(steps - (p.snippet - p.frames), 1)
    clips = []
    for first in range(0, ends, p.frames):
        length = min(p.snippet, steps - first)
        own = clip_frames(first * step, length, step, num_frames, times=times)
        # A window that is not full is a short video of its own.
        filled = clip_frames(0, p.snippet, 1, length, short=p.short)
        clips.append(tuple(BLACK if i == BLACK else own[i] for i in filled))
    return clips


def _snippets(starts, preprocessing: Preprocessing, step: float, num_frames: int, times):
    p = preprocessing
    return tuple(
        index
        for start in starts
        for index in clip_frames(start, p.snippet, step, num_frames, short=p.short, times=times)
    )


def _places(free_h: int, free_w: int, crops: int) -> list[tuple[int, int]]:
    """(top, left) of the crops, `free_h` and `free_w` pixels being left beside them."""
    middle = (free_h // 2, free_w // 2)
    if crops == 1:
        return [middle]
    if crops == 3:
        if free_w >= free_h:
            return [(free_h // 2, x) for x in (0, free_w // 2, free_w)]
        return [(y, free_w // 2) for y in (0, free_h // 2, free_h)]
    return [(down * free_h // 4, across * free_w // 4) for down, across in _FIVE]


def window_size(
    height: int,
    width: int,
    preprocessing: Preprocessing,
    scale: float = 1.0,
    scale_across: float | None = None,
) -> tuple[int, int]:
    """(height, width) of the source window that becomes `crop` x `crop`, of a frame scaled by
    `scale` more than the preprocessing says, or by two scales down and across."""
    p = preprocessing
    short = min(height, width) / p.size
    sides = (height / p.size, width / p.width) if p.width else (short, short)
    scales = (scale, scale if scale_across is None else scale_across)
    h, w = (round(p.crop * side / by) for side, by in zip(sides, scales, strict=True))
    return min(max(h, 1), height), min(max(w, 1), width)
