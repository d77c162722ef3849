"""One video as a record of bytes, small and quick to cut clips from.

H.264 at a chosen short side with a key frame every few frames and no B-frames, tuned for
decoders (no CABAC, no deblocking: half the time for 7 % more bytes), or JPEG frames one after
another. Beside the bytes stands where each frame lies in them, so that a clip needs neither an
open container nor a demuxer: the decoder is fed the bytes of its frames from the key frame on.
The bytes are nevertheless a whole file that any player shows.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from jaxvideo.data import decode
from jaxvideo.data.decode import VideoFile
from jaxvideo.types import ConfigError, VideoError

FORMATS = ("mp4", "jpeg")

_TICKS = 90_000  # of an mp4's clock, per second


@dataclasses.dataclass(frozen=True)
class Packing:
    """How videos are packed.

    Attributes:
      format: "mp4" (H.264) or "jpeg".
      size: short side in pixels that frames are scaled to; smaller ones stay as they are.
      crf: H.264's quality, 0 (exact) to 51; about 6 more halve the bytes.
      gop: frames from one key frame to the next; a clip decodes half as many for nothing.
      quality: JPEG's, 1 to 100.
      per_shard: videos of a shard.
    """

    format: str = "mp4"
    size: int = 128
    crf: int = 20
    gop: int = 12
    quality: int = 90
    per_shard: int = 256

    def __post_init__(self):
        if self.format not in FORMATS:
            raise ConfigError(f"format={self.format!r}: allowed are {', '.join(FORMATS)}")
        for name, low, high in (
            ("size", 16, 4096),
            ("crf", 0, 51),
            ("gop", 1, 1000),
            ("quality", 1, 100),
            ("per_shard", 1, 1_000_000),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}={getattr(self, name)}: from {low} to {high}")
        if self.format == "mp4" and "libx264" not in av.codecs_available:
            raise ConfigError("format='mp4': this PyAV has no libx264; 'jpeg' needs none")


# Packing one video.


def pack_video(video: VideoFile, packing: Packing) -> dict[str, Any]:
    """The fields of a record that are of the video itself.

    `video` bytes; `extradata` bytes, what the decoder must know first (empty for JPEG);
    `offsets` int64 `[T + 1]`, frame i is `video[offsets[i]:offsets[i + 1]]`; `keyframes` int64,
    ascending; `times` float64 `[T]`, seconds; `shape` int64 `[2]`, height and width.

    Raises:
      VideoError: a frame cannot be decoded.
    """
    height, width = scaled_shape(video.height, video.width, packing.size)
    pictures = scaled_frames(video, height, width)
    fields = {"times": _times(video), "shape": np.asarray((height, width), np.int64)}
    if packing.format == "jpeg":
        frames = [_jpeg(picture, packing.quality) for picture in pictures]
        offsets = np.cumsum([0, *map(len, frames)])
        everyone = np.arange(len(frames))
        return fields | {
            "video": b"".join(frames),
            "extradata": b"",
            "offsets": offsets.astype(np.int64),
            "keyframes": everyone.astype(np.int64),
        }
    content = _mp4(pictures, fields["times"], height, width, packing)
    return fields | {"video": content} | _packet_table(content, video)


def scaled_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) with the short side `size`, if it was longer; even, as H.264 wants."""
    scale = min(size / min(height, width), 1)
    h, w = (max(2 * round(side * scale / 2), 2) for side in (height, width))
    return h, w


def scaled_frames(video: VideoFile, height: int, width: int) -> Iterator[np.ndarray]:
    """All frames, one after another: uint8 `[height, width, 3]`, averaged over areas, which is
    antialiased and too slow for anything done more than once."""
    for _, frame in decode.decode_frames(video, range(video.num_frames)):
        if frame.shape[:2] == (height, width):
            yield frame
        else:
            yield cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def _times(video: VideoFile) -> np.ndarray:
    """Seconds of every frame from the first, each later than the one before."""
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
        # With it x264's bytes are now and then others in the next run.
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
    """Where the frames of an mp4 without B-frames lie in it."""
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        extradata = stream.codec_context.extradata
    starts = np.asarray([packet.pos for packet in packets])
    ends = starts + np.asarray([packet.size for packet in packets])
    if len(packets) != video.num_frames or (starts[1:] != ends[:-1]).any():
        raise VideoError(f"{video.path}: its packed frames do not lie one after another")
    return {
        "extradata": extradata or b"",
        "offsets": np.append(starts, ends[-1]).astype(np.int64),
        "keyframes": np.flatnonzero([packet.is_keyframe for packet in packets]).astype(np.int64),
    }


def _jpeg(picture: np.ndarray, quality: int) -> bytes:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


# Reading one video.


# Gives (index, uint8 RGB [H, W, 3]) of ascending indices.
Reader = Callable[[Sequence[int]], Iterator[tuple[int, np.ndarray]]]


def record_file(record: Mapping[str, Any], path: str) -> VideoFile:
    """A `VideoFile` of a record's fields (see `pack_video`); `path` names it in errors."""
    read = _read_h264 if record["extradata"] else _read_jpeg
    height, width = (int(side) for side in record["shape"])
    times, keyframes = np.asarray(record["times"]), np.asarray(record["keyframes"])
    return video_file(path, functools.partial(read, record, path), times, keyframes, height, width)


def video_file(path, reader: Reader, times, keyframes, height: int, width: int) -> VideoFile:
    """A `VideoFile` whose frames come from `reader`; `times` in seconds, ascending."""
    span = float(times[-1] - times[0])
    return VideoFile(
        path=path,
        container=None,
        stream=None,
        pts=np.arange(len(times)),
        times=times,
        keyframes=keyframes,
        height=height,
        width=width,
        fps=(len(times) - 1) / span if span > 0 else 0.0,
        rotation=0,
        seekable=True,
        reader=reader,
    )


def _read_h264(
    record: Mapping[str, Any], path: str, wanted: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    content, offsets, keyframes = record["video"], record["offsets"], record["keyframes"]
    # Shared by the frames: to set one up takes longer than to convert a frame of this size.
    reformatter = VideoReformatter()
    codec, position = _h264_codec(record), 0
    for index in wanted:
        key = int(keyframes[np.searchsorted(keyframes, index, "right") - 1])
        if position < key:
            codec, position = _h264_codec(record), key
        frames: list[Any] = []
        try:
            for place in range(position, index + 1):
                # Without B-frames every packet gives its frame at once.
                frames = codec.decode(av.Packet(content[offsets[place] : offsets[place + 1]]))
        except FFmpegError as error:
            reason = error.strerror
            raise VideoError(f"{path}: frame {index} cannot be decoded ({reason})") from error
        position = index + 1
        if len(frames) != 1 or frames[0].is_corrupt:
            raise VideoError(f"{path}: frame {index} is corrupt")
        yield index, reformatter.reformat(frames[0], format="rgb24").to_ndarray()


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
        yield index, read_picture(content[offsets[index] : offsets[index + 1]], path, index)


def read_picture(content: bytes, path: str, index: int) -> np.ndarray:
    """Frame `index` of the video that errors call `path`: uint8 RGB `[H, W, 3]`."""
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        picture = None
    if picture is None:
        raise VideoError(f"{path}: frame {index} cannot be read as a picture")
    return picture
