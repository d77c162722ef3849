"""Open videos: files, folders of frames, encoded bytes and arrays."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition

from jaxvideo.data.probe import FrameTable, check_boxes, probe, reason
from jaxvideo.types import DataError, VideoError

#: File name endings of the frames in a folder, and of videos.
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
VIDEOS = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".gif")

#: The stored flow of `NAME.mp4` is `NAME.flow.mkv`; it does not count as a video.
FLOW_ENDING = ".flow.mkv"

# HMDB51's metadata is not UTF-8. PyAV up to 18 raises an error for it by default.
_OPEN: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)

#: Yields (index, frame) for ascending frame indices: uint8 RGB `[H, W, 3]`, or PyAV frames.
Reader = Callable[[Sequence[int]], Iterator[tuple[int, Any]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoFile(FrameTable):
    """An open video and its frame table.

    Frames come from `stream`, or from `images` (a folder of frames), or from `reader`.

    Attributes:
      path: path of the file or folder, or the name given to bytes.
      container, stream: PyAV objects; None without a stream.
      images: paths of the frames of a folder.
      reader: yields the frames of any other source.
      planar: frames are stored as planes of luma and color, not as RGB.
    """

    path: str
    container: Any = None
    stream: Any = None
    images: tuple[str, ...] = ()
    reader: Reader | None = None
    planar: bool = False


@contextlib.contextmanager
def open_video(
    source: str | os.PathLike[str] | bytes | np.ndarray, *, name: str = "<bytes>"
) -> Iterator[VideoFile]:
    """Opens a video and reads its frame table.

        with open_video("clip.mp4") as video:
            print(video.num_frames, video.fps)

    Args:
      source: path of a video file; path of a folder of frames, ordered by the numbers in their
        names; encoded bytes of a video file; or frames, uint8 `[T, H, W, 3]` RGB, without times.
      name: name of `bytes` in error messages.

    Raises:
      VideoError: the source does not exist, is not a video, has no video stream or no frame that
        can be decoded, has frames of more than 2^26 pixels, or states more frames than it can
        hold. The message names the file.
    """
    if isinstance(source, np.ndarray):
        yield _array_video(source)
        return
    path = name if isinstance(source, bytes) else os.fspath(source)
    if not isinstance(source, bytes) and os.path.isdir(path):
        yield _folder_video(path)
        return
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(path, "rb") as file:
            size = check_boxes(path, file)
        container = av.open(io.BytesIO(source) if isinstance(source, bytes) else path, **_OPEN)
    except (OSError, ValueError, FFmpegError) as error:
        raise VideoError(f"{path}: cannot be opened as a video ({reason(error)})") from error
    with container:
        # FFmpeg presents the cover picture of an audio file as a video stream.
        covers = [s.disposition & Disposition.attached_pic for s in container.streams.video]
        streams = [s for s, cover in zip(container.streams.video, covers, strict=True) if not cover]
        if not streams:
            raise VideoError(f"{path}: has no video stream")
        table = probe(path, container, streams[0], size)
        stream = streams[0]
        yield VideoFile(path=path, container=container, stream=stream, planar=True, **vars(table))


def reader_video(
    path: str,
    reader: Reader,
    times: np.ndarray,
    keyframes: np.ndarray,
    height: int,
    width: int,
    *,
    planar: bool = False,
) -> VideoFile:
    """Returns a video whose frames are read by a function.

    Args:
      path: name of the video in error messages.
      reader: yields (index, frame) for ascending indices, see `Reader`.
      times: seconds from the first frame, `[num_frames]`, ascending.
      keyframes: indices of the key frames, ascending.
      height, width: size of the frames.
      planar: the reader yields PyAV frames.
    """
    span = float(times[-1] - times[0])
    return VideoFile(
        path=path,
        pts=np.arange(len(times)),
        times=times,
        keyframes=keyframes,
        height=height,
        width=width,
        fps=(len(times) - 1) / span if span > 0 else 0.0,
        rotation=0,
        seekable=True,
        reader=reader,
        planar=planar,
    )


def find_videos(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Expands paths to videos.

    A file and a folder of frames are one video each. Any other folder is searched recursively,
    in sorted order.

    Raises:
      DataError: a path does not exist, or a folder contains no video.
    """
    found = []
    for path in [os.fspath(path) for path in paths]:
        if not os.path.exists(path):
            raise DataError(f"{path}: no such file or folder")
        below = _videos_below(path) if os.path.isdir(path) else [path]
        if not below:
            raise DataError(
                f"{path}: contains no video ({', '.join(VIDEOS)}) and no folder of frames"
            )
        found += below
    return found


def is_video(name: str) -> bool:
    """True if a file name is that of a video; stored flow is not a video."""
    return name.lower().endswith(VIDEOS) and not name.endswith(FLOW_ENDING)


def frames_in(folder: str | os.PathLike[str]) -> list[str]:
    """Returns the paths of a folder's images, ordered by the numbers in their names.

    `frame_2.jpg` comes before `frame_10.jpg`.
    """
    names = [name for name in os.listdir(folder) if name.lower().endswith(IMAGES)]
    names.sort(key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])
    return [os.path.join(folder, name) for name in names]


def read_image(path: str) -> np.ndarray:
    """Reads an image file: uint8 RGB `[H, W, 3]`.

    Raises:
      VideoError: the file is missing or not an image.
    """
    try:
        # `cv2.imread` returns None and prints a warning if it cannot read a file.
        picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
    except (OSError, cv2.error) as error:
        raise VideoError(f"{path}: cannot be read as an image ({reason(error)})") from error
    if picture is None:
        raise VideoError(f"{path}: cannot be read as an image")
    return picture


def _videos_below(folder: str) -> list[str]:
    if frames_in(folder):
        return [folder]
    found = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            found += _videos_below(path)
        elif is_video(name):
            found.append(path)
    return found


def _folder_video(path: str) -> VideoFile:
    images = frames_in(path)
    if not images:
        raise VideoError(f"{path}: contains no frames ({', '.join(IMAGES)})")
    size = read_image(images[0]).shape
    return _untimed_video(path, len(images), size, images=tuple(images))


def _array_video(frames: np.ndarray) -> VideoFile:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        hint = ""
        if frames.ndim == 4 and 3 in frames.shape[:2] and frames.shape[-1] != 3:
            hint = ". The axes seem to be in PyTorch's order, channels first; transpose them"
        raise VideoError(
            f"an array of {frames.dtype} {list(frames.shape)} is not a video; expected: uint8 "
            f"[T, H, W, 3]{hint}"
        )

    def read(wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        return ((index, frames[index]) for index in wanted)

    return _untimed_video("<array>", len(frames), frames.shape[1:], reader=read)


def _untimed_video(path: str, count: int, size: Sequence[int], **source: Any) -> VideoFile:
    """Returns a video of `count` frames of `size` (H, W, ...) without times."""
    numbers = np.arange(count)
    return VideoFile(
        path=path,
        pts=numbers,
        times=numbers.astype(np.float64),
        keyframes=numbers,
        height=size[0],
        width=size[1],
        fps=0.0,
        rotation=0,
        seekable=True,
        **source,
    )
