"""Transfer of frames as 4:2:0 planes, as video files store them.

Converting a frame to RGB on the host takes longer than decoding it. Therefore the host crops and
scales the planes Y, Cb and Cr; the device converts them to RGB (`inference.prepare.to_rgb`). A
frame then has half the bytes of RGB.

A transferred frame of side S is uint8 `[S * S + 2 * h * h + 1]` with h = ceil(S / 2): Y `[S, S]`,
Cb `[h, h]`, Cr `[h, h]`, and the index of its matrix in `colors.MATRICES`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from jaxvideo.data.colors import UNSTATED, conversion, matrix_index, matrix_of
from jaxvideo.types import View, Window

#: `color_range` of FFmpeg: 16 to 235, or 0 to 255.
LIMITED, FULL = 1, 2

# Pixel format to which frames without separate planes are converted.
_CONVERTED = "yuv420p"


class Planes(NamedTuple):
    """A frame as planes.

    Attributes:
      planes: uint8 or uint16 `[H, W]`: Y, or Y, Cb and Cr.
      kind: row of `colors.MATRICES`.
      bits: bits of a value.
    """

    planes: Sequence[np.ndarray]
    kind: int
    bits: int = 8

    @property
    def convertible(self) -> bool:
        """True if `frame` can be called: 8 bits and 4:2:0 with even sides."""
        height, width = self.planes[0].shape
        half = (height // 2, width // 2)
        return (
            self.bits == 8
            and not height % 2 | width % 2
            and [plane.shape for plane in self.planes[1:]] == [half, half]
        )

    def frame(self, name: str = "yuv420p") -> av.VideoFrame:
        """Returns a PyAV frame of planes that are `convertible`; `name` is its format."""
        height, width = self.planes[0].shape
        content = np.concatenate([plane.ravel() for plane in self.planes])
        rows = content.reshape(height * 3 // 2, width)
        frame = av.VideoFrame.from_numpy_buffer(rows, format=name)
        frame.colorspace, full = matrix_of(self.kind)
        frame.color_range = FULL if full else LIMITED
        return frame


def length(size: int) -> int:
    """Returns the number of bytes of a transferred frame of side `size`."""
    return size * size + 2 * _half(size) ** 2 + 1


def cut_planes(frame: Any, view: View, size: int, reformatter: VideoReformatter) -> np.ndarray:
    """Crops a frame to a view's window and scales it.

    Every plane is scaled by `scaled`, as RGB is. The window in the planes of color is
    rounded outwards to whole pixels.

    Args:
      frame: a PyAV frame with any pixel format, `Planes`, or uint8 RGB `[H, W, 3]`.
      view: the window refers to the upright frame.
      size: side of the result in pixels.
      reformatter: converts pixel formats that have no separate planes.

    Returns:
      uint8 `[length(size)]`.
    """
    if isinstance(frame, np.ndarray):
        picture = scaled(frame[_windows(view.window, (frame.shape[:2],))[0]], size)
        planes, kind, _ = _from_rgb(cv2.flip(picture, 1) if view.mirrored else picture)
        return np.concatenate([*(plane.ravel() for plane in planes), [np.uint8(kind)]])
    planes, kind, bits = planes_of(frame, reformatter)
    out = np.empty(length(size), np.uint8)
    out[-1] = kind
    windows = _windows(view.window, tuple(plane.shape for plane in planes))
    first, side = 0, size
    for plane, window in zip(planes, windows, strict=True):
        place = out[first : first + side * side].reshape(side, side)
        if bits > 8:
            picture = _eight_bits(scaled(plane[window], side), bits)
            place[:] = picture[:, ::-1] if view.mirrored else picture
        elif view.mirrored:
            cv2.flip(scaled(plane[window], side), 1, dst=place)
        else:
            scaled(plane[window], side, place)
        first, side = first + side * side, _half(size)
    if len(planes) == 1:
        out[first:-1] = 128
    return out


def area_planes(frame: Any, height: int, width: int, reformatter: VideoReformatter) -> Planes:
    """Scales a frame by INTER_AREA: antialiased, but too slow for what is done in every epoch.

    Args:
      frame: a PyAV frame with any pixel format, `Planes`, or uint8 RGB `[H, W, 3]`.
      height, width: size of the result, even.
      reformatter: converts pixel formats that have no separate planes.

    Returns:
      uint8 Y `[height, width]`, Cb and Cr `[height / 2, width / 2]`.
    """
    if isinstance(frame, np.ndarray):
        return _from_rgb(_area(frame, height, width))
    planes, kind, bits = planes_of(frame, reformatter)
    sides = ((height, width), *[(height // 2, width // 2)] * 2)
    found = [
        _eight_bits(_area(plane, *side), bits) for plane, side in zip(planes, sides, strict=False)
    ]
    return Planes(found + [np.full(side, 128, np.uint8) for side in sides[len(found) :]], kind)


def convert_planes(picture: Planes, kind: int) -> Planes:
    """Converts uint8 4:2:0 planes to another row of `colors.MATRICES`.

    The colors are the same to the rounding of the values, except that the planes of color are
    interpolated for luma if the matrices differ.
    """
    if picture.kind == kind:
        return picture
    matrix = conversion(picture.kind, kind)
    luma, *colors = (plane.astype(np.float32) for plane in picture.planes)
    size = luma.shape[::-1]
    large = [luma, *(cv2.resize(c, size, interpolation=cv2.INTER_LINEAR) for c in colors)]
    # Luma has no part in Cb and Cr: gray has 128 with every matrix.
    rows = ((matrix[0, :3], large), *((matrix[i, 1:3], colors) for i in (1, 2)))
    planes = []
    for (weights, parts), zero in zip(rows, matrix[:, 3], strict=True):
        values = sum(weight * part for weight, part in zip(weights, parts, strict=True)) + zero
        planes.append(np.clip(np.rint(values), 0, 255).astype(np.uint8))
    return Planes(planes, kind)


def planes_of(frame: Any, reformatter: VideoReformatter) -> Planes:
    """Returns the upright planes of a PyAV frame without copying; `Planes` as they are.

    Pixel formats that have no separate planes of 8 to 16 bits are converted to 4:2:0.
    """
    if isinstance(frame, Planes):
        return frame
    name, stored = frame.format.name, frame.planes
    layout = _layout(name)
    matrix, full = int(frame.colorspace), int(frame.color_range) == FULL
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
    return Planes(planes, matrix_index(matrix, full or always_full), bits)


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
    return cv2.convertScaleAbs(picture, alpha=1 / (1 << bits - 8)) if bits > 8 else picture


def _from_rgb(picture: np.ndarray) -> Planes:
    """Converts uint8 RGB `[H, W, 3]` to 4:2:0 planes."""
    luma, cr, cb = cv2.split(cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb))
    height, width = map(_half, luma.shape)
    planes = [luma, *(_area(plane, height, width) for plane in (cb, cr))]
    return Planes(planes, matrix_index(UNSTATED, True))


def _area(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    if picture.shape[:2] == (height, width):
        return picture
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


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
