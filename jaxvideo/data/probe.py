"""Build the frame table of an opened video file from its packets.

A file may be damaged, and its header may be wrong. Frame counts in the header are compared with
the file size before memory is allocated for them. If the packets end early, the video is the part
before that point, and `FrameTable.damage` describes what is missing.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import av
import numpy as np
from av.error import FFmpegError

from jaxvideo.types import VideoError

# A packet of at most this size in an MPEG-4 AVI is the filler after a packed B-frame (HMDB51).
# Decoders then return times that are not monotonic, so frames are found only by counting.
_PACKED_BYTES = 10

# Container formats with an index that leads to the requested key frame. In others, above all MPEG
# streams, a seek may end at a frame whose reference frames the decoder lacks.
_INDEXED = ("mov", "matroska", "avi", "flv")

# Twice the pixels of 8K video. One such frame takes 200 MB as RGB.
_MAX_PIXELS = 2**26

# Lower bound of the size of a coded frame.
_MIN_BYTES = 8

# MP4 boxes that may begin a file, and the boxes that contain its sample tables.
_FIRST_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"sidx")
_NESTED_BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameTable:
    """The frames of a video in presentation order.

    Attributes:
      pts: presentation times `[num_frames]`, in units of the stream's time base.
      times: seconds from the first frame, float64 `[num_frames]`, ascending; frame indices if
        the source has no times.
      keyframes: indices of the key frames, ascending.
      height, width: size of the upright frame, after rotation.
      fps: average frame rate; 0 if unknown.
      rotation: counterclockwise rotation that was applied, in degrees: 0, 90, 180 or 270.
      seekable: True if a frame can be found by its time; otherwise frames are counted from the
        start.
      corrupt_packets: number of packets that FFmpeg marks as corrupt, including those that the
        end of the file truncates.
      cut: (pts, dts) of the truncated packets at the end; they are not in the table.
      damage: description of missing data; empty if the file is complete.
    """

    pts: np.ndarray
    times: np.ndarray
    keyframes: np.ndarray
    height: int
    width: int
    fps: float
    rotation: int
    seekable: bool
    corrupt_packets: int = 0
    cut: frozenset[tuple[int | None, int | None]] = frozenset()
    damage: str = ""

    @property
    def num_frames(self) -> int:
        """Number of frames in the table."""
        return len(self.pts)


@dataclasses.dataclass(frozen=True)
class FileSize:
    """Size of a video file in bytes, and which MP4 box its end truncates ("" if none)."""

    size: int
    cut_box: str


def check_boxes(path: str, file: BinaryIO) -> FileSize:
    """Checks the sample counts of an MP4 file against its size, before FFmpeg opens it.

    FFmpeg allocates its index from these counts alone (`stsz` and `trun` of ISO/IEC 14496-12), so
    four wrong bytes could allocate gigabytes. FFmpeg also does not report a truncated fragment.

    Raises:
      VideoError: the file is too small for the number of samples in its header.
    """
    size = file.seek(0, os.SEEK_END)
    samples, cut_box = _scan_boxes(file, size)
    _check_count(path, samples, size)
    return FileSize(size, cut_box)


def probe(path: str, container: Any, stream: Any, file: FileSize) -> FrameTable:
    """Demuxes all packets of a stream and returns its frame table.

    Args:
      path: name of the video in error messages.
      container: opened PyAV container.
      stream: the container's video stream; its decoder threads are switched off.
      file: result of `check_boxes`.

    Raises:
      VideoError: unknown codec, no frame, no frame that can be decoded, frames of more than 2^26
        pixels, or more frames than the file can hold.
    """
    codec = stream.codec_context
    if codec is None:
        raise VideoError(f"{path}: FFmpeg has no decoder for its codec")
    stream.thread_type = "NONE"
    # Decoded frames may be larger than the header states.
    codec.options = {"max_pixels": str(_MAX_PIXELS)}
    _check_size(path, codec.height, codec.width)
    # FFmpeg's seek takes quadratic time in the number of missing frames.
    _check_count(path, stream.frames, file.size, _MIN_BYTES)
    first, why, problem = None, "", ""
    packets: list[_Packet] = []
    try:
        for packet in container.demux(stream):
            if packet.size or packet.dts is not None:  # otherwise the end-of-stream marker
                packets.append(_Packet.of(packet))
            if packet.size and first is None:
                first, why = _first_frame(functools.partial(_decode_at_once, packet))
    except FFmpegError as error:
        problem = reason(error)
    if first is None:
        first, late = _first_frame(stream.decode)
        why = late or why
    cut = list(itertools.takewhile(lambda packet: packet.corrupt, reversed(packets)))
    whole = packets[: len(packets) - len(cut)]
    shown = [packet for packet in whole if packet.size and not packet.discard]
    if not shown:
        raise VideoError(f"{path}: contains no frames" + f" ({problem})" * bool(problem))
    if first is None:
        raise VideoError(
            f"{path}: none of its {len(shown)} frames can be decoded" + f" ({why})" * bool(why)
        )
    turns = round(first.rotation / 90) % 4
    height, width = (first.height, first.width)[:: -1 if turns % 2 else 1]
    _check_size(path, height, width)

    base = float(stream.time_base or 0)
    timed = base > 0 and all(packet.time is not None for packet in shown)
    pts = np.asarray([packet.time if timed else i for i, packet in enumerate(shown)], np.int64)
    order = np.argsort(pts, kind="stable")
    rate = float(stream.average_rate or 0)
    pts = pts[order]
    times = (pts - pts[0]) * (base if timed else 1 / rate if rate else 1.0)
    fps = (len(times) - 1) / times[-1] if timed and times[-1] > 0 else rate
    keyframes = np.flatnonzero(np.asarray([packet.key for packet in shown])[order])
    return FrameTable(
        pts=pts,
        times=times,
        keyframes=keyframes,
        height=height,
        width=width,
        fps=float(fps),
        rotation=90 * turns,
        seekable=timed and len(keyframes) > 0 and _can_seek(container, stream, shown, order, pts),
        corrupt_packets=sum(packet.corrupt for packet in packets),
        cut=frozenset((packet.pts, packet.dts) for packet in cut if packet.time is not None),
        damage=_missing_data(container, stream, whole, problem or file.cut_box),
    )


def reason(error: Exception) -> str:
    """Returns the text of an exception without its type and path."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _scan_boxes(file: BinaryIO, size: int) -> tuple[int, str]:
    """Returns the largest sample count of an MP4 file and the position of a truncated box.

    Returns (0, "") for files of other formats.
    """
    most, cut, ranges = 0, "", [(0, size)]
    while ranges:
        start, end = ranges.pop()
        outermost = start == 0
        while start < end:
            file.seek(start)
            head = file.read(min(20, end - start))
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if start == 0 and kind not in _FIRST_BOXES:
                return 0, ""
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            elif length == 0:
                length = end - start
            # A box that exceeds the file, or a fragment's header without its data.
            if outermost and (len(head) < 8 or start + length + (kind == b"moof") > end):
                cut = f"truncated after byte {start}"
            if kind in _NESTED_BOXES:
                ranges.append((start + 8, min(start + length, end)))
            elif kind in (b"stsz", b"trun"):
                place = 16 if kind == b"stsz" else 12
                most = max(most, int.from_bytes(head[place : place + 4], "big"))
            start += max(length, 8)
    return most, cut


def _check_count(path: str, frames: int, size: int, least: int = 1) -> None:
    if frames * least > size:
        raise VideoError(
            f"{path}: the header states {frames} frames, but the file has only {size} bytes"
        )


def _check_size(path: str, height: int, width: int) -> None:
    if height * width > _MAX_PIXELS:
        raise VideoError(
            f"{path}: frames are {width} x {height}; at most {_MAX_PIXELS} pixels are supported"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Packet:
    """The fields of a packet that the frame table needs, without its data."""

    pts: int | None
    dts: int | None
    duration: int
    size: int
    key: bool
    corrupt: bool
    discard: bool

    @classmethod
    def of(cls, packet: Any) -> _Packet:
        return cls(
            packet.pts,
            packet.dts,
            packet.duration or 0,
            packet.size,
            packet.is_keyframe,
            packet.is_corrupt,
            packet.is_discard,
        )

    @property
    def time(self) -> int | None:
        return self.dts if self.pts is None else self.pts

    @property
    def end(self) -> int:
        return (self.time or 0) + self.duration


def _decode_at_once(packet: Any) -> list[Any]:
    """Decodes one packet and flushes the decoder, which otherwise delays frames (B-frames)."""
    return [*packet.decode(), *packet.stream.decode(None)]


def _first_frame(decode: Callable[[], Sequence[Any]]) -> tuple[Any, str]:
    try:
        return next(iter(decode()), None), ""
    except FFmpegError as error:
        return None, reason(error)


def _can_seek(container, stream, packets: Sequence[_Packet], order, pts) -> bool:
    """True if times identify frames: they are distinct, and equal to those of the decoder."""
    kind, codec = container.format.name.split(",")[0], stream.codec_context
    if kind not in _INDEXED or not (np.diff(pts) > 0).all():
        return False
    mpeg4, in_order = codec.name == "mpeg4", bool((np.diff(order) > 0).all())
    if mpeg4 and any(packet.size <= _PACKED_BYTES for packet in packets):
        return False
    # AVI, and some MP4 files, have no presentation times; the times of B-frames are then wrong.
    # (An MPEG-4 header always states that B-frames are possible.)
    if in_order:
        return mpeg4 or not codec.has_b_frames
    return kind != "avi"


def _missing_data(container, stream, packets: Sequence[_Packet], problem: str) -> str:
    """Describes what the file states but does not contain; empty if nothing is missing."""
    why = f" ({problem})" * bool(problem)
    if stream.frames > len(packets):
        return f"contains only {len(packets)} of {stream.frames} frames{why}"
    if problem:
        return f"unreadable after {len(packets)} frames{why}"
    if container.format.name.startswith("matroska") and stream.time_base:
        # Matroska states a duration, not a number of frames: per file, and often per stream.
        stated = _seconds(stream.metadata.get("DURATION", ""))
        if len(container.streams) == 1 and not stated:
            stated = (container.duration or 0) / av.time_base
        last = max(packets, key=lambda packet: packet.time or 0)
        end, frame = (float(t * stream.time_base) for t in (last.end, last.duration))
        if stated > end + 1.5 * max(frame, 0.001):
            return f"ends after {end:.2f} of {stated:.2f} seconds"
    return ""


def _seconds(tag: str) -> float:
    """Parses hours:minutes:seconds; 0 for any other text."""
    parts = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", tag.strip("\0 "))
    return sum(float(parts[i + 1]) * by for i, by in enumerate((3600, 60, 1))) if parts else 0.0
