"""Open videos: files, folders of frames, encoded bytes and arrays."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError

from jaxvideo.data import tables
from jaxvideo.data.animation import HEAD, Animation, is_animated_webp
from jaxvideo.data.boxes import check_layout
from jaxvideo.data.probe import FrameTable, limit_decoder, probe, reason, video_streams
from jaxvideo.progress import LOG
from jaxvideo.types import DataError, VideoError

#: File name endings of the frames in a folder, in lower case.
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
#: File name endings of videos, in lower case.
VIDEOS = (
    *(".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".gif"),
    *(".3g2", ".3gp", ".asf", ".divx", ".dv", ".f4v", ".m1v", ".m2t", ".m2ts", ".m2v", ".mjpeg"),
    *(".mjpg", ".mpe", ".mpv", ".mts", ".mxf", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts"),
    *(".vob", ".xvid", ".264", ".265", ".avc", ".h264", ".h265", ".hevc"),
)
#: File name endings of annotations, in lower case.
LISTS = (".csv", ".tsv", ".txt", ".json")

# Files that `jaxvideo doctor` writes beside videos.
_OWN = ("doctor.html", "index.jsonl")

# Stored flow beside the frames of a folder: mmaction2's and TSN's names. "#" is a number.
_FLOW_SERIES = re.compile(r"(flow_)?([xy])_?#\.\w+")

#: The stored flow of `NAME.mp4` is `NAME.flow.mkv`; it does not count as a video.
FLOW_ENDING = ".flow.mkv"

# HMDB51's metadata is not UTF-8. PyAV up to 18 raises an error for it by default.
_OPEN: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)

#: Yields (index, frame) for ascending frame indices: uint8 RGB `[H, W, 3]`, PyAV frames, or planes.
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
    """

    path: str
    container: Any = None
    stream: Any = None
    images: tuple[str, ...] = ()
    reader: Reader | None = None

    @property
    def planar(self) -> bool:
        """True if frames are stored as planes of luma and color, not as RGB."""
        return bool(self.pixel_format)


@contextlib.contextmanager
def open_video(
    source: str | os.PathLike[str] | bytes | np.ndarray, *, name: str = "<bytes>", kept: str = ""
) -> Iterator[VideoFile]:
    """Opens a video and reads its frame table.

        with open_video("clip.mp4") as video:
            print(video.num_frames, video.fps)

    Args:
      source: path of a video file; path of a folder of frames, ordered by the numbers in their
        names; encoded bytes of a video file; or frames, uint8 `[T, H, W, 3]` RGB, without times.
        A file may be an animated WebP.
      name: name of `bytes` in error messages.
      kept: file of frame tables, see `tables.file_of`: if it contains the table of this file, the
        packets are not read; otherwise the table is added. Empty (default): the packets are read.

    Raises:
      VideoError: the source does not exist, is not a video, has no video stream or no frame that
        can be decoded, has frames of more than 2^26 pixels, or states more frames than it can
        hold; a folder holds videos, or frames of several names. The message names the file.
    """
    if isinstance(source, np.ndarray):
        yield _array_video(source)
        return
    path = name if isinstance(source, bytes) else os.fspath(source)
    if not isinstance(source, bytes) and os.path.isdir(path):
        yield _folder_video(path)
        return
    stamp = stamp_of(path) if kept and not isinstance(source, bytes) else None
    table = tables.find(kept, path, stamp) if stamp else None
    if table is None:
        try:
            with io.BytesIO(source) if isinstance(source, bytes) else open(path, "rb") as file:
                if is_animated_webp(file.read(HEAD)):
                    file.seek(0)
                    yield _animated_video(path, file.read())
                    return
                layout = check_layout(path, file)
        except (OSError, ValueError) as error:
            raise _unopened(path, error) from error
        with _container(source, path) as opened:
            table = probe(path, *opened, layout)
            if table.damaged:  # seeking may need what was read
                yield _stream_video(path, *opened, table)
                return
        if stamp:
            tables.keep(kept, path, stamp, table)
    # Opened again: a decoder may decode a damaged file differently after it has decoded something,
    # and frames must not depend on whether the table was known.
    with _container(source, path) as opened:
        limit_decoder(opened[1])
        yield _stream_video(path, *opened, table)


@contextlib.contextmanager
def _container(source: Any, path: str) -> Iterator[tuple[Any, Any]]:
    """Opens a file; yields PyAV's container and the video stream."""
    try:
        container = av.open(io.BytesIO(source) if isinstance(source, bytes) else path, **_OPEN)
    except (OSError, ValueError, FFmpegError) as error:
        raise _unopened(path, error) from error
    with container:
        stream = _best_stream(container)
        if stream is None:
            raise VideoError(f"{path}: has no video stream")
        yield container, stream


def _stream_video(path: str, container: Any, stream: Any, table: FrameTable) -> VideoFile:
    if len(video_streams(container)) > 1:
        _log_once(f"{path}: {table.remarks[0]}")
    return VideoFile(path=path, container=container, stream=stream, **vars(table))


def _unopened(path: str, error: Exception) -> VideoError:
    return VideoError(f"{path}: cannot be opened as a video ({reason(error)})")


def reader_video(
    path: str,
    reader: Reader,
    times: np.ndarray,
    keyframes: np.ndarray,
    height: int,
    width: int,
    *,
    pixel_format: str = "",
) -> VideoFile:
    """Returns a video whose frames are read by a function.

    Args:
      path: name of the video in error messages.
      reader: yields (index, frame) for ascending indices, see `Reader`.
      times: seconds from the first frame, `[num_frames]`, ascending.
      keyframes: indices of the key frames, ascending.
      height, width: size of the frames.
      pixel_format: format of the PyAV frames that the reader yields; empty (default): it yields
        RGB arrays.
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
        pixel_format=pixel_format,
    )


@dataclasses.dataclass
class Ignored:
    """Counts the files of a folder that are no videos.

    Attributes:
      side: number of side files that macOS adds to copied folders (`._clip.mp4`).
      endings: number of other files by ending, without annotations and stored flow.
    """

    side: int = 0
    endings: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def add(self, name: str) -> None:
        """Counts a file that is not a video."""
        if is_side_file(name):
            self.side += 1
        elif not (name.lower().endswith((*LISTS, FLOW_ENDING)) or name[0] == "." or name in _OWN):
            self.endings[os.path.splitext(name)[1].lower() or "no ending"] += 1

    def log(self, folder: str | os.PathLike[str]) -> None:
        """Logs one line for each kind of file, if there are any."""
        if self.side:
            plural = "s" * (self.side > 1)
            LOG.info(f"{folder}: ignored {self.side:,} side file{plural} of macOS (._*)")
        if self.endings:
            found = self.endings.most_common()
            some = ", ".join(f"{ending} ({count:,})" for ending, count in found[:8])
            more = ", ..." if len(found) > 8 else ""
            LOG.info(
                f"{folder}: ignored {self.endings.total():,} other files, neither videos nor "
                f"annotations: {some}{more}"
            )


def find_videos(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Expands paths to videos.

    A file and a folder of frames are one video each. Any other folder is searched recursively,
    in sorted order. A folder with a video in it or below it is not a folder of frames. Files that
    are no videos are counted in the log.

    Raises:
      DataError: a path does not exist; a folder contains no video; or it contains images and, in
        folders below, frames.
    """
    found = []
    for path in [os.fspath(path) for path in paths]:
        if not os.path.exists(path):
            raise DataError(f"{path}: no such file or folder")
        ignored = Ignored()
        below = videos_below(path, ignored) if os.path.isdir(path) else [path]
        if not below:
            seen = f"; it contains {', '.join(ignored.endings)} files" * bool(ignored.endings)
            raise DataError(
                f"{path}: contains no video ({', '.join(VIDEOS)}) and no folder of frames{seen}"
            )
        ignored.log(path)
        found += below
    return found


def videos_below(folder: str, ignored: Ignored) -> list[str]:
    """Returns the videos in a folder and below it, in sorted order; files and folders of frames.

    The result is the folder itself if it contains images and there is no video in it or below it.

    Args:
      folder: the folder.
      ignored: counts the files that are no videos.

    Raises:
      DataError: the folder contains images and, in folders below, frames.
    """
    files, below, images = [], [], []
    with os.scandir(folder) as entries:
        inside = sorted((e.name, e.is_dir()) for e in entries)
    for name, is_folder in inside:
        path = os.path.join(folder, name)
        if is_folder:
            below += videos_below(path, ignored)
        elif is_video(name):
            files.append(path)
        elif _is_image(name):
            images.append(name)
        else:
            ignored.add(name)
    if not images or files or any(is_video(path) for path in below):
        for name in images:
            ignored.add(name)
        return sorted(files + below)
    if below:
        raise DataError(
            f"{folder}: either a folder of {len(images):,} frames ({images[0]}, ...) or a folder "
            f"with {len(below):,} folders of frames ({below[0]}, ...); move the images away, or "
            "pass the folders below"
        )
    return [folder]


def is_side_file(name: str) -> bool:
    """True for the name of a side file of macOS, which contains no video."""
    return name.startswith("._")


def is_video(name: str) -> bool:
    """True if a file name or path is that of a video; stored flow and side files are none."""
    named = name.lower().endswith(VIDEOS) and not name.endswith(FLOW_ENDING)
    return named and not is_side_file(os.path.basename(name))


def frames_in(folder: str | os.PathLike[str]) -> list[str]:
    """Returns the paths of a folder's frames, ordered by the numbers in their names.

    `frame_2.jpg` comes before `frame_10.jpg`. Flow images are left out, see `flow_images_in`.

    Raises:
      VideoError: the images have names of several kinds, such as `img_1.jpg` and `mask_1.png`.
    """
    frames, x, y = _series(folder)
    series = frames or x | y
    if len(series) > 1 and any(len(names) > 1 for names in series.values()):
        counts = sorted(((len(names), kind) for kind, names in series.items()), reverse=True)
        found = ", ".join(f"{count:,} like {kind}" for count, kind in counts[:4])
        raise VideoError(
            f"{os.fspath(folder)}: contains images with names of several kinds ({found}); keep "
            "one kind"
        )
    return _by_number(folder, series)


def flow_images_in(folder: str | os.PathLike[str]) -> tuple[list[str], list[str]]:
    """Returns the paths of a folder's images of x flow and of y flow, in order: `_FLOW_SERIES`."""
    _, x, y = _series(folder)
    return _by_number(folder, x), _by_number(folder, y)


def _series(folder: str | os.PathLike[str]) -> tuple[dict[str, list[str]], ...]:
    """Returns the names of frames, x and y flow images, by kind: the name with "#" for numbers."""
    frames: dict[str, list[str]] = {}
    for name in os.listdir(folder):
        if _is_image(name):
            frames.setdefault(re.sub(r"\d+", "#", name).lower(), []).append(name)
    axes = {kind: found[2] for kind in frames if (found := _FLOW_SERIES.fullmatch(kind))}
    if set(axes.values()) != {"x", "y"}:
        return frames, {}, {}
    x, y = ({kind: frames.pop(kind) for kind in axes if axes[kind] == axis} for axis in "xy")
    return frames, x, y


def _by_number(folder: str | os.PathLike[str], series: dict[str, list[str]]) -> list[str]:
    names = [name for own in series.values() for name in own]
    names.sort(key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])
    return [os.path.join(folder, name) for name in names]


def stamp_of(path: str) -> tables.Stamp | None:
    """Returns size in bytes and modification time in nanoseconds of a video.

    Of a folder of frames: the sum and the latest of its frames. None if the video does not exist.
    """
    try:
        parts = frames_in(path) if os.path.isdir(path) else [path]
        found = [os.stat(part) for part in parts]
    except (OSError, ValueError, VideoError):
        return None
    times = (status.st_mtime_ns for status in found)
    return sum(status.st_size for status in found), max(times, default=0)


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


@functools.lru_cache(maxsize=1024)
def _log_once(message: str) -> None:
    """Logs a message the first time: training opens a file in every epoch."""
    LOG.info(message)


def _best_stream(container: Any) -> Any:
    """Returns the video stream that FFmpeg selects (`av_find_best_stream`); None: no stream."""
    videos = video_streams(container)
    best = container.streams.best("video") if videos else None
    return best if best in videos else next(iter(videos), None)


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGES) and not is_side_file(name)


def _folder_video(path: str) -> VideoFile:
    videos = sum(is_video(name) for name in os.listdir(path))
    if videos:
        raise VideoError(f"{path}: is a folder of {videos:,} videos, not a folder of frames")
    images = frames_in(path)
    if not images:
        raise VideoError(f"{path}: contains no frames ({', '.join(IMAGES)})")
    size = read_image(images[0]).shape
    return _untimed_video(path, len(images), size, images=tuple(images))


def _animated_video(path: str, content: bytes) -> VideoFile:
    animation = Animation(path, content)
    keyframes = np.arange(len(animation.times))
    size = animation.height, animation.width
    return reader_video(path, animation.read, animation.times, keyframes, *size)


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
