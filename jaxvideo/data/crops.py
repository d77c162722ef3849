"""Crops of a frame: random ones for training, fixed ones for test protocols.

A window is a rectangle of the source frame. Scaling a window of the source to `crop` pixels gives
the same picture as cropping `crop` pixels from a frame scaled to `size`, at half the cost.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from jaxvideo.types import ConfigError, Preprocessing, Window

# Position of a crop (down, across) in quarters of the free space: corners and center, and the
# other positions of TSN.
_FIVE = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))
_THIRTEEN = (*_FIVE, (0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (1, 3), (3, 1), (3, 3))
#: Positions of random crops by name; empty is any position.
POSITIONS: dict[str, tuple[tuple[int, int], ...]] = {
    "uniform": (),
    "five": _FIVE,
    "thirteen": _THIRTEEN,
}

# Draws of a random resized crop until one fits into the frame (matches torchvision).
_ATTEMPTS = 10


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """Distribution of the size and position of a training crop.

    Attributes:
      scales: range of the short side of the scaled frames, as a multiple of `size`; (1, 1.25) is a
        short side of 256 to 320 for `size` 256.
      scale_steps: 0 (default): the factor is uniform in `scales`; n > 1: one of n factors in
        geometric progression from low to high (3D ResNet: 5 from 1 to 2).
      ratios: alternative to `scales`: height and width of the crop are drawn from these fractions
        of `size`, at most one step apart (TSN: 1, 0.875, 0.75, 0.66 of 256). The crop then
        changes the aspect.
      positions: "uniform": anywhere; "five": the corners and the center; "thirteen": these, the
        centers of the sides, and halfway between corners and center (TSN's code).
      areas: alternative to `scales` and `ratios`: range of the crop's area as a fraction of the
        frame's, independent of `size` (random resized crop, arXiv 1409.4842, section 6: 0.08 to 1;
        3D ResNet's newer code: 0.25 to 1). Empty (default): off.
      aspects: for `areas`: range of width over height, uniform on a log scale.
    """

    scales: tuple[float, float] = (1.0, 1.0)
    scale_steps: int = 0
    ratios: tuple[float, ...] = ()
    positions: str = "uniform"
    areas: tuple[float, ...] = ()
    aspects: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self):
        for name in ("scales", "ratios", "areas", "aspects"):  # lists in JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.scales) != 2 or not 1 <= self.scales[0] <= self.scales[1]:
            raise ConfigError(
                f"augment.scales={self.scales}: must be (low, high), 1 <= low <= high"
            )
        if self.scale_steps < 0 or self.scale_steps == 1:
            raise ConfigError(f"augment.scale_steps={self.scale_steps}: must be 0 or at least 2")
        if self.positions not in POSITIONS:
            raise ConfigError(
                f"augment.positions={self.positions!r}: allowed are {', '.join(POSITIONS)}"
            )
        if any(not 0 < ratio <= 1 for ratio in self.ratios):
            raise ConfigError(f"augment.ratios={self.ratios}: must be fractions in (0, 1]")
        if self.ratios and self.scales != (1.0, 1.0):
            raise ConfigError(
                f"augment.ratios={self.ratios} and scales={self.scales} are mutually exclusive"
            )
        if self.areas and not (len(self.areas) == 2 and 0 < self.areas[0] <= self.areas[1] <= 1):
            raise ConfigError(
                f"augment.areas={self.areas}: must be (low, high), 0 < low <= high <= 1"
            )
        if len(self.aspects) != 2 or not 0 < self.aspects[0] <= self.aspects[1]:
            raise ConfigError(
                f"augment.aspects={self.aspects}: must be (low, high), 0 < low <= high"
            )
        if self.areas and (self.ratios or self.scales != (1.0, 1.0)):
            raise ConfigError(
                f"augment.areas={self.areas}, scales={self.scales} and ratios={self.ratios} are "
                "mutually exclusive"
            )

    def window(
        self,
        height: int,
        width: int,
        preprocessing: Preprocessing,
        rng: np.random.Generator,
        pixel_aspect: float = 1.0,
    ) -> Window:
        """Draws a window of a frame of `height` x `width` pixels.

        `pixel_aspect` is the width of a pixel divided by its height; it has an effect only with
        `preprocessing.square_pixels`.
        """
        p, stored = preprocessing, width
        width = shown_width(width, p, pixel_aspect)
        if self.areas:
            h, w, drawn = self._resized(height, width, rng)
            if not drawn:
                centered = Window((height - h) // 2, (width - w) // 2, h, w)
                return _stored(centered, width, stored)
        elif self.ratios:
            n = len(self.ratios)
            pairs = [(i, j) for i in range(n) for j in range(n) if abs(i - j) <= 1]
            shares = [self.ratios[i] * p.size / p.crop for i in pairs[rng.integers(len(pairs))]]
            h, w = window_size(height, width, p, *(1 / share for share in shares))
        else:
            h, w = window_size(height, width, p, self._scale(rng))
        placed = Window(*self._place(height - h, width - w, rng), h, w)
        return _stored(placed, width, stored)

    def _resized(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, bool]:
        """Draws (height, width, True) from `areas` and `aspects`.

        If no draw fits into the frame: the largest size within `aspects`, and False.
        """
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
        """Draws (top, left), with `free_h` and `free_w` pixels of the frame outside the crop."""
        places = POSITIONS[self.positions]
        if not places:
            return int(rng.integers(free_h + 1)), int(rng.integers(free_w + 1))
        down, across = places[rng.integers(len(places))]
        return down * free_h // 4, across * free_w // 4


def fixed_windows(
    height: int, width: int, preprocessing: Preprocessing, crops: int, pixel_aspect: float = 1.0
) -> list[Window]:
    """Returns the windows of a test protocol.

    Args:
      height, width: size of the frame in pixels.
      preprocessing: size and crop of the network's input.
      crops: 1: center; 3: start, middle and end of the longer side; 5 or 10: corners and center.
      pixel_aspect: see `RandomCrop.window`.
    """
    shown = shown_width(width, preprocessing, pixel_aspect)
    h, w = window_size(height, shown, preprocessing)
    places = _fixed_places(height - h, shown - w, crops)
    return [_stored(Window(y, x, h, w), shown, width) for y, x in places]


def shown_width(width: int, preprocessing: Preprocessing, pixel_aspect: float) -> int:
    """Returns the width of a frame in square pixels, if the preprocessing asks for them."""
    return max(round(width * pixel_aspect), 1) if preprocessing.square_pixels else width


def _stored(window: Window, shown: int, width: int) -> Window:
    """Maps a window of a frame that is shown `shown` pixels wide to its `width` stored pixels."""
    if shown == width:
        return window
    left, right = (round(x * width / shown) for x in (window.left, window.left + window.width))
    left = min(left, width - 1)
    return Window(window.top, left, window.height, max(right - left, 1))


def _fixed_places(free_h: int, free_w: int, crops: int) -> list[tuple[int, int]]:
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
    """Returns (height, width) of the source window that is scaled to `crop` x `crop` pixels.

    Args:
      height, width: size of the frame in pixels.
      preprocessing: size and crop of the network's input.
      scale: factor on the size to which the preprocessing scales frames.
      scale_across: the same for the width; None (default): equal to `scale`.
    """
    p = preprocessing
    short = min(height, width) / p.size
    sides = (height / p.size, width / p.width) if p.width else (short, short)
    scales = (scale, scale if scale_across is None else scale_across)
    h, w = (round(p.crop * side / by) for side, by in zip(sides, scales, strict=True))
    return min(max(h, 1), height), min(max(w, 1), width)
