"""Store optical flow beside its video, and read it.

Flow is stored as by the authors of Kinetics (kinetics-i3d, README): frames are first scaled, for
example to a short side of 256; flow is computed at that size, clipped to 20 pixels and mapped to
0..255. A stored value is therefore in pixels of the stored size. Cropping or scaling a field
afterwards, as in the augmentation of flow networks, does not change its values.

There is one file per video, NAME.flow.mkv beside NAME.mp4. It is a gray video whose frame t is the
x field above the y field, every frame a key frame, and is read by `data.decode`. FFV1 is lossless:
for a clip of 256 x 340, a field takes 7.0 kB and 0.7 ms to decode. JPEG of the highest quality
takes 5.5 kB and 0.3 ms, with errors of up to 5 of 255 levels (0.8 pixels).

A folder of frames may hold its flow as images instead, `flow_x_00001.jpg` and `flow_y_00001.jpg`,
in the layout of mmaction2 and TSN.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.error import FFmpegError

from jaxvideo.data.decode import read_clip
from jaxvideo.data.probe import reason
from jaxvideo.data.video import (
    FLOW_ENDING,
    VideoFile,
    flow_images_in,
    frames_in,
    open_video,
    read_image,
    reader_video,
)
from jaxvideo.progress import replacing
from jaxvideo.types import DataError, VideoError, View, Window

# Number of files that `describe_stored` examines.
_EXAMINED = 200

# Metadata key of the `FlowInfo` in a file, as JSON.
_TAG = "JAXVIDEO_FLOW"

# Without random identifiers: equal fields are equal files.
_SAME = {"fflags": "+bitexact"}


@dataclasses.dataclass(frozen=True)
class FlowInfo:
    """Metadata of a stored flow.

    Attributes:
      method: name of the method; those of OpenCV are in `types.HOST_FLOWS`.
      height, width: size of the video's upright frames, to which windows refer.
      bound: 0 and 255 are -bound and +bound, in pixels of the stored size.
      size: short side in pixels to which larger frames were scaled; 0: not recorded.
    """

    method: str
    height: int
    width: int
    bound: float = 20.0
    size: int = 0

    @property
    def settings(self) -> str:
        """Describes what must be equal in a data set: the method and the size."""
        return f"{self.method}, stored at short side {self.size}"


def flow_path(video_path: str | os.PathLike[str]) -> Path:
    """Returns the path of a video's flow: NAME.flow.mkv beside NAME.mp4 or the folder NAME."""
    path = Path(video_path)
    return path.with_name((path.name if path.is_dir() else path.stem) + FLOW_ENDING)


def find_flow(video_path: str | os.PathLike[str]) -> Path | None:
    """Returns a video's stored flow: its flow file, else its folder of frames with flow images."""
    path = flow_path(video_path)
    if path.is_file():
        return path
    found = os.path.isdir(video_path) and any(flow_images_in(video_path))
    return Path(video_path) if found else None


def write_flow(
    path: str | os.PathLike[str], fields: Iterable[np.ndarray], fps: float, info: FlowInfo
) -> None:
    """Writes quantized fields to a flow file, atomically.

    Args:
      path: the file.
      fields: uint8 `[H, W, 2]` per pair of frames.
      fps: frame rate of the video.
      info: metadata.

    Raises:
      DataError: no field, one with another shape or dtype, or the file cannot be written. The
        message names the file.
    """
    path = Path(path)
    try:
        with (
            replacing(path) as temporary,
            av.open(os.fspath(temporary), "w", format="matroska", options=_SAME) as container,
        ):
            container.metadata[_TAG] = json.dumps(dataclasses.asdict(info))
            _encode(path, container, fields, fps)
    except (OSError, FFmpegError) as error:
        raise DataError(f"{path}: cannot be written ({error})") from error


def _encode(path, container, fields, fps):
    stream = shape = None
    for number, field in enumerate(fields):
        if field.ndim != 3 or field.shape[-1] != 2 or field.dtype != np.uint8:
            raise DataError(
                f"{path}: field {number} is {field.dtype} {field.shape}, not uint8 [H, W, 2]"
            )
        if stream is None:
            shape = field.shape
            stream = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(100_000))
            stream.height, stream.width, stream.pix_fmt = 2 * shape[0], shape[1], "gray"
            stream.options = {"level": "3", "g": "1"}
        elif field.shape != shape:
            raise DataError(f"{path}: field {number} is {field.shape}, the first is {shape}")
        planes = np.ascontiguousarray(np.moveaxis(field, -1, 0)).reshape(-1, field.shape[1])
        frame = av.VideoFrame.from_ndarray(planes, format="gray")
        frame.pts = number
        container.mux(stream.encode(frame))
    if stream is None:
        raise DataError(f"{path}: no field to store")
    container.mux(stream.encode())


def read_flow_clip(
    path: str | os.PathLike[str], indices: Sequence[int], window: Window, size: int
) -> np.ndarray:
    """Reads fields of a flow file, cropped and scaled like the frames of their video.

    Args:
      path: the flow file, or a folder with flow images.
      indices: indices of fields in any order; field t is the motion from frame t to t + 1.
      window: window in pixels of the video's frames; it is scaled if the stored flow is smaller.
      size: side of the result in pixels. Values are not scaled; they stay in pixels of the stored
        size.

    Returns:
      uint8 `[T, size, size, 2]`.

    Raises:
      VideoError: the file is missing, damaged or not a flow file, a field does not exist, or the
        window is not inside the video's frames. The message names the file.
    """
    with open_flow(path) as (video, info):
        if not len(indices) or min(indices) < 0 or max(indices) >= video.num_frames:
            raise VideoError(
                f"{video.path}: fields {list(indices)} do not all exist; allowed are 0 to "
                f"{video.num_frames - 1}"
            )
        x = _scaled(window, info, video)
        y = dataclasses.replace(x, top=x.top + video.height // 2)
        frames = tuple(indices)
        planes = read_clip(video, [View(frames, x), View(frames, y)], size)
    return np.stack([planes[0, ..., 0], planes[1, ..., 0]], -1)


@contextlib.contextmanager
def open_flow(path: str | os.PathLike[str]) -> Iterator[tuple[VideoFile, FlowInfo]]:
    """Opens stored flow as a video whose frames are the x field above the y field.

    Args:
      path: a flow file, or a folder with flow images.

    Raises:
      VideoError: it is missing or damaged, or was not written by `write_flow`; or the numbers of x
        and y images differ.
    """
    if os.path.isdir(path):
        yield _image_flow(os.fspath(path))
        return
    with open_video(path) as video:
        yield video, _info(video.path, video.container, video.height, video.width)


def stored_info(path: str | os.PathLike[str]) -> FlowInfo:
    """Reads the metadata of stored flow, without its fields; see `open_flow`."""
    if os.path.isdir(path):
        return _image_flow(os.fspath(path))[1]
    try:
        with av.open(os.fspath(path)) as container:
            stream = container.streams.video[0]
            return _info(os.fspath(path), container, stream.height, stream.width)
    except (OSError, IndexError, FFmpegError) as error:
        raise VideoError(f"{path}: cannot be read as stored flow ({reason(error)})") from error


def _info(path: str, container, height: int, width: int) -> FlowInfo:
    try:
        info = FlowInfo(**json.loads(container.metadata[_TAG]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # also for a folder
        raise VideoError(f"{path}: is a video, but not a stored flow") from error
    if height % 2:
        raise VideoError(f"{path}: has {height} rows; a stored flow has an even number")
    # Files of older versions do not record the size.
    return info if info.size else dataclasses.replace(info, size=min(height // 2, width))


def _image_flow(folder: str) -> tuple[VideoFile, FlowInfo]:
    xs, ys = flow_images_in(folder)
    if len(xs) != len(ys) or not xs:
        raise VideoError(f"{folder}: has {len(xs)} images of x flow and {len(ys)} of y flow")
    height, width = _gray(xs[0]).shape

    def read(wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in wanted:
            field = np.concatenate([_gray(xs[index]), _gray(ys[index])])
            if field.shape != (2 * height, width):
                raise VideoError(f"{xs[index]}: the sizes of flow images differ")
            yield index, cv2.merge([field] * 3)

    numbers = np.arange(len(xs))
    video = reader_video(folder, read, numbers, numbers, 2 * height, width)
    frame = _gray(frames_in(folder)[0])
    size = min(height, width)
    return video, FlowInfo("flow images", *frame.shape, size=size)


def _gray(path: str) -> np.ndarray:
    return cv2.cvtColor(read_image(path), cv2.COLOR_RGB2GRAY)


def describe_stored(paths: Sequence[str]) -> str:
    """Describes the stored flow of videos: "tvl1, stored at short side 256".

    At most 200 videos, evenly spaced in the list, are examined.

    Args:
      paths: the videos. Those without stored flow, or with a damaged file, are left out.

    Returns:
      The description; "" if no video has stored flow.

    Raises:
      DataError: two videos have flow of different methods or sizes.
    """
    found: dict[str, tuple[FlowInfo, Path]] = {}
    for path in paths[:: max(len(paths) // _EXAMINED, 1)]:
        stored = find_flow(path)
        if stored:
            with contextlib.suppress(VideoError):
                info = stored_info(stored)
                found.setdefault(info.settings, (info, stored))
    if not found:
        return ""
    largest, (info, _) = max(found.items(), key=lambda item: item[1][0].size)
    for other, _ in found.values():
        # Without a recorded size, a video that is smaller than the size cannot be told apart.
        small = other.size == min(info.size, other.height, other.width)
        if other.method != info.method or not small:
            files = "; ".join(f"{name} has {what}" for what, (_, name) in sorted(found.items()))
            raise DataError(
                f"stored flow of different settings is mixed: {files}. Compute it again by "
                "`python -m jaxvideo flow --overwrite`"
            )
    return largest


def _scaled(window: Window, info: FlowInfo, video: VideoFile) -> Window:
    """Maps a window of the video's frame to the stored x field."""
    w = window
    inside = min(w.top, w.left) >= 0 and min(w.height, w.width) > 0
    if not inside or w.top + w.height > info.height or w.left + w.width > info.width:
        raise VideoError(f"{video.path}: {w} is not inside frames of {info.height} x {info.width}")

    def span(start, length, whole, stored):
        first = min(round(start * stored / whole), stored - 1)
        last = max(round((start + length) * stored / whole), first + 1)
        return first, last - first

    top, height = span(w.top, w.height, info.height, video.height // 2)
    left, width = span(w.left, w.width, info.width, video.width)
    return Window(top, left, height, width)
