"""Optical flow as pictures: colors for people, and JPEG pairs for other libraries."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from jaxvideo.data.flow import dequantize
from jaxvideo.data.stored_flow import FlowInfo
from jaxvideo.progress import write_file
from jaxvideo.types import DataError

#: File in a folder of pictures with the `FlowInfo`. It is written last: without it, the folder is
#: incomplete.
INFO = "flow.json"

# Quality of JPEG, 0 to 100: the default of OpenCV.
_QUALITY = (cv2.IMWRITE_JPEG_QUALITY, 95)

# Number of hues from red to yellow, to green, cyan, blue, magenta and back to red.
_HUES = (15, 6, 4, 11, 13, 6)


@functools.cache
def color_wheel() -> np.ndarray:
    """Returns the 55 hues of the Middlebury benchmark: uint8 RGB `[55, 3]`.

    Baker et al., "A Database and Evaluation Methodology for Optical Flow" (IJCV 2011), figure 1.
    """
    rows = []
    for number, count in enumerate(_HUES):
        ramp = 255 * np.arange(count) // count
        rising = number % 2 == 0  # red to yellow: green rises; yellow to green: red falls
        part = np.zeros((count, 3), np.uint8)
        steady, moving = ((0, 1), (1, 0), (1, 2), (2, 1), (2, 0), (0, 2))[number]
        part[:, steady] = 255
        part[:, moving] = ramp if rising else 255 - ramp
        rows.append(part)
    return np.concatenate(rows)


def flow_colors(flow: np.ndarray, largest: float | None = None) -> np.ndarray:
    """Colors flow: the hue is the direction, the saturation the speed; no motion is white.

    Motion to the right is red, down yellow, to the left cyan and up violet. Matches
    `torchvision.utils.flow_to_image`.

    Args:
      flow: `[..., H, W, 2]` in pixels.
      largest: speed in pixels of the full saturation; faster motion has the same color. None
        (default): the highest speed in `flow`, but at least one pixel.

    Returns:
      uint8 RGB `[..., H, W, 3]`.

    Raises:
      DataError: another shape.

    Example:
      >>> flow_colors(np.float32([[[0, 0], [3, 0]]])).tolist()
      [[[255, 255, 255], [255, 0, 0]]]
    """
    if flow.ndim < 3 or flow.shape[-1] != 2:
        raise DataError(f"flow of shape {flow.shape}: must be [..., H, W, 2]")
    speed = np.sqrt(np.square(flow.astype(np.float64)).sum(-1))
    largest = max(float(speed.max()), 1.0) if largest is None else largest
    saturation = np.minimum(speed / largest, 1.0)[..., None]
    wheel = color_wheel() / 255
    place = (np.arctan2(-flow[..., 1], -flow[..., 0]) / np.pi + 1) / 2 * (len(wheel) - 1)
    before = np.floor(place).astype(int)
    share = (place - before)[..., None]
    hue = (1 - share) * wheel[before] + share * wheel[(before + 1) % len(wheel)]
    return np.floor(255 * (1 - saturation * (1 - hue))).astype(np.uint8)


def write_jpegs(folder: Path, fields: Iterable[np.ndarray], info: FlowInfo) -> None:
    """Writes `flow_x_00001.jpg` and `flow_y_00001.jpg` for each field, as mmaction2 names them.

    Args:
      folder: created if it does not exist.
      fields: quantized fields, uint8 `[H, W, 2]`.
      info: metadata, stored as `flow.json`.

    Raises:
      DataError: a file cannot be written.
    """

    def pictures(field: np.ndarray) -> dict[str, np.ndarray]:
        return {f"flow_{axis}_{{:05}}.jpg": field[..., i] for i, axis in enumerate("xy")}

    _write(folder, fields, info, pictures)


def write_colors(folder: Path, fields: Iterable[np.ndarray], info: FlowInfo) -> None:
    """Writes `flow_00001.png`, colored by `flow_colors`, for each field; see `write_jpegs`."""

    def pictures(field: np.ndarray) -> dict[str, np.ndarray]:
        # No motion lies between levels 127 and 128.
        still = (field == 127) | (field == 128)
        flow = np.where(still, 0, dequantize(field, info.bound))
        return {"flow_{:05}.png": flow_colors(flow)[..., ::-1]}

    _write(folder, fields, info, pictures)


def pictures_info(folder: Path) -> FlowInfo | None:
    """Returns the metadata of a complete folder of pictures; None if there is no such folder."""
    try:
        return FlowInfo(**json.loads((folder / INFO).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write(folder: Path, fields, info: FlowInfo, pictures) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INFO).unlink(missing_ok=True)
        for number, field in enumerate(fields, 1):
            for name, picture in pictures(field).items():
                target = folder / name.format(number)
                quality = _QUALITY if target.suffix == ".jpg" else ()
                good, data = cv2.imencode(target.suffix, picture, quality)
                if not good:
                    raise OSError(f"{target.name} cannot be encoded")
                target.write_bytes(data.tobytes())
        write_file(folder / INFO, json.dumps(dataclasses.asdict(info)) + "\n")
    except OSError as error:
        raise DataError(f"{os.fspath(folder)}: cannot be written ({error})") from error
