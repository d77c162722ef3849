"""Encode one video as a record that is small and fast to read clips from, and decode it.

A record is H.264 at a chosen short side, with frequent key frames and no B-frames, tuned for
decoding (no CABAC, no deblocking: half the time for 7 % more bytes); or JPEG frames. It stores the
byte offset of each frame, so that reading a clip needs neither a container nor a demuxer: the
decoder receives the bytes from the key frame on. The bytes are nevertheless a complete file that
any player can show.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError

from jaxvideo.data.decode import decode_frames
from jaxvideo.data.video import VideoFile, reader_video
from jaxvideo.types import ConfigError, UsageError, VideoError

FORMATS = ("mp4", "jpeg")

_TICKS = 90_000  # time base of the mp4 file, per second


@dataclasses.dataclass(frozen=True)
class Packing:
    """Settings of packed videos.

    Attributes:
      format: "mp4" (H.264) or "jpeg".
      size: short side in pixels that frames are scaled to; smaller frames are not enlarged.
      crf: H.264 quality, 0 (lossless) to 51; adding 6 roughly halves the size.
      gop: distance of key frames; on average, half this number is decoded before a clip starts.
      quality: JPEG quality, 1 to 100.
      per_shard: videos per shard.
    """

    format: str = "mp4"
    size: int = 128
    crf: int = 20
    gop: int = 12
    quality: int = 90
    per_shard: int = 256

    def __post_init__(self):
        if self.format not in FORMATS:
            raise UsageError(f"format={self.format!r}: allowed are {', '.join(FORMATS)}")
        for name, low, high in (
            ("size", 16, 4096),
            ("crf", 0, 51),
            ("gop", 1, 1000),
            ("quality", 1, 100),
            ("per_shard", 1, 1_000_000),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}={getattr(self, name)}: must be from {low} to {high}")
        if self.format == "mp4" and "libx264" not in av.codecs_available:
            raise ConfigError("format='mp4': this PyAV has no libx264; use format='jpeg'")


# --- Encoding -----------------------------------------------------------------------------


def pack_video(video: VideoFile, packing: Packing) -> dict[str, Any]:
    """Encodes a video and returns those fields of its record that do not depend on the data set.

    Returns:
      `video`: bytes of the frames; `extradata`: bytes that the decoder needs first (empty for
      JPEG); `offsets`: int64 `[T + 1]`, frame i is `video[offsets[i]:offsets[i + 1]]`;
      `keyframes`: int64, ascending; `times`: float64 `[T]`, seconds; `shape`: int64 `[2]`, height
      and width.

    Raises:
      VideoError: a frame cannot be decoded.
    """
    height, width = scaled_shape(video.height, video.width, packing.size)
    pictures = scaled_frames(video, height, width)
    fields = {"times": _times(video), "shape": np.asarray((height, width), np.int64)}
    if packing.format == "jpeg":
        frames = [_jpeg(picture, packing.quality) for picture in pictures]
        offsets = np.cumsum([0, *map(len, frames)])
        return fields | {
            "video": b"".join(frames),
            "extradata": b"",
            "offsets": offsets.astype(np.int64),
            "keyframes": np.arange(len(frames)).astype(np.int64),
        }
    content = _mp4(pictures, fields["times"], height, width, packing)
    return fields | {"video": content} | _packet_table(content, video)


def scaled_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Returns (height, width) scaled to a short side of at most `size`; even, as H.264 requires."""
    scale = min(size / min(height, width), 1)
    h, w = (max(2 * round(side * scale / 2), 2) for side in (height, width))
    return h, w


def scaled_frames(video: VideoFile, height: int, width: int) -> Iterator[np.ndarray]:
    """Yields all frames, uint8 `[height, width, 3]`.

    They are scaled by INTER_AREA, which is antialiased but too slow for anything that is done more
    than once per video.
    """
    for _, frame in decode_frames(video, range(video.num_frames)):
        if frame.shape[:2] == (height, width):
            yield frame
        else:
            yield cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def _times(video: VideoFile) -> np.ndarray:
    """Returns the seconds of every frame, strictly ascending."""
    times = np.asarray(video.times, np.float64)
    step = 1 / _TICKS
    later = np.maximum.accumulate(times - np.arange(len(times)) * step)
    return later + np.arange(len(times)) * step


def _mp4(pictures, times: np.ndarray, height: int, width: int, packing: Packing) -> bytes:
    options = {
        "preset": "veryfast",
        "tune": "fastdecode",
        "crf": str(packing.crf),
        "g": str(packing.gop),
        "bf": "0",
        "sc_threshold": "0",
        # With its macroblock tree, x264's output sometimes differs from run to run.
        "mbtree": "0",
    }
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.thread_count = 1
        clock = Fraction(1, _TICKS)
        stream.codec_context.time_base = clock
        for time, picture in zip(times, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(time * _TICKS), clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def _packet_table(content: bytes, video: VideoFile) -> dict[str, Any]:
    """Returns the byte offsets of the frames of an mp4 file without B-frames."""
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        extradata = stream.codec_context.extradata
    starts = np.asarray([packet.pos for packet in packets])
    ends = starts + np.asarray([packet.size for packet in packets])
    if len(packets) != video.num_frames or (starts[1:] != ends[:-1]).any():
        raise VideoError(f"{video.path}: its encoded frames are not contiguous in the mp4 file")
    return {
        "extradata": extradata or b"",
        "offsets": np.append(starts, ends[-1]).astype(np.int64),
        "keyframes": np.flatnonzero([packet.is_keyframe for packet in packets]).astype(np.int64),
    }


def _jpeg(picture: np.ndarray, quality: int) -> bytes:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


# --- Decoding -----------------------------------------------------------------------------


def record_video(record: Mapping[str, Any], path: str) -> VideoFile:
    """Returns the video of a record.

    Args:
      record: the fields that `pack_video` returns.
      path: name of the video in error messages.
    """
    read, pixels = (_read_h264, "yuv420p") if record["extradata"] else (_read_jpeg, "")
    height, width = (int(side) for side in record["shape"])
    times, keyframes = np.asarray(record["times"]), np.asarray(record["keyframes"])
    reader = functools.partial(read, record, path)
    return reader_video(path, reader, times, keyframes, height, width, pixel_format=pixels)


def decode_picture(content: bytes, path: str, index: int) -> np.ndarray:
    """Decodes an encoded image: uint8 RGB `[H, W, 3]`.

    Args:
      content: bytes of the image file.
      path, index: video and frame in error messages.

    Raises:
      VideoError: the bytes are not an image.
    """
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        picture = None
    if picture is None:
        raise VideoError(f"{path}: frame {index} cannot be decoded as an image")
    return picture


def _read_h264(
    record: Mapping[str, Any], path: str, wanted: Sequence[int]
) -> Iterator[tuple[int, Any]]:
    content, offsets, keyframes = record["video"], record["offsets"], record["keyframes"]
    codec, position = _h264_codec(record), 0
    for index in wanted:
        key = int(keyframes[np.searchsorted(keyframes, index, "right") - 1])
        if position < key:
            codec, position = _h264_codec(record), key
        frames: list[Any] = []
        try:
            for place in range(position, index + 1):
                # Without B-frames, each packet returns its frame at once.
                frames = codec.decode(av.Packet(content[offsets[place] : offsets[place + 1]]))
        except FFmpegError as error:
            reason = error.strerror
            raise VideoError(f"{path}: frame {index} cannot be decoded ({reason})") from error
        position = index + 1
        if len(frames) != 1 or frames[0].is_corrupt:
            raise VideoError(f"{path}: frame {index} is corrupt")
        yield index, frames[0]


def _h264_codec(record: Mapping[str, Any]) -> Any:
    codec: Any = av.CodecContext.create("h264", "r")
    codec.extradata = record["extradata"]
    codec.thread_type, codec.thread_count = "NONE", 1
    return codec


def _read_jpeg(
    record: Mapping[str, Any], path: str, wanted: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    content, offsets = record["video"], record["offsets"]
    for index in wanted:
        yield index, decode_picture(content[offsets[index] : offsets[index + 1]], path, index)
