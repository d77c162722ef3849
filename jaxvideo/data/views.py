"""Which frames and which crop: every sampling scheme as a pure function.

Frame indices count presentation order. A clip longer than its video loops from the start
(I3D, kinetics-i3d README). Windows are rectangles of the source frame: cropping `crop` pixels
of a frame scaled to `size` is the same picture as scaling a window of the source to `crop`,
at half the work.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from jaxvideo.types import ConfigError, Preprocessing, Protocol, View, Window

# Quarters of the free space down and across: the corners and the centre; and TSN's others.
_FIVE = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))
_THIRTEEN = (*_FIVE, (0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (1, 3), (3, 1), (3, 3))
POSITIONS: dict[str, tuple[tuple[int, int], ...]] = {
    "uniform": (),
    "five": _FIVE,
    "thirteen": _THIRTEEN,
}


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
      positions: "uniform" anywhere; "five", one of the four corners and the centre; "thirteen",
        these, the middles of the sides and of the corners' ways to the centre (TSN's code).
    """

    scales: tuple[float, float] = (1.0, 1.0)
    scale_steps: int = 0
    ratios: tuple[float, ...] = ()
    positions: str = "uniform"

    def __post_init__(self):
        for name in ("scales", "ratios"):  # JSON knows lists only
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

    def window(
        self, height: int, width: int, preprocessing: Preprocessing, rng: np.random.Generator
    ) -> Window:
        """A window of a frame, drawn."""
        p = preprocessing
        if self.ratios:
            n = len(self.ratios)
            pairs = [(i, j) for i in range(n) for j in range(n) if abs(i - j) <= 1]
            shares = [self.ratios[i] * p.size / p.crop for i in pairs[rng.integers(len(pairs))]]
            h, w = window_size(height, width, p, *(1 / share for share in shares))
        else:
            h, w = window_size(height, width, p, self._scale(rng))
        return Window(*self._place(height - h, width - w, rng), h, w)

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


def clip_frames(start: float, frames: int, step: float, num_frames: int) -> tuple[int, ...]:
    """Indices of a clip: start, start + step, ..., rounded down, looped past the end."""
    return tuple(math.floor(start + i * step + 1e-6) % num_frames for i in range(frames))


def last_start(num_frames: int, frames: int, step: float) -> int:
    """The last first frame from which a whole clip fits (0 if none does)."""
    span = math.floor((frames - 1) * step + 1e-6) + 1
    return max(num_frames - span, 0)


def random_view(
    num_frames: int,
    height: int,
    width: int,
    fps: float,
    preprocessing: Preprocessing,
    rng: np.random.Generator,
    *,
    crop: RandomCrop = RandomCrop(),
) -> View:
    """A training view: frames at a uniformly drawn start, and a crop.

    With segments, a start is drawn in each equal part of the possible ones (TSN, arXiv
    1608.00859, section 3.1); where there are fewer than segments, they are drawn with
    replacement, in order.
    """
    p = preprocessing
    step = frame_step(fps, p)
    choices = last_start(num_frames, p.snippet, step) + 1
    each, k = choices // p.segments, p.segments
    if each:
        starts = [i * each + int(rng.integers(each)) for i in range(k)]
    else:
        starts = sorted(int(start) for start in rng.integers(choices, size=k))
    return View(
        window=crop.window(height, width, p, rng), frames=_snippets(starts, p, step, num_frames)
    )


def protocol_views(
    num_frames: int,
    height: int,
    width: int,
    fps: float,
    preprocessing: Preprocessing,
    protocol: Protocol,
) -> list[list[View]]:
    """The views of a protocol: for each clip, its crops (which share their frames).

    Clip starts are floor(i (N - L) / (K - 1)) for i = 0 ... K-1 (VMZ); one clip is the
    middle one. "centres" are floor((i + 1/2) (N - L + 1) / K) (TSN), and so are the snippets of
    a clip with segments. "parts" are floor(i (N - L) / K) (SlowFast's code). Three crops lie at
    the start, the middle and the end of the longer side.
    """
    p = preprocessing
    step = frame_step(fps, p)
    last = last_start(num_frames, p.snippet, step)
    k = protocol.clips
    if p.segments > 1 or protocol.starts == "centres":
        # Clip i of k takes the i-th of k equal parts of every segment.
        part = (last + 1) / p.segments
        clips = [
            [math.floor(part * (segment + (i + 0.5) / k)) for segment in range(p.segments)]
            for i in range(k)
        ]
    elif protocol.starts == "parts":
        clips = [[i * last // k] for i in range(k)]
    elif k == 1:
        clips = [[last // 2]]
    else:
        clips = [[i * last // (k - 1)] for i in range(k)]
    h, w = window_size(height, width, p)
    windows = [Window(y, x, h, w) for y, x in _places(height - h, width - w, protocol.crops)]
    sides = (False, True) if protocol.crops == 10 else (False,)
    return [
        [
            View(_snippets(starts, p, step, num_frames), window, mirrored)
            for mirrored in sides
            for window in windows
        ]
        for starts in clips
    ]


def _snippets(starts, preprocessing: Preprocessing, step: float, num_frames: int):
    length = preprocessing.snippet
    return tuple(i for start in starts for i in clip_frames(start, length, step, num_frames))


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
