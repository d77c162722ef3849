"""Frames out of video files, exactly the ones a View asks for.

One PyAV container per clip, one thread per decoder: parallelism belongs to the loader, and
FFmpeg's own frame threads can deadlock with Python's logging. The presentation times of all
frames come from demuxing the packets (1 to 3 ms for ten seconds), so a frame's index means
the same in files of constant and variable frame rate, and seeking is exact.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError

from jaxvideo.types import DataError, VideoError, View

# A packet this small in an MPEG-4 AVI is the filler of a packed B-frame; decoders then give
# times that are not monotonic, and only counting from the start finds a frame (HMDB51).
_PACKED_BYTES = 10


#: Endings of the frames in a folder, and of the files that are looked for in one.
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
VIDEOS = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".gif")
# HMDB51's metadata is not UTF-8, which PyAV up to 18 takes for an error unless told otherwise.
_OPEN: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)

#: Stored flow beside a video `NAME.mp4` is `NAME.flow.mkv`, which is no video of its own.
FLOW_ENDING = ".flow.mkv"


@dataclasses.dataclass(frozen=True)
class VideoFile:
    """An open video and the table of its frames, in presentation order.

    `pts` are in units of the stream's time base; `keyframes` are indices into `pts`.
    `height` and `width` are of the upright frame, rotation applied. `fps` is the average, 0
    where nothing tells it. A folder of `images` is a video too, and has no stream.
    """

    path: str
    container: Any
    stream: Any
    pts: np.ndarray
    keyframes: np.ndarray
    height: int
    width: int
    fps: float
    seekable: bool
    images: tuple[str, ...] = ()

    @property
    def num_frames(self) -> int:
        return len(self.pts)


@contextlib.contextmanager
def open_video(path: str | os.PathLike[str]) -> Iterator[VideoFile]:
    """Opens a video file, or a folder of frames in the order of their numbers, and reads its
    frame table.

    Raises:
      VideoError: no such file, not a video, no video stream, no frames. It names the file.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        yield _frame_folder(path)
        return
    try:
        container = av.open(path, **_OPEN)
    except (OSError, ValueError, FFmpegError) as error:
        raise VideoError(f"{path}: cannot be opened as a video ({_reason(error)})") from error
    with container:
        if not container.streams.video:
            raise VideoError(f"{path}: has no video stream")
        yield _frame_table(path, container)


def find_videos(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The videos that paths mean: a file is one; so is a folder with frames in it; any other
    folder means all below it, sorted.

    Raises:
      DataError: a path does not exist, or a folder holds no video.
    """
    found = []
    for path in [os.fspath(path) for path in paths]:
        if not os.path.exists(path):
            raise DataError(f"{path}: no such file or folder")
        below = _below(path) if os.path.isdir(path) else [path]
        if not below:
            raise DataError(f"{path}: no video ({', '.join(VIDEOS)}) and no folder of frames in it")
        found += below
    return found


def _below(folder: str) -> list[str]:
    if frames_in(folder):
        return [folder]
    found = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            found += _below(path)
        elif name.lower().endswith(VIDEOS) and not name.endswith(FLOW_ENDING):
            found.append(path)
    return found


def read_clip(video: VideoFile, views: Sequence[View], size: int) -> np.ndarray:
    """The frames of views that share them: uint8 `[views, T, size, size, 3]`, RGB.

    Each frame is decoded once and cropped and scaled (bilinear) in one OpenCV call per view.

    Raises:
      VideoError: a frame cannot be decoded, or is decoded from corrupt packets.
    """
    wanted = views[0].frames
    out = np.empty((len(views), len(wanted), size, size, 3), np.uint8)
    places: dict[int, list[int]] = {}
    for place, index in enumerate(wanted):
        places.setdefault(index, []).append(place)
    for index, frame in _decode(video, sorted(places)):
        first, *others = places[index]
        for number, view in enumerate(views):
            w = view.window
            part = frame[w.top : w.top + w.height, w.left : w.left + w.width]
            cv2.resize(part, (size, size), dst=out[number, first], interpolation=cv2.INTER_LINEAR)
            if view.mirrored:
                out[number, first] = out[number, first, :, ::-1].copy()
        out[:, others] = out[:, first : first + 1]
    return out


def read_frames(video: VideoFile, first: int, last: int, height: int, width: int) -> np.ndarray:
    """Frames `first` to `last` (exclusive), whole and scaled: uint8 `[T, height, width, 3]`.

    Raises:
      VideoError: a frame cannot be decoded, or is decoded from corrupt packets.
    """
    out = np.empty((last - first, height, width, 3), np.uint8)
    for index, frame in _decode(video, range(first, last)):
        place = out[index - first]
        cv2.resize(frame, (width, height), dst=place, interpolation=cv2.INTER_LINEAR)
    return out


def frames_in(folder: str | os.PathLike[str]) -> list[str]:
    """Paths of the pictures in a folder, by the numbers in their names: frame_2 before frame_10."""
    names = [name for name in os.listdir(folder) if name.lower().endswith(IMAGES)]
    names.sort(key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])
    return [os.path.join(folder, name) for name in names]


def _frame_folder(path: str) -> VideoFile:
    images = frames_in(path)
    if not images:
        raise VideoError(f"{path}: holds no frames ({', '.join(IMAGES)})")
    height, width, _ = _read_image(images[0]).shape
    numbers = np.arange(len(images))
    return VideoFile(path, None, None, numbers, numbers, height, width, 0.0, True, tuple(images))


def _read_image(path: str) -> np.ndarray:
    try:
        # Not `imread`, which answers None and prints a warning for whatever it cannot read.
        picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
    except (OSError, cv2.error) as error:
        raise VideoError(f"{path}: cannot be read as a picture ({_reason(error)})") from error
    if picture is None:
        raise VideoError(f"{path}: cannot be read as a picture")
    return picture


def _read_images(video: VideoFile, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    for index in wanted:
        picture = _read_image(video.images[index])
        if picture.shape[:2] != (video.height, video.width):
            raise VideoError(
                f"{video.images[index]}: {picture.shape[1]} x {picture.shape[0]}, the first frame "
                f"is {video.width} x {video.height}"
            )
        yield index, picture


def _frame_table(path, container) -> VideoFile:
    stream = container.streams.video[0]
    stream.thread_type = "NONE"
    pts, keys, packed = [], [], False
    mpeg4 = stream.codec_context.name == "mpeg4"
    try:
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            packed |= mpeg4 and packet.size <= _PACKED_BYTES
            time = packet.dts if packet.pts is None else packet.pts
            pts.append(len(pts) if time is None else time)
            keys.append(packet.is_keyframe)
    except FFmpegError as error:
        # A truncated file: what lies before the damage is still there to be used.
        if not pts:
            raise VideoError(f"{path}: cannot be read ({_reason(error)})") from error
    if not pts:
        raise VideoError(f"{path}: has no frames")
    order = np.argsort(np.asarray(pts), kind="stable")
    table = np.asarray(pts)[order]
    keyframes = np.flatnonzero(np.asarray(keys)[order])
    height, width = stream.codec_context.height, stream.codec_context.width
    if not height or not width:
        raise VideoError(f"{path}: its frames have no size")
    if _quarter_turns(stream) % 2:
        height, width = width, height
    span = float((table[-1] - table[0]) * stream.time_base) if stream.time_base else 0.0
    fps = (len(table) - 1) / span if span > 0 else float(stream.average_rate or 0)
    # Times that repeat, or were made up, cannot be sought.
    seekable = not packed and len(keyframes) > 0 and bool((np.diff(table) > 0).all())
    return VideoFile(path, container, stream, table, keyframes, height, width, fps, seekable)


def _decode(video: VideoFile, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """The frames of ascending indices, upright RGB, seeking only where that saves decoding."""
    if video.images:
        yield from _read_images(video, wanted)
        return
    remaining = list(wanted)
    try:
        video.container.seek(0, stream=video.stream, backward=True, any_frame=False)
        position, frames = 0, video.container.decode(video.stream)
        while remaining:
            target = remaining[0]
            if video.seekable:
                key = int(video.keyframes[np.searchsorted(video.keyframes, target, "right") - 1])
                if position < key <= target:
                    video.container.seek(int(video.pts[key]), stream=video.stream, backward=True)
                    position, frames = key, video.container.decode(video.stream)
            frame = next(frames, None)
            if frame is None:
                raise VideoError(
                    f"{video.path}: frame {target} of {video.num_frames} cannot be decoded "
                    "(the stream ends before it)"
                )
            if video.seekable:
                if frame.pts is None or frame.pts < video.pts[target]:
                    position = max(position, _index_of(video, frame) + 1)
                    continue
                if frame.pts > video.pts[target]:
                    raise VideoError(f"{video.path}: frame {target} is missing from the stream")
            elif position < target:
                position += 1
                continue
            if frame.is_corrupt:
                raise VideoError(f"{video.path}: frame {target} is corrupt")
            yield target, _upright(video, frame)
            position = target + 1
            remaining.pop(0)
    except FFmpegError as error:
        raise VideoError(
            f"{video.path}: frame {remaining[0]} of {video.num_frames} cannot be decoded "
            f"({_reason(error)})"
        ) from error


def _index_of(video: VideoFile, frame) -> int:
    return -1 if frame.pts is None else int(np.searchsorted(video.pts, frame.pts))


def _upright(video: VideoFile, frame) -> np.ndarray:
    picture = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _quarter_turns(stream) -> int:
    """Rotation is known per frame only, so the first one is decoded where a file hints at it."""
    container = stream.container
    container.seek(0, stream=stream, backward=True, any_frame=False)
    try:
        frame = next(container.decode(stream), None)
    except FFmpegError:
        return 0
    return 0 if frame is None else round(frame.rotation / 90) % 4


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
