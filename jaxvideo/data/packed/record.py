"""Encode one video as records that are fast to read clips from, and decode it.

A video is stored in a format of `codecs.CODECS`. The record has the byte offset of each frame, so
that reading a clip needs neither a container nor a demuxer. The bytes of mp4 are nevertheless a
complete file that any player can show.

A video of more than 256 KiB is divided into parts, and a clip reads only those that it needs: the
first record then has no frames, and each following record has one part.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import av
import numpy as np
from tensorflow_datasets.proto import tf_example_pb2

from jaxvideo.data.colors import matrix_of
from jaxvideo.data.decode import scaled_planes
from jaxvideo.data.packed.codecs import CODECS, TICKS, Source
from jaxvideo.data.planes import convert_planes
from jaxvideo.data.video import VideoFile, reader_video
from jaxvideo.types import ConfigError, UsageError

# Limit of a record. Reading 256 KiB takes 0.1 ms, but 512 KiB 1.5 ms: the allocator returns memory
# of that size to the system each time.
_PART_BYTES = 2**18


def usable_formats() -> list[str]:
    """Returns the rows of `codecs.CODECS` that can be written: PyAV may lack an encoder."""
    return [name for name, codec in CODECS.items() if codec.encoder in (None, *av.codecs_available)]


@dataclasses.dataclass(frozen=True)
class Packing:
    """Settings of packed videos.

    Attributes:
      format: "mp4" (H.264), "jpeg", or "raw" (uncompressed planes).
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
        if self.format not in CODECS:
            raise UsageError(f"format={self.format!r}: allowed are {', '.join(CODECS)}")
        for name, low, high in (
            ("size", 16, 4096),
            ("crf", 0, 51),
            ("gop", 1, 1000),
            ("quality", 1, 100),
            ("per_shard", 1, 1_000_000),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}={getattr(self, name)}: must be from {low} to {high}")
        if self.format not in (usable := usable_formats()):
            raise ConfigError(f"format={self.format!r}: this PyAV lacks its encoder; use {usable}")


# --- Encoding -----------------------------------------------------------------------------


def pack_video(video: VideoFile, packing: Packing) -> dict[str, Any]:
    """Encodes a video and returns those fields of its record that do not depend on the data set.

    Returns:
      `format`: a row of `codecs.CODECS`; `video`: bytes of the frames; `extradata`: bytes that the
      decoder needs first (empty without H.264); `offsets`: int64 `[T + 1]`, frame i is
      `video[offsets[i]:offsets[i + 1]]`; `keyframes`: int64, ascending; `parts`: int64 `[P + 1]`,
      part p holds the frames `parts[p]` to `parts[p + 1]`, see `split_record`; `times`: float64
      `[T]`, seconds; `shape`: int64 `[2]`, height and width; `colors`: int64 `[2]`, number of the
      matrix in H.273, and 1 for full range.

    Raises:
      VideoError: a frame cannot be decoded.
    """
    codec = CODECS[packing.format]
    height, width = scaled_shape(video.height, video.width, packing.size)
    frames = scaled_planes(video, height, width)
    first = next(frames)
    kind = codec.kind or first.kind
    # Frames of a video have the same matrix and range, with rare exceptions.
    converted = (convert_planes(frame, kind) for frame in itertools.chain([first], frames))
    times = _times(video)
    source = Source(video.path, converted, kind, height, width, times)
    found = codec.encode(source, packing)
    return found | {
        "format": packing.format.encode(),
        "parts": _parts(found["offsets"], found["keyframes"]),
        "times": times,
        "shape": np.asarray((height, width), np.int64),
        "colors": np.asarray(matrix_of(kind), np.int64),
    }


def split_record(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the records of a video: one, or a record without frames and one for each part."""
    content, offsets, parts = fields["video"], fields["offsets"], fields["parts"]
    if len(parts) == 2:
        return [dict(fields)]
    # Bytes before the first frame and after the last belong to an mp4 file, too.
    cuts = [0, *(int(offsets[part]) for part in parts[1:-1]), len(content)]
    rest = {
        name: value if isinstance(value, bytes) else value[:0] for name, value in fields.items()
    }
    rest |= {"extradata": b"", "shape": fields["shape"], "colors": fields["colors"]}
    pieces = [{**rest, "video": content[a:b]} for a, b in itertools.pairwise(cuts)]
    return [{**fields, "video": b""}, *pieces]


def _parts(offsets: np.ndarray, keyframes: np.ndarray) -> np.ndarray:
    """Returns the first frame of each part and the number of frames."""
    ends, parts = [*keyframes[1:], len(offsets) - 1], [0]
    for start, end in zip(keyframes, ends, strict=True):
        if offsets[end] - offsets[parts[-1]] > _PART_BYTES and start > parts[-1]:
            parts.append(int(start))
    return np.asarray([*parts, len(offsets) - 1], np.int64)


def scaled_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Returns (height, width) scaled to a short side of at most `size`; even, as 4:2:0 requires."""
    scale = min(size / min(height, width), 1)
    h, w = (max(2 * round(side * scale / 2), 2) for side in (height, width))
    return h, w


def _times(video: VideoFile) -> np.ndarray:
    """Returns the seconds of every frame, strictly ascending."""
    times = np.asarray(video.times, np.float64)
    step = 1 / TICKS
    later = np.maximum.accumulate(times - np.arange(len(times)) * step)
    return later + np.arange(len(times)) * step


# --- Decoding -----------------------------------------------------------------------------


def parse(serialized: bytes) -> dict[str, Any]:
    """Returns the fields of a record: bytes, int64 and float64 arrays.

    TFDS does the same in 0.3 ms instead of 0.1.
    """
    fields: dict[str, Any] = {}
    for name, feature in tf_example_pb2.Example.FromString(serialized).features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind == "bytes_list":
            (fields[name],) = feature.bytes_list.value
        elif kind == "int64_list":
            fields[name] = np.array(feature.int64_list.value, np.int64)
        elif kind == "float_list":
            fields[name] = np.array(feature.float_list.value, np.float64)
    return fields


def record_video(
    record: Mapping[str, Any], path: str, load: Callable[[int], bytes] | None = None
) -> VideoFile:
    """Returns the video of a record.

    Args:
      record: the fields that `pack_video` returns. Those of older shards lack some.
      path: name of the video in error messages.
      load: returns the frames of a part; needed if the video is divided.
    """
    # Version 1.0.0 of the shards stored no format: only H.264 has extradata.
    name = record["format"].decode() if "format" in record else "mp4" * bool(record["extradata"])
    codec = CODECS[name or "jpeg"]
    height, width = (int(side) for side in record["shape"])
    times, keyframes = np.asarray(record["times"]), np.asarray(record["keyframes"])

    def read(wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        return codec.read(record, _packets(record, load), path, wanted)

    return reader_video(
        path, read, times, keyframes, height, width, pixel_format=codec.pixel_format
    )


def _packets(
    record: Mapping[str, Any], load: Callable[[int], bytes] | None
) -> Callable[[int], memoryview]:
    """Returns a function that returns the bytes of a frame and holds the last part it has read."""
    offsets, content, first, zero = record["offsets"], memoryview(record["video"]), 0, 0
    parts = record.get("parts", ())
    last = len(offsets) - 1 if content else 0

    def packet(index: int) -> memoryview:
        nonlocal content, first, last, zero
        if not first <= index < last:
            assert load is not None
            part = int(np.searchsorted(parts, index, "right")) - 1
            content = memoryview(load(part))
            first, last = int(parts[part]), int(parts[part + 1])
            zero = int(offsets[first]) if part else 0
        return content[offsets[index] - zero : offsets[index + 1] - zero]

    return packet
