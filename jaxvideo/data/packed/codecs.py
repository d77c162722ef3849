"""The formats of packed videos: how frames become bytes, and bytes frames.

Frames are encoded from 4:2:0 planes and decoded to them, without RGB in between.

mp4: H.264 with frequent key frames and no B-frames, tuned for decoding (no CABAC, no deblocking:
half the time for 7 % more bytes). Matrix and range are those of the source.
jpeg: one image per frame. BT.601 and full range, as JFIF prescribes.
raw: Y, Cb and Cr of each frame, uncompressed. Matrix and range are those of the source.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import av
import numpy as np
from av.error import FFmpegError

from jaxvideo.data.colors import UNSTATED, matrix_index, matrix_of
from jaxvideo.data.planes import FULL, LIMITED, Planes
from jaxvideo.types import VideoError

if TYPE_CHECKING:
    from jaxvideo.data.packed.record import Packing

#: The row of `colors.MATRICES` that JFIF prescribes.
JFIF = matrix_index(UNSTATED, True)
#: Time base of the mp4 file, per second.
TICKS = 90_000

#: Returns the stored bytes of a frame.
Packets = Callable[[int], Any]


class Source(NamedTuple):
    """A video to encode.

    Attributes:
      path: name in error messages.
      planes: the frames, uint8 4:2:0.
      kind: their row of `colors.MATRICES`, the same for all.
      height, width: size of Y, even.
      times: seconds of each frame, ascending.
    """

    path: str
    planes: Iterable[Planes]
    kind: int
    height: int
    width: int
    times: np.ndarray


class Codec(NamedTuple):
    """A format of packed videos.

    Attributes:
      encode: returns the fields `video`, `extradata`, `offsets` and `keyframes` of a record.
      read: maps (record, packets, path, ascending indices) to pairs of an index and
        a frame of PyAV or `Planes`.
      kind: the row of `colors.MATRICES` that frames must have; 0: any.
      pixel_format: FFmpeg's name of the pixel format of the frames.
      about: name for people.
      encoder: FFmpeg's encoder that it needs; None: none.
    """

    encode: Callable[[Source, Packing], dict[str, Any]]
    read: Callable[[Mapping[str, Any], Packets, str, Sequence[int]], Iterator[tuple[int, Any]]]
    kind: int
    pixel_format: str
    about: str
    encoder: str | None


# --- H.264 --------------------------------------------------------------------------------


def _encode_h264(source: Source, packing: Packing) -> dict[str, Any]:
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
    file, clock = io.BytesIO(), Fraction(1, TICKS)
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = source.height, source.width, "yuv420p"
        stream.thread_count = 1
        stream.codec_context.time_base = clock
        stream.codec_context.colorspace, full = matrix_of(source.kind)
        stream.codec_context.color_range = FULL if full else LIMITED
        for time, planes in zip(source.times, source.planes, strict=True):
            frame = planes.frame()
            frame.pts, frame.time_base = round(time * TICKS), clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return {"video": file.getvalue(), **_packet_table(file.getvalue(), source)}


def _packet_table(content: bytes, source: Source) -> dict[str, Any]:
    """Returns the byte offsets of the frames of an mp4 file without B-frames."""
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        extradata = stream.codec_context.extradata
    starts = np.asarray([packet.pos for packet in packets])
    ends = starts + np.asarray([packet.size for packet in packets])
    if len(packets) != len(source.times) or (starts[1:] != ends[:-1]).any():
        raise VideoError(f"{source.path}: its encoded frames are not contiguous in the mp4 file")
    return {
        "extradata": extradata or b"",
        "offsets": np.append(starts, ends[-1]).astype(np.int64),
        "keyframes": np.flatnonzero([packet.is_keyframe for packet in packets]).astype(np.int64),
    }


def _read_h264(
    record: Mapping[str, Any], packets: Packets, path: str, wanted: Sequence[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    keyframes, position = record["keyframes"], 0
    codec = _decoder("h264", record["extradata"])
    for index in wanted:
        key = int(keyframes[np.searchsorted(keyframes, index, "right") - 1])
        if position < key:
            codec, position = _decoder("h264", record["extradata"]), key
        # Without B-frames, each packet returns its frame at once.
        for place in range(position, index):
            _decode(codec, packets(place), path, index)
        yield index, _decode(codec, packets(index), path, index)
        position = index + 1


# --- JPEG ---------------------------------------------------------------------------------


def _encode_jpeg(source: Source, packing: Packing) -> dict[str, Any]:
    # The scale of the quantization tables of FFmpeg, 1 (best) to 31, whose PSNR is next to that of
    # libjpeg at this quality.
    percent = 5000 / packing.quality if packing.quality < 50 else 200 - 2 * packing.quality
    scale = min(1 + round(percent / 10), 31)
    # Lagrange multipliers have 118 steps for each of the scale (FF_QP2LAMBDA).
    limits = {"qmin": scale, "qmax": scale, "lmin": 118 * scale, "lmax": 118 * scale}
    codec: Any = av.CodecContext.create("mjpeg", "w")
    # Without the flag, the images name the version of FFmpeg.
    codec.options = {"flags": "+bitexact", **{name: str(value) for name, value in limits.items()}}
    codec.height, codec.width, codec.pix_fmt = source.height, source.width, "yuvj420p"
    codec.thread_count, codec.time_base = 1, Fraction(1, 30)
    images = []
    for number, planes in enumerate(source.planes):
        frame = planes.frame("yuvj420p")
        frame.pts = number
        images += [bytes(packet) for packet in codec.encode(frame)]
    images += [bytes(packet) for packet in codec.encode(None)]
    return {"video": b"".join(images), "extradata": b"", **_intra(list(map(len, images)))}


def _read_jpeg(
    record: Mapping[str, Any], packets: Packets, path: str, wanted: Sequence[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    codec = _decoder("mjpeg")
    for index in wanted:
        yield index, _decode(codec, packets(index), path, index)


# --- Planes -------------------------------------------------------------------------------


def _encode_raw(source: Source, packing: Packing) -> dict[str, Any]:
    stored = [b"".join(plane.tobytes() for plane in frame.planes) for frame in source.planes]
    return {"video": b"".join(stored), "extradata": b"", **_intra(list(map(len, stored)))}


def _read_raw(
    record: Mapping[str, Any], packets: Packets, path: str, wanted: Sequence[int]
) -> Iterator[tuple[int, Planes]]:
    height, width = (int(side) for side in record["shape"])
    matrix, full = (int(value) for value in record["colors"])
    kind = matrix_index(matrix, bool(full))
    luma, chroma = height * width, (2, height // 2, width // 2)
    for index in wanted:
        content = np.frombuffer(packets(index), np.uint8)
        if len(content) != luma * 3 // 2:
            raise VideoError(
                f"{path}: frame {index} has {len(content)} bytes instead of {luma * 3 // 2}"
            )
        cb, cr = content[luma:].reshape(chroma)
        yield index, Planes((content[:luma].reshape(height, width), cb, cr), kind)


# ------------------------------------------------------------------------------------------


def _intra(sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """Returns the table of frames that all are key frames."""
    return {
        "offsets": np.cumsum([0, *sizes]).astype(np.int64),
        "keyframes": np.arange(len(sizes)).astype(np.int64),
    }


def _decoder(name: str, extradata: bytes = b"") -> Any:
    codec: Any = av.CodecContext.create(name, "r")
    if extradata:
        codec.extradata = extradata
    codec.thread_type, codec.thread_count = "NONE", 1
    return codec


def _decode(codec: Any, packet: Any, path: str, index: int) -> av.VideoFrame:
    """Decodes the packet of one frame; `index` is the frame in error messages."""
    try:
        frames = codec.decode(av.Packet(packet))
    except FFmpegError as error:
        reason = error.strerror
        raise VideoError(f"{path}: frame {index} cannot be decoded ({reason})") from error
    if len(frames) != 1 or frames[0].is_corrupt:
        raise VideoError(f"{path}: frame {index} is corrupt")
    return frames[0]


CODECS = {
    "mp4": Codec(_encode_h264, _read_h264, 0, "yuv420p", "H.264", "libx264"),
    "jpeg": Codec(_encode_jpeg, _read_jpeg, JFIF, "yuvj420p", "JPEG", "mjpeg"),
    "raw": Codec(_encode_raw, _read_raw, 0, "yuv420p", "uncompressed planes", None),
}
