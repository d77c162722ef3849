"""Transfer of frames as 4:2:0 planes, as video files store them.

Converting a frame to RGB on the host takes longer than decoding it. Therefore the host crops and
scales the planes Y, Cb and Cr; the device converts them to RGB (`inference.prepare.to_rgb`). A
frame then has half the bytes of RGB.

A transferred frame of side S is uint8 `[S * S + 2 * h * h + 1]` with h = ceil(S / 2): Y `[S, S]`,
Cb `[h, h]`, Cr `[h, h]`, and the index of its matrix in `colors.MATRICES`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from jaxvideo.data.colors import UNSTATED, matrix_index
from jaxvideo.types import View, Window

# `color_range` of FFmpeg: 2 is full range (0 to 255).
_FULL = 2

# Pixel format of frames without separate planes.
_CONVERTED = "yuv420p"


@dataclasses.dataclass(frozen=True, eq=False)
class Planes:
    """The upright planes of a frame, at the size of the video.

    Attributes:
      arrays: uint8 or uint16 `[H, W]`: Y, or Y, Cb and Cr.
      bits: 8 to 16; the bits of a value that are used.
      matrix: row of `colors.MATRICES`.
    """

    arrays: tuple[np.ndarray, ...]
    bits: int
    matrix: int


def length(size: int) -> int:
    """Returns the number of bytes of a transferred frame of side `size`."""
    return size * size + 2 * _half(size) ** 2 + 1


def cut_planes(frame: Any, view: View, size: int, reformatter: VideoReformatter) -> np.ndarray:
    """Crops a frame to a view's window and scales it.

    Every plane is scaled by `scaled`, as RGB is. The window in the planes of color is
    rounded outwards to whole pixels.

    Args:
      frame: a PyAV frame with any pixel format, its planes, or uint8 RGB `[H, W, 3]`.
      view: the window refers to the upright frame.
      size: side of the result in pixels.
      reformatter: converts pixel formats that have no separate planes.

    Returns:
      uint8 `[length(size)]`.
    """
    if isinstance(frame, np.ndarray):
        return _from_rgb(scaled(_window(frame, view.window), size), view.mirrored, size)
    planes = frame if isinstance(frame, Planes) else planes_of(frame, reformatter)
    out = np.empty(length(size), np.uint8)
    out[-1] = planes.matrix
    windows = _windows(view.window, tuple(array.shape for array in planes.arrays))
    first = 0
    for plane, window in zip(planes.arrays, windows, strict=True):
        side = _half(size) if first else size
        place = out[first : first + side * side].reshape(side, side)
        if view.mirrored or planes.bits > 8:
            picture = _eight_bits(scaled(plane[window], side), planes.bits)
            place[:] = picture[:, ::-1] if view.mirrored else picture
        else:
            scaled(plane[window], side, place)
        first += side * side
    if len(planes.arrays) == 1:
        out[first:-1] = 128
    return out


def planes_of(frame: Any, reformatter: VideoReformatter) -> Planes:
    """Returns the upright planes of a PyAV frame without copying.

    Pixel formats that have no separate planes of 8 to 16 bits are converted to 4:2:0.
    """
    name, stored = frame.format.name, frame.planes
    layout = _layout(name)
    matrix, full = int(frame.colorspace), int(frame.color_range) == _FULL
    if layout is None or min(plane.line_size for plane in stored) <= 0:
        frame = reformatter.reformat(frame, format=_CONVERTED)
        name, stored = _CONVERTED, frame.planes
        layout = _layout(name)
        matrix, full = int(frame.colorspace), False
    assert layout
    bits, always_full, parts = layout
    dtype, each = (np.uint8, 1) if bits == 8 else (np.uint16, 2)
    planes = []
    for part, (height, width) in zip(parts, _sides(name, frame.height, frame.width), strict=True):
        plane = stored[part]
        rows = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // each)
        planes.append(rows[:height, :width])
    if turns := round(frame.rotation / 90) % 4:
        planes = [np.ascontiguousarray(np.rot90(plane, turns)) for plane in planes]
    return Planes(tuple(planes), bits, matrix_index(matrix, full or always_full))


def shapes_of(
    name: str, height: int, width: int, rotation: int
) -> tuple[tuple[tuple[int, ...], ...], int]:
    """Returns the shapes and the bits of the planes that `planes_of` returns.

    Args:
      name: FFmpeg's name of the pixel format.
      height, width: size of the upright frame.
      rotation: rotation that was applied, in degrees.
    """
    name = name if _layout(name) else _CONVERTED
    layout = _layout(name)
    assert layout
    if rotation % 180:
        return tuple(side[::-1] for side in _sides(name, width, height)), layout[0]
    return _sides(name, height, width), layout[0]


def scaled(picture: np.ndarray, size: int, out: np.ndarray | None = None) -> np.ndarray:
    """Scales a picture `[H, W]` or `[H, W, C]` to `[size, size]` or `[size, size, C]`.

    Bilinear, up to a factor of two in one OpenCV call, as in the libraries that published
    weights come from. For larger factors the picture is first halved repeatedly: otherwise
    bilinear interpolation would skip pixels, and INTER_AREA takes several times as long.

    Args:
      picture: uint8 or uint16.
      size: side of the result.
      out: receives the result; None (default): a new array.
    """
    halvings = 0
    while min(picture.shape[:2]) > 2 * size << halvings:
        halvings += 1
    for left in range(halvings, -1, -1):
        side = size << left
        dst = None if left else out
        picture = cv2.resize(picture, (side, side), dst=dst, interpolation=cv2.INTER_LINEAR)
    return picture


@functools.cache
def _layout(name: str) -> tuple[int, bool, tuple[int, ...]] | None:
    """Returns (bits, full range, places of the planes) of a pixel format with planes Y, Cb and Cr.

    None for other formats.

    The JPEG variants and gray have full range by definition.
    """
    found = av.VideoFormat(name)
    color = [component for component in found.components if not component.is_alpha]
    bits = {component.bits for component in color}
    gray = len(color) == 1 and name.startswith("gray")
    if found.is_rgb or found.has_palette or found.is_bit_stream or found.is_big_endian:
        return None
    if len(bits) != 1 or not 8 <= (depth := bits.pop()) <= 16:
        return None
    planar = len({component.plane for component in color}) == len(color) == 3
    if not gray and not (found.is_planar and planar):
        return None
    return depth, gray or name.startswith("yuvj"), tuple(component.plane for component in color)


@functools.lru_cache(maxsize=256)
def _sides(name: str, height: int, width: int) -> tuple[tuple[int, int], ...]:
    """Returns (height, width) of the planes of a pixel format in `_layout`."""
    layout, parts = _layout(name), av.VideoFormat(name, width, height).components
    assert layout
    return tuple((part.height, part.width) for part in parts[: len(layout[2])])


def _eight_bits(picture: np.ndarray, bits: int) -> np.ndarray:
    return picture if bits == 8 else cv2.convertScaleAbs(picture, alpha=1 / (1 << bits - 8))


def _from_rgb(picture: np.ndarray, mirrored: bool, size: int) -> np.ndarray:
    """Converts uint8 RGB `[size, size, 3]`."""
    luma, cr, cb = cv2.split(cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb))
    side = _half(size)
    small = [cv2.resize(c, (side, side), interpolation=cv2.INTER_AREA) for c in (cb, cr)]
    planes: Sequence[np.ndarray] = [luma, *small]
    if mirrored:
        planes = [plane[:, ::-1] for plane in planes]
    kind = np.asarray([matrix_index(UNSTATED, True)], np.uint8)
    return np.concatenate([*(plane.ravel() for plane in planes), kind])


def _window(picture: np.ndarray, window: Window) -> np.ndarray:
    return picture[
        window.top : window.top + window.height, window.left : window.left + window.width
    ]


@functools.lru_cache(maxsize=256)
def _windows(
    window: Window, shapes: tuple[tuple[int, int], ...]
) -> tuple[tuple[slice, slice], ...]:
    """Returns the rows and columns of a window of the first plane in each plane."""
    height, width = shapes[0]
    found = []
    for rows, columns in shapes:
        down, across = rows / height, columns / width
        bottom = math.ceil((window.top + window.height) * down)
        right = math.ceil((window.left + window.width) * across)
        found.append(
            (slice(int(window.top * down), bottom), slice(int(window.left * across), right))
        )
    return tuple(found)


def _half(size: int) -> int:
    return (size + 1) // 2
