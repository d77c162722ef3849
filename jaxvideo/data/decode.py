"""Decode exactly the frames of a video that a view selects.

Each clip has its own PyAV container and one decoder thread: the loader reads clips in parallel, and
FFmpeg's frame threads can deadlock with Python's logging. Presentation times come from demuxing
the packets (1 to 3 ms for a video of ten seconds) or from `tables`, so a frame index has the same
meaning for constant and variable frame rates, and seeking is exact. A frame that cannot be decoded
is an error; no other frame takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from jaxvideo.data.planes import Planes, area_planes, cut_planes, length, scaled
from jaxvideo.data.probe import decoded, reason
from jaxvideo.data.video import VideoFile, read_image
from jaxvideo.types import ConfigError, VideoError, View


class _PacketError(Exception):
    """A packet cannot be decoded."""


def read_clip(
    video: VideoFile, views: Sequence[View], size: int, pixels: str = "rgb"
) -> np.ndarray:
    """Decodes the frames of views and crops and scales them.

    Each frame is decoded once, then cropped and scaled for every view.

    Args:
      video: an open video.
      views: views with the same `frames`.
      size: side of the result in pixels.
      pixels: "rgb" (default), or "yuv" for the planes that `planes.cut_planes` returns.

    Returns:
      uint8 RGB `[views, T, size, size, 3]`, or planes `[views, T, planes.length(size)]`.

    Raises:
      VideoError: a frame cannot be decoded, or is decoded from corrupt packets.
    """
    wanted = views[0].frames
    shape = (size, size, 3) if pixels == "rgb" else (length(size),)
    out = np.empty((len(views), len(wanted), *shape), np.uint8)
    places: dict[int, list[int]] = {}
    for place, index in enumerate(wanted):
        places.setdefault(index, []).append(place)
    for index, cuts in cut_frames(video, sorted(places), views, size, pixels):
        first, *others = places[index]
        out[:, first] = cuts
        if others:
            out[:, others] = out[:, first : first + 1]
    return out


def cut_frames(
    video: VideoFile, wanted: Sequence[int], views: Sequence[View], size: int, pixels: str
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Yields (index, the frame cut to every view) for ascending indices.

    Args:
      video, views, size, pixels: see `read_clip`.
      wanted: ascending indices of frames.
    """
    if pixels == "rgb":
        for index, frame in decode_frames(video, wanted):
            yield index, [cut(frame, view, size) for view in views]
        return
    reformatter = VideoReformatter()
    for index, frame in native_frames(video, wanted):
        try:
            cuts = [cut_planes(frame, view, size, reformatter) for view in views]
        except FFmpegError as error:
            raise _unconverted(video, index, error) from error
        yield index, cuts


def cut(frame: np.ndarray, view: View, size: int) -> np.ndarray:
    """Crops a frame to a view's window and scales it to uint8 `[size, size, 3]`."""
    w = view.window
    picture = scaled(frame[w.top : w.top + w.height, w.left : w.left + w.width], size)
    return picture[:, ::-1] if view.mirrored else picture


def read_frames(video: VideoFile, first: int, last: int, height: int, width: int) -> np.ndarray:
    """Decodes frames `first` to `last` (exclusive) and scales them without cropping.

    Returns:
      uint8 RGB `[last - first, height, width, 3]`.

    Raises:
      VideoError: a frame cannot be decoded, or is decoded from corrupt packets.
    """
    out = np.empty((last - first, height, width, 3), np.uint8)
    for index, frame in decode_frames(video, range(first, last)):
        place = out[index - first]
        cv2.resize(frame, (width, height), dst=place, interpolation=cv2.INTER_LINEAR)
    return out


def scaled_planes(video: VideoFile, height: int, width: int) -> Iterator[Planes]:
    """Yields the planes of all frames, scaled without cropping, see `planes.area_planes`.

    Raises:
      VideoError: a frame cannot be decoded, or is decoded from corrupt packets.
    """
    reformatter = VideoReformatter()
    for index, frame in native_frames(video, range(video.num_frames)):
        try:
            yield area_planes(frame, height, width, reformatter)
        except FFmpegError as error:
            raise _unconverted(video, index, error) from error


def raw_frames(
    video: VideoFile,
    start: int | None = None,
    failed: Callable[[str], None] | None = None,
    needed: Container[int] | None = None,
) -> Iterator[Any]:
    """Yields PyAV frames in the order of the decoder, up to the last complete packet.

    Args:
      video: an open video with a stream.
      start: a time in units of `pts`; decoding begins at the last key frame at or before it.
        None (default) is the first frame.
      failed: called with the reason if a packet cannot be decoded. Without it, the error is
        raised.
      needed: times of the frames to decode; others are skipped if no frame refers to them.
        None (default) decodes all.

    Raises:
      FFmpegError: the file cannot be rewound or read.
      _PacketError: a packet cannot be decoded, without `failed`.
    """
    shown = False

    def fail(text: str) -> None:
        # Where a video begins between key frames, the decoder rejects packets until the first one.
        if shown or start is not None or not video.counted:
            if failed is None:
                raise _PacketError(text)
            failed(text)

    begin = video.start if start is None else start
    container, stream, ends = video.container, video.stream, bool(video.damage)
    frames = decoded(container, stream, begin, video.cut, ends=ends, failed=fail, needed=needed)
    for frame in frames:
        shown = True
        yield frame


def decode_frames(video: VideoFile, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index, uint8 RGB `[height, width, 3]`) for ascending indices, upright.

    Raises:
      VideoError: see `native_frames`.
      ConfigError: the video's planes are cached, but not its RGB.
    """
    # Shared by all frames: creating a reformatter takes longer than converting a frame.
    reformatter = VideoReformatter()
    for index, frame in native_frames(video, wanted):
        if isinstance(frame, Planes) and not frame.convertible:
            raise ConfigError(
                f"{video.path}: cached as planes that are not 8-bit 4:2:0, but RGB is needed; "
                "cache it with the same preprocessing"
            )
        if not isinstance(frame, np.ndarray):
            try:
                frame = _rgb(frame, reformatter)
            except FFmpegError as error:
                raise _unconverted(video, index, error) from error
        yield index, frame


def native_frames(video: VideoFile, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Yields (index, frame) for ascending indices: PyAV frames, `Planes`, or uint8 RGB.

    Seeks only if a key frame lies in between; if the seek overshoots, or decoding from there fails,
    decodes sequentially instead.

    Raises:
      VideoError: a frame cannot be decoded, is decoded from corrupt packets, or differs in size
        from the first frame.
    """
    if video.reader is not None:
        yield from video.reader(wanted)
        return
    if video.images:
        yield from _read_images(video, wanted)
        return
    remaining = list(wanted)
    seeking, sought = video.seekable, False
    # In H.264 the decoder can skip frames that no other frame refers to, above all B-frames.
    needed = None
    if video.seekable and video.stream.codec_context.name == "h264":
        needed = frozenset(video.pts[remaining].tolist())
    try:
        position, frames = 0, raw_frames(video, needed=needed)
        while remaining:
            target = remaining[0]
            time = int(video.pts[target])
            if seeking:
                key = int(video.keyframes[video.keyframes.searchsorted(target, "right") - 1])
                if position < key <= target:
                    frames = raw_frames(video, int(video.pts[key]), needed=needed)
                    position, sought = key, True
            try:
                frame = next(frames, None)
                while video.seekable and frame is not None and _time(frame) < time:
                    frame = next(frames, None)
            except (FFmpegError, _PacketError):
                if not sought:
                    raise
                frame = None
            past = video.seekable and frame is not None and _time(frame) > time
            if sought and (frame is None or past):
                # The seek has overshot the frame, or the decoder lacks what came before: decode
                # sequentially from the start.
                position, frames = 0, raw_frames(video, needed=needed)
                seeking, sought = False, False
                continue
            if frame is None:
                raise VideoError(
                    f"{video.path}: frame {target} of {video.num_frames} cannot be decoded "
                    "(the stream ends before it)"
                )
            if past:
                raise VideoError(f"{video.path}: frame {target} is missing from the stream")
            if not video.seekable and position < target:
                position += 1
                continue
            if frame.is_corrupt:
                raise VideoError(f"{video.path}: frame {target} is corrupt")
            _check_size(video, frame, target)
            yield target, frame
            position = target + 1
            remaining.pop(0)
    except (FFmpegError, _PacketError) as error:
        raise VideoError(
            f"{video.path}: frame {remaining[0]} of {video.num_frames} cannot be decoded "
            f"({reason(error)})"
        ) from error


def _read_images(video: VideoFile, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    for index in wanted:
        picture = read_image(video.images[index])
        if picture.shape[:2] != (video.height, video.width):
            raise VideoError(
                f"{video.images[index]}: {picture.shape[1]} x {picture.shape[0]}, but the first "
                f"frame is {video.width} x {video.height}"
            )
        yield index, picture


def _time(frame) -> float:
    return -math.inf if frame.pts is None else frame.pts


def _unconverted(video: VideoFile, index: int, error: FFmpegError) -> VideoError:
    return VideoError(f"{video.path}: frame {index} cannot be converted ({reason(error)})")


def _check_size(video: VideoFile, frame, index: int) -> None:
    sides = frame.height, frame.width
    height, width = sides[::-1] if round(frame.rotation / 90) % 2 else sides
    if (height, width) != (video.height, video.width):
        raise VideoError(
            f"{video.path}: frame {index} is {width} x {height}, but the first frame is "
            f"{video.width} x {video.height}"
        )


def _rgb(frame, reformatter: VideoReformatter) -> np.ndarray:
    if isinstance(frame, Planes):
        frame = frame.frame()
    picture = reformatter.reformat(frame, format="rgb24").to_ndarray()
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture
