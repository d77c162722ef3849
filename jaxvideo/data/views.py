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

POSITIONS = ("uniform", "five")


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """What a training crop's size and place are drawn from.

    Attributes:
      scales: the crop is cut from the frame scaled to `size` times a factor of this range:
        (1, 1.25) is 256 to 320 of a `size` of 256.
      scale_steps: 0 draws the factor uniformly; n > 1 draws one of n in geometric
        progression, the ends included (3D ResNet: five from 1 to 2).
      positions: "uniform" anywhere; "five", one of the four corners and the centre.
    """

    scales: tuple[float, float] = (1.0, 1.0)
    scale_steps: int = 0
    positions: str = "uniform"

    def __post_init__(self):
        object.__setattr__(self, "scales", tuple(self.scales))  # JSON knows lists only
        if len(self.scales) != 2 or not 1 <= self.scales[0] <= self.scales[1]:
            raise ConfigError(f"augment.scales={self.scales}: two factors, 1 <= low <= high")
        if self.scale_steps < 0 or self.scale_steps == 1:
            raise ConfigError(f"augment.scale_steps={self.scale_steps}: 0, or at least 2")
        if self.positions not in POSITIONS:
            raise ConfigError(f"augment.positions={self.positions!r}: allowed are {POSITIONS}")

    def scale(self, rng: np.random.Generator) -> float:
        """A factor, drawn."""
        low, high = self.scales
        if not self.scale_steps:
            return rng.uniform(low, high)
        return low * (high / low) ** (rng.integers(self.scale_steps) / (self.scale_steps - 1))

    def place(self, free_h: int, free_w: int, rng: np.random.Generator) -> tuple[int, int]:
        """(top, left), drawn; `free_h` and `free_w` pixels are left beside the crop."""
        if self.positions == "uniform":
            return int(rng.integers(free_h + 1)), int(rng.integers(free_w + 1))
        places = [(y, x) for y in (0, free_h) for x in (0, free_w)]
        return [*places, (free_h // 2, free_w // 2)][rng.integers(5)]


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
    """A training view: frames at a uniformly drawn start, and a crop."""
    p = preprocessing
    step = frame_step(fps, p)
    start = int(rng.integers(last_start(num_frames, p.frames, step) + 1))
    window_height, window_width = window_size(height, width, p, crop.scale(rng))
    top, left = crop.place(height - window_height, width - window_width, rng)
    frames = clip_frames(start, p.frames, step, num_frames)
    return View(frames, Window(top, left, window_height, window_width))


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
    middle one. Three crops lie at the start, the middle and the end of the longer side.
    """
    p = preprocessing
    step = frame_step(fps, p)
    last = last_start(num_frames, p.frames, step)
    if protocol.clips == 1:
        starts = [last // 2]
    else:
        starts = [i * last // (protocol.clips - 1) for i in range(protocol.clips)]
    h, w = window_size(height, width, p)
    free_h, free_w = height - h, width - w
    if protocol.crops == 1:
        windows = [Window(free_h // 2, free_w // 2, h, w)]
    elif free_w >= free_h:
        windows = [Window(free_h // 2, x, h, w) for x in (0, free_w // 2, free_w)]
    else:
        windows = [Window(y, free_w // 2, h, w) for y in (0, free_h // 2, free_h)]
    return [
        [View(clip_frames(start, p.frames, step, num_frames), window) for window in windows]
        for start in starts
    ]


def window_size(
    height: int, width: int, preprocessing: Preprocessing, scale: float = 1.0
) -> tuple[int, int]:
    """(height, width) of the source window that becomes `crop` x `crop`."""
    p = preprocessing
    short = min(height, width) / p.size
    sides = (height / p.size, width / p.width) if p.width else (short, short)
    h, w = (round(p.crop * side / scale) for side in sides)
    return min(max(h, 1), height), min(max(w, 1), width)
