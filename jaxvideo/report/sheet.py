"""Contact sheet: frames of several videos in one picture."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np

from jaxvideo.data.decode import read_clip
from jaxvideo.data.video import VideoFile
from jaxvideo.progress import write_file
from jaxvideo.types import DataError, View, Window

# Frames per video, and their side in pixels.
_FRAMES, _SIDE = 6, 128


def sample_frames(video: VideoFile) -> np.ndarray:
    """Reads frames evenly spaced over a video, cropped to the center square.

    Returns:
      uint8 `[n, 128, 128, 3]` with at most 6 frames.

    Raises:
      VideoError: the video cannot be read.
    """
    indices = np.linspace(0, video.num_frames - 1, min(_FRAMES, video.num_frames)).round()
    side = min(video.height, video.width)
    window = Window((video.height - side) // 2, (video.width - side) // 2, side, side)
    return read_clip(video, [View(tuple(int(i) for i in indices), window)], _SIDE)[0]


def write_sheet(
    path: str | os.PathLike[str], rows: Sequence[tuple[str, Sequence[np.ndarray]]]
) -> None:
    """Writes a PNG with one row of frames per video and its title below.

    Args:
      path: file to be written.
      rows: title and frames of each video; missing frames are gray.

    Raises:
      DataError: the file cannot be written.
    """
    line, gap = 20, 2
    width = _FRAMES * (_SIDE + gap)
    sheet = np.full((len(rows) * (_SIDE + line), width, 3), 255, np.uint8)
    for row, (title, frames) in enumerate(rows):
        top = row * (_SIDE + line)
        sheet[top : top + _SIDE] = 192
        for column, frame in enumerate(frames):
            left = column * (_SIDE + gap)
            sheet[top : top + _SIDE, left : left + _SIDE] = frame
        text = title.encode("ascii", "replace").decode()  # OpenCV draws ASCII only
        place = (4, top + _SIDE + line - 6)
        cv2.putText(sheet, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    try:
        write_file(path, cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror})") from error
