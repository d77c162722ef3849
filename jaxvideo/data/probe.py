"""Build the frame table of an opened video file.

A file may be damaged, and its header may be wrong. Frame counts in the header are compared with
the file size before memory is allocated for them. If the packets end early, the video is the part
before that point, and `FrameTable.damage` describes what is missing.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition

from jaxvideo.data.boxes import Layout, check_count
from jaxvideo.data.packets import INDEXED, Packet, doubt, is_packed, reader
from jaxvideo.types import VideoError

# Twice the pixels of 8K video. One such frame takes 200 MB as RGB.
_MAX_PIXELS = 2**26

# Lower bound of the size of a coded frame.
_MIN_BYTES = 8

#: (pts, dts) of packets.
Times = Collection[tuple[int | None, int | None]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameTable:
    """The frames of a video in presentation order: a plain value without open files.

    Attributes:
      pts: presentation times `[num_frames]`, in units of the stream's time base.
      times: seconds from the first frame, float64 `[num_frames]`, ascending; frame indices if
        the source has no times.
      keyframes: indices of the key frames, ascending.
      height, width: size of the upright frame, after rotation.
      fps: average frame rate; 0 if unknown.
      rotation: counterclockwise rotation that was applied, in degrees: 0, 90, 180 or 270.
      pixel_aspect: width of a pixel of the upright frame, divided by its height.
      seekable: True if a frame can be found by its time; otherwise frames are counted from the
        start.
      unit: seconds per unit of `pts`: `times` is `(pts - pts[0]) * unit`. 0 if `times` do not
        follow from `pts`.
      pixel_format: FFmpeg's name of the first frame's format; empty if frames are RGB arrays.
      start: time to seek to before the first frame is decoded, in units of `pts`.
      counted: why the frames were found by decoding the whole video (see `packets.doubt`); empty
        if every packet is one frame.
      corrupt_packets: number of packets that FFmpeg marks as corrupt, including those that the
        end of the file truncates.
      corrupt_frames: number of frames decoded from corrupt data, if `counted`; otherwise 0.
      cut: (pts, dts) of the truncated packets at the end; they are not in the table.
      damage: description of missing data; empty if the file is complete.
      remarks: properties of the file that are unusual but no fault, one phrase each.
    """

    pts: np.ndarray
    times: np.ndarray
    keyframes: np.ndarray
    height: int
    width: int
    fps: float
    rotation: int
    seekable: bool
    unit: float = 0.0
    pixel_format: str = ""
    start: int = 0
    pixel_aspect: float = 1.0
    counted: str = ""
    corrupt_packets: int = 0
    corrupt_frames: int = 0
    cut: frozenset[tuple[int | None, int | None]] = frozenset()
    damage: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def damaged(self) -> bool:
        """True if data are missing or corrupt.

        What a decoder returns for such a file may depend on what it has read before.
        """
        return bool(self.damage or self.corrupt_packets or self.corrupt_frames)

    @property
    def num_frames(self) -> int:
        """Number of frames in the table."""
        return len(self.pts)


@dataclasses.dataclass(frozen=True)
class _Frames:
    """The frames of a stream, from its packets or its decoder.

    Attributes:
      pts: times of the frames in presentation order; indices if not `timed`.
      timed: True if every frame has a time of its own.
      keyframes: indices of the key frames.
      first: the first decoded frame.
      seekable, counted: see `FrameTable`.
      damage: packets in the middle that cannot be decoded.
      corrupt: see `FrameTable.corrupt_frames`.
    """

    pts: np.ndarray
    timed: bool
    keyframes: np.ndarray
    first: Any
    seekable: bool
    counted: str = ""
    damage: str = ""
    corrupt: int = 0


def probe(path: str, container: Any, stream: Any, layout: Layout) -> FrameTable:
    """Returns the frame table of a stream, from its packets or by decoding it (`packets.doubt`).

    Args:
      path: name of the video in error messages.
      container: opened PyAV container.
      stream: the container's video stream; `limit_decoder` is applied to it.
      layout: result of `boxes.check_layout`.

    Raises:
      VideoError: unknown codec, no frame, no frame that can be decoded, frames of more than 2^26
        pixels, or more frames than the file can hold.
    """
    codec = stream.codec_context
    if codec is None:
        raise VideoError(f"{path}: FFmpeg has no decoder for its codec")
    limit_decoder(stream)
    _check_size(path, codec.height, codec.width)
    # FFmpeg's seek takes quadratic time in the number of missing frames.
    check_count(path, stream.frames, layout.size, _MIN_BYTES)
    packets, first, problem = _demux(container, stream)
    cut = list(itertools.takewhile(lambda packet: packet.corrupt, reversed(packets)))
    whole = packets[: len(packets) - len(cut)]
    coded = [packet for packet in whole if packet.size]
    shown = [packet for packet in coded if not packet.discard]
    if not shown:
        raise VideoError(f"{path}: contains no frames" + f" ({problem})" * bool(problem))
    lost = frozenset((packet.pts, packet.dts) for packet in cut if packet.time is not None)
    why = doubt(container, stream, coded)
    start, ends = min(0, *(packet.time or 0 for packet in coded)), bool(problem)
    if not why and first is None:  # hidden by an edit list
        first = _first_frame(decoded(container, stream, start, lost, ends=ends))
    if why or first is None:
        why = why or "the first frame cannot be decoded by itself"
        frames = _count(path, container, stream, coded, start, lost, why, ends)
    else:
        frames = _from_packets(stream, shown, first, container.format.name)
    turns = round(frames.first.rotation / 90) % 4
    height, width = (frames.first.height, frames.first.width)[:: -1 if turns % 2 else 1]
    _check_size(path, height, width)
    base, rate = float(stream.time_base or 0), float(stream.average_rate or 0)
    unit = base if frames.timed else 1 / rate if rate else 1.0
    times = (frames.pts - frames.pts[0]) * unit
    fps = (len(times) - 1) / times[-1] if frames.timed and times[-1] > 0 else rate
    aspect = float(stream.sample_aspect_ratio or 1)
    return FrameTable(
        pts=frames.pts,
        times=times,
        keyframes=frames.keyframes,
        height=height,
        width=width,
        fps=float(fps),
        rotation=90 * turns,
        seekable=frames.seekable,
        unit=unit,
        pixel_format=frames.first.format.name,
        start=start,
        pixel_aspect=1 / aspect if turns % 2 else aspect,
        counted=frames.counted,
        corrupt_packets=sum(packet.corrupt for packet in packets),
        corrupt_frames=frames.corrupt,
        cut=lost,
        damage=_missing_data(container, stream, whole, problem, layout) or frames.damage,
        remarks=tuple(_remarks(container, stream, packets, frames, layout)),
    )


def limit_decoder(stream: Any) -> None:
    """Switches off the decoder's threads, and limits the size of frames.

    Decoded frames may be larger than the header states. It must be called before the first frame is
    decoded.
    """
    stream.thread_type = "NONE"
    stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}


def decoded(
    container: Any,
    stream: Any,
    start: int,
    cut: Times = frozenset(),
    *,
    ends: bool = False,
    failed: Callable[[str], None] | None = None,
    needed: Container[int] | None = None,
) -> Iterator[Any]:
    """Yields PyAV frames in the order of the decoder, up to the last complete packet.

    Args:
      container, stream: PyAV objects.
      start: a time in units of the stream's time base; decoding begins at the last key frame at or
        before it.
      cut: (pts, dts) of truncated packets, at which decoding ends.
      ends: True if an error of the container is the end of the video.
      failed: called with the reason if a packet cannot be decoded. Without it, the error is
        raised.
      needed: times of the frames to decode; others are skipped if no frame refers to them.
        None (default) decodes all.

    Raises:
      FFmpegError: the file cannot be rewound; or a packet cannot be decoded, without `failed`.
    """
    _seek(container, stream, start)
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError:
            if not ends:
                raise
            packet = None
        if packet is not None and not packet.size:  # would signal the end to the decoder
            continue
        last = packet is None or (packet.pts, packet.dts) in cut
        if needed is not None and packet is not None and not last:
            stream.codec_context.skip_frame = "DEFAULT" if packet.pts in needed else "NONREF"
        try:
            # None flushes the frames that the decoder has delayed.
            yield from stream.decode(None if last else packet)
        except FFmpegError as error:
            if failed is None:
                raise
            failed(reason(error))
        if last:
            return


def _seek(container: Any, stream: Any, start: int) -> None:
    try:
        container.seek(start, stream=stream, backward=True, any_frame=False)
    except FFmpegError:
        # Raw streams (.h264) have no times to seek to, but their first byte.
        if start > 0:
            raise
        container.seek(0, unsupported_byte_offset=True)


def video_streams(container: Any) -> list[Any]:
    """Returns the video streams without cover pictures, which FFmpeg presents as streams, too."""
    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


def reason(error: Exception) -> str:
    """Returns the text of an exception without its type and path."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _demux(container: Any, stream: Any) -> tuple[list[Packet], Any, str]:
    """Returns all packets, the first frame if a packet alone suffices, and an error at the end."""
    read, first, problem = reader(stream.codec_context.codec.canonical_name), None, ""
    packets: list[Packet] = []
    try:
        for packet in container.demux(stream):
            if packet.size or packet.dts is not None:  # otherwise the end-of-stream marker
                packets.append(read(packet))
            if len(packets) == 1 and packet.size and packet.is_keyframe:
                first = _decode_at_once(packet)
    except FFmpegError as error:
        problem = reason(error)
    return packets, first, problem


def _decode_at_once(packet: Any) -> Any:
    """Decodes one packet and flushes the decoder, which otherwise delays frames (B-frames).

    Returns None if that gives no frame, for example because an edit list hides it.
    """
    try:
        return next(iter([*packet.decode(), *packet.stream.decode(None)]), None)
    except FFmpegError:
        return None


def _first_frame(frames: Iterator[Any]) -> Any:
    try:
        return next(frames, None)
    except FFmpegError:
        return None


def _from_packets(stream: Any, shown: Sequence[Packet], first: Any, container: str) -> _Frames:
    timed = bool(stream.time_base) and all(packet.time is not None for packet in shown)
    pts = np.asarray([packet.time if timed else i for i, packet in enumerate(shown)], np.int64)
    order = np.argsort(pts, kind="stable")
    codec, in_order = stream.codec_context, bool((np.diff(order) > 0).all())
    seekable = timed and bool((np.diff(pts[order]) > 0).all())
    # AVI has no presentation times; the times of B-frames are then wrong. (An MPEG-4 header always
    # states that B-frames are possible.)
    if in_order:
        seekable &= codec.name == "mpeg4" or not codec.has_b_frames
    else:
        seekable &= container != "avi"
    keyframes = np.flatnonzero(np.asarray([packet.key for packet in shown])[order])
    return _Frames(pts[order], timed, keyframes, first, seekable and len(keyframes) > 0)


def _count(
    path: str,
    container: Any,
    stream: Any,
    coded: Sequence[Packet],
    start: int,
    cut: Times,
    why: str,
    ends: bool,
) -> _Frames:
    """Finds the frames by decoding the video once."""
    found: list[tuple[int | None, bool]] = []
    early: list[str] = []
    late: list[str] = []
    first, corrupt = None, 0

    def failed(text: str) -> None:
        (late if found else early).append(text)

    try:
        for frame in decoded(container, stream, start, cut, ends=ends, failed=failed):
            first = first or frame
            found.append((frame.pts, bool(frame.key_frame)))
            corrupt += frame.is_corrupt
    except FFmpegError as error:
        late.append(reason(error))
    if first is None:
        why = next(iter(early + late), "")
        raise VideoError(
            f"{path}: none of its {len(coded)} frames can be decoded" + f" ({why})" * bool(why)
        )
    kind = container.format.name.split(",")[0]
    given = [time for time, _ in found if time is not None]
    timed = bool(stream.time_base) and len(given) == len(found) and not is_packed(coded)
    pts = np.asarray(given if timed else range(len(found)), np.int64)
    if (np.diff(pts) <= 0).any():
        timed, pts = False, np.arange(len(found))
    keyframes = np.flatnonzero([key for _, key in found])
    seekable = timed and kind in INDEXED and kind != "avi" and len(keyframes) > 0
    damage = f"{len(late)} packets cannot be decoded ({late[0]})" if late else ""
    return _Frames(pts, timed, keyframes, first, seekable, why, damage, corrupt)


def _check_size(path: str, height: int, width: int) -> None:
    if height * width > _MAX_PIXELS:
        raise VideoError(
            f"{path}: frames are {width} x {height}; at most {_MAX_PIXELS} pixels are supported"
        )


def _missing_data(
    container: Any, stream: Any, packets: Sequence[Packet], problem: str, layout: Layout
) -> str:
    """Describes what the file states but does not contain; empty if nothing is missing."""
    there = len(packets)
    if container.format.name == "avi":
        # The header counts empty chunks of dropped frames, too. Decoding times do the same.
        ends = [packet.dts for packet in packets if packet.dts is not None]
        there = max(ends, default=-1) + 1 if layout.cut else stream.frames
    elif layout.edited and not (layout.cut or problem):
        there = stream.frames  # the edit list ends before the last sample
    else:
        problem = problem or layout.cut
    why = f" ({problem or layout.cut})" * bool(problem or layout.cut)
    if stream.frames > there:
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


def _remarks(
    container: Any, stream: Any, packets: Sequence[Packet], frames: _Frames, layout: Layout
) -> Iterator[str]:
    videos = len(video_streams(container))
    if videos > 1:
        yield f"{videos} video streams; stream {stream.index} is read, the one FFmpeg selects"
    total = max(stream.frames, len(packets))
    hidden = total - sum(not packet.discard for packet in packets)
    discarded = any(packet.discard for packet in packets)
    if hidden > 0 and (discarded or layout.edited) and not layout.cut:
        yield f"an edit list hides {hidden} of {total} frames"
    if frames.counted:
        coded = sum(packet.size > 0 and not packet.discard for packet in packets)
        differs = f": {len(frames.pts)} frames in {coded} packets" * (len(frames.pts) != coded)
        yield f"its frames are counted by decoding ({frames.counted}){differs}"
    aspect = stream.sample_aspect_ratio
    if aspect and aspect != 1:
        yield (
            f"its pixels are not square (sample aspect ratio {aspect.numerator}:"
            f"{aspect.denominator}); preprocessing.square_pixels corrects that"
        )


def _seconds(tag: str) -> float:
    """Parses hours:minutes:seconds; 0 for any other text."""
    parts = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", tag.strip("\0 "))
    return sum(float(parts[i + 1]) * by for i, by in enumerate((3600, 60, 1))) if parts else 0.0
