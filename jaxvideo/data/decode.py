"""Frames out of video files, exactly the ones a View asks for.

One PyAV container per clip, one thread per decoder: parallelizm belongs to the loader, and
FFmpeg's own frame threads can deadlock with Python's logging. The presentation times of all
frames come from demuxing the packets (1 to 3 ms for ten seconds), so a frame's index means
the same in files of constant and variable frame rate, and seeking is exact.

A file may be damaged, or lie. What it promises is compared with its size before anything is
allocated for it; where its packets end early, what lies before is a shorter video, which
`VideoFile.damage` tells; and a frame that cannot be had is an error, never another frame.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import itertools
import math
import os
import re
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, BinaryIO

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from jaxvideo.types import DataError, VideoError, View

# A packet this small in an MPEG-4 AVI is the filler of a packed B-frame; decoders then give
# times that are not monotonic, and only counting from the start finds a frame (HMDB51).
_PACKED_BYTES = 10

# Kinds of files whose index leads to the key frame asked for. In the others, MPEG streams above
# all, a seek lands near it, or where the decoder lacks what the frame refers to.
_INDEXED = ("mov", "matroska", "avi", "flv")

# Twice 8K video. As RGB such a frame takes 200 MB.
_MAX_PIXELS = 2**26

# No coded frame is smaller.
_MIN_BYTES = 8

# Boxes of MP4 that may begin a file, and those on the way to its tables of samples.
_FIRST_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"sidx")
_NESTED_BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")


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

    A folder of `images` is a video too, and so is whatever has a `reader`; they have no stream.

    Attributes:
      path: of the file or the folder, or what bytes were called.
      pts: times of the frames, in units of the stream's time base.
      times: the same in seconds from the first frame, float64 `[num_frames]`, ascending; the
        index where nothing tells a time.
      keyframes: indices into `pts`.
      height, width: of the upright frame, rotation applied.
      fps: the average; 0 where nothing tells it.
      rotation: degrees by which frames were turned counterclockwise: 0, 90, 180 or 270.
      seekable: whether a frame is found by its time; else by counting from the first.
      corrupt_packets: packets that the file's own checks call damaged, or that its end cuts.
      cut: (pts, dts) of those at the end; they are no frames.
      damage: what is missing of that which the file promises; empty if nothing is.
      reader: instead of a stream; what `decode_frames` is to do with the indices.
    """

    path: str
    container: Any
    stream: Any
    pts: np.ndarray
    times: np.ndarray
    keyframes: np.ndarray
    height: int
    width: int
    fps: float
    rotation: int
    seekable: bool
    images: tuple[str, ...] = ()
    corrupt_packets: int = 0
    cut: frozenset[tuple[int | None, int | None]] = frozenset()
    damage: str = ""
    reader: Callable[[Sequence[int]], Iterator[tuple[int, np.ndarray]]] | None = None

    @property
    def num_frames(self) -> int:
        return len(self.pts)


@contextlib.contextmanager
def open_video(
    source: str | os.PathLike[str] | bytes | np.ndarray, *, name: str = "<bytes>"
) -> Iterator[VideoFile]:
    """Opens a video and reads its frame table.

    Args:
      source: a video file; a folder of frames, in the order of their numbers; a file's bytes;
        or the frames themselves, uint8 `[T, H, W, 3]`, whose times nothing tells.
      name: what errors call bytes.

    Raises:
      VideoError: no such file, not a video, no video stream, no frame that can be decoded, frames
        of more than 2^26 pixels, or more of them than the file can hold. It names the file.
    """
    if isinstance(source, np.ndarray):
        yield _frames_in_memory(source)
        return
    path = name if isinstance(source, bytes) else os.fspath(source)
    if not isinstance(source, bytes) and os.path.isdir(path):
        yield _frame_folder(path)
        return
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            samples, cut_box = _look_at_boxes(file, size)
        _check_count(path, samples, size)
        container = av.open(io.BytesIO(source) if isinstance(source, bytes) else path, **_OPEN)
    except (OSError, ValueError, FFmpegError) as error:
        raise VideoError(f"{path}: cannot be opened as a video ({_reason(error)})") from error
    with container:
        # The cover of a song is a video stream to FFmpeg.
        covers = [s.disposition & Disposition.attached_pic for s in container.streams.video]
        streams = [s for s, cover in zip(container.streams.video, covers, strict=True) if not cover]
        if not streams:
            raise VideoError(f"{path}: has no video stream")
        yield _frame_table(path, container, streams[0], size, cut_box)


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

    Each frame is decoded once, and cropped and scaled for every view by `cut`.

    Raises:
      VideoError: a frame cannot be decoded, or is decoded from corrupt packets.
    """
    wanted = views[0].frames
    out = np.empty((len(views), len(wanted), size, size, 3), np.uint8)
    places: dict[int, list[int]] = {}
    for place, index in enumerate(wanted):
        places.setdefault(index, []).append(place)
    for index, frame in decode_frames(video, sorted(places)):
        first, *others = places[index]
        for number, view in enumerate(views):
            out[number, first] = cut(frame, view, size)
        out[:, others] = out[:, first : first + 1]
    return out


def cut(frame: np.ndarray, view: View, size: int) -> np.ndarray:
    """A view's window of a frame, scaled to `[size, size, 3]`.

    Bilinear, in one OpenCV call up to half the size, as the libraries whose weights exist did it.
    Beyond, halved first as often as that takes: else pixels between the samples would count
    nowhere, and INTER_AREA takes several times as long.
    """
    w = view.window
    picture = frame[w.top : w.top + w.height, w.left : w.left + w.width]
    halvings = 0
    while min(w.height, w.width) > 2 * size << halvings:
        halvings += 1
    for left in range(halvings, -1, -1):
        side = size << left
        picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_LINEAR)
    return picture[:, ::-1] if view.mirrored else picture


def read_frames(video: VideoFile, first: int, last: int, height: int, width: int) -> np.ndarray:
    """Frames `first` to `last` (exclusive), whole and scaled: uint8 `[T, height, width, 3]`.

    Raises:
      VideoError: a frame cannot be decoded, or is decoded from corrupt packets.
    """
    out = np.empty((last - first, height, width, 3), np.uint8)
    for index, frame in decode_frames(video, range(first, last)):
        place = out[index - first]
        cv2.resize(frame, (width, height), dst=place, interpolation=cv2.INTER_LINEAR)
    return out


def raw_frames(
    video: VideoFile,
    start: int | None = None,
    failed: Callable[[str], None] | None = None,
    needed: Container[int] | None = None,
) -> Iterator[Any]:
    """PyAV's frames up to the last whole packet, as they come out of the decoder.

    Args:
      start: a time of `pts`; they begin with the key frame there or before. None is the first.
      failed: called with the reason where a packet gives an error; without it, that is raised.

    Raises:
      VideoError: the file has no place to begin at.
      FFmpegError: a packet gives an error, without `failed`.
    """
    if start is None:
        start = min(int(video.pts[0]), 0)
    try:
        video.container.seek(start, stream=video.stream, backward=True, any_frame=False)
    except FFmpegError as error:
        raise VideoError(f"{video.path}: cannot be wound back ({_reason(error)})") from error
    packets = video.container.demux(video.stream)
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError:
            if not video.damage:
                raise
            packet = None
        if packet is not None and not packet.size:  # to a decoder, that would be the end
            continue
        last = packet is None or (packet.pts, packet.dts) in video.cut
        if needed is not None and packet is not None and not last:
            skip = "DEFAULT" if packet.pts in needed else "NONREF"
            video.stream.codec_context.skip_frame = skip
        try:
            # At the end, the frames that it still holds back.
            yield from video.stream.decode(None if last else packet)
        except FFmpegError as error:
            if failed is None:
                raise
            failed(_reason(error))
        if last:
            return


def decode_frames(video: VideoFile, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """(index, uint8 RGB `[height, width, 3]`) of ascending indices, upright. It seeks only where
    a key frame lies between, and takes that back where it leads past the frame.

    Raises:
      VideoError: a frame cannot be decoded, is decoded from corrupt packets, or has another size.
    """
    if video.reader is not None:
        yield from video.reader(wanted)
        return
    if video.images:
        yield from _read_images(video, wanted)
        return
    remaining = list(wanted)
    seeking, sought = video.seekable, False
    # Nothing refers to H.264's frames of this kind, B-frames above all.
    needed = None
    if video.seekable and video.stream.codec_context.name == "h264":
        needed = frozenset(video.pts[remaining].tolist())
    # Shared by the frames, because to set one up takes longer than to convert a frame.
    reformatter = VideoReformatter()
    try:
        position, frames = 0, raw_frames(video, needed=needed)
        while remaining:
            target = remaining[0]
            if seeking:
                key = int(video.keyframes[np.searchsorted(video.keyframes, target, "right") - 1])
                if position < key <= target:
                    frames = raw_frames(video, int(video.pts[key]), needed=needed)
                    position, sought = key, True
            frame = next(frames, None)
            past = video.seekable and frame is not None and _time(frame) > video.pts[target]
            if sought and (frame is None or past):
                # The index has led past the frame: without it, then.
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
            if video.seekable and _time(frame) < video.pts[target]:
                position = max(position, int(np.searchsorted(video.pts, _time(frame))) + 1)
                continue
            if not video.seekable and position < target:
                position += 1
                continue
            if frame.is_corrupt:
                raise VideoError(f"{video.path}: frame {target} is corrupt")
            yield target, _upright(video, frame, target, reformatter)
            position = target + 1
            remaining.pop(0)
    except FFmpegError as error:
        raise VideoError(
            f"{video.path}: frame {remaining[0]} of {video.num_frames} cannot be decoded "
            f"({_reason(error)})"
        ) from error


def frames_in(folder: str | os.PathLike[str]) -> list[str]:
    """Paths of the pictures in a folder, by the numbers in their names: frame_2 before frame_10."""
    names = [name for name in os.listdir(folder) if name.lower().endswith(IMAGES)]
    names.sort(key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])
    return [os.path.join(folder, name) for name in names]


def _frame_folder(path: str) -> VideoFile:
    images = frames_in(path)
    if not images:
        raise VideoError(f"{path}: holds no frames ({', '.join(IMAGES)})")
    size = _read_image(images[0]).shape
    return _without_stream(path, len(images), size, images=tuple(images))


def _frames_in_memory(frames: np.ndarray) -> VideoFile:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        hint = ""
        if frames.ndim == 4 and 3 in frames.shape[:2] and frames.shape[-1] != 3:
            hint = ". This seems to be torch's order of axes, channels first"
        raise VideoError(
            f"an array of {frames.dtype} {list(frames.shape)}: a video is uint8 [T, H, W, 3]{hint}"
        )

    def read(wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        return ((index, frames[index]) for index in wanted)

    return _without_stream("<array>", len(frames), frames.shape[1:], reader=read)


def _without_stream(path: str, count: int, size: Sequence[int], **how: Any) -> VideoFile:
    """A video of `count` frames of `size` (H, W, ...), whose times nothing tells."""
    numbers = np.arange(count)
    return VideoFile(
        path=path,
        container=None,
        stream=None,
        pts=numbers,
        times=numbers.astype(np.float64),
        keyframes=numbers,
        height=size[0],
        width=size[1],
        fps=0.0,
        rotation=0,
        seekable=True,
        **how,
    )


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


def _look_at_boxes(file: BinaryIO, size: int) -> tuple[int, str]:
    """How many samples the longest table of an MP4 file promises, and whether the file's end
    cuts a box short; 0 and nothing in other kinds of files.

    FFmpeg allocates its index by such counts (`stsz` and `trun` of ISO/IEC 14496-12) alone, so
    four wrong bytes would cost gigabytes; and of a fragment that is cut it says nothing.
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
            # The last one is cut short, or is the table of a fragment that is not there.
            if outermost and (len(head) < 8 or start + length + (kind == b"moof") > end):
                cut = f"cut short after byte {start}"
            if kind in _NESTED_BOXES:
                ranges.append((start + 8, min(start + length, end)))
            elif kind in (b"stsz", b"trun"):
                place = 16 if kind == b"stsz" else 12
                most = max(most, int.from_bytes(head[place : place + 4], "big"))
            start += max(length, 8)
    return most, cut


def _check_count(path: str, frames: int, size: int, least: int = 1) -> None:
    if frames * least > size:
        raise VideoError(f"{path}: promises {frames} frames in a file of {size} bytes")


def _check_size(path: str, height: int, width: int) -> None:
    if height * width > _MAX_PIXELS:
        raise VideoError(
            f"{path}: its frames would be {width} x {height}, at most {_MAX_PIXELS} pixels are read"
        )


def _frame_table(path: str, container: Any, stream: Any, size: int, cut_box: str) -> VideoFile:
    codec = stream.codec_context
    if codec is None:
        raise VideoError(f"{path}: its codec is not known")
    stream.thread_type = "NONE"
    # Frames may be larger than the header says.
    codec.options = {"max_pixels": str(_MAX_PIXELS)}
    _check_size(path, codec.height, codec.width)
    # FFmpeg's seek takes time quadratic in frames that are not there.
    _check_count(path, stream.frames, size, _MIN_BYTES)
    first, reason, problem = None, "", ""
    packets: list[_Packet] = []
    try:
        for packet in container.demux(stream):
            if packet.size or packet.dts is not None:  # else it is the mark of the end
                packets.append(_Packet.of(packet))
            if packet.size and first is None:
                first, reason = _first_frame(functools.partial(_at_once, packet))
    except FFmpegError as error:
        problem = _reason(error)
    if first is None:
        first, late = _first_frame(stream.decode)
        reason = late or reason
    cut = list(itertools.takewhile(lambda packet: packet.corrupt, reversed(packets)))
    whole = packets[: len(packets) - len(cut)]
    shown = [packet for packet in whole if packet.size and not packet.discard]
    if not shown:
        raise VideoError(f"{path}: has no frames" + f" ({problem})" * bool(problem))
    if first is None:
        why = f" ({reason})" * bool(reason)
        raise VideoError(f"{path}: none of its {len(shown)} frames can be decoded{why}")
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
    return VideoFile(
        path=path,
        container=container,
        stream=stream,
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
        damage=_damage(container, stream, whole, problem or cut_box),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Packet:
    """What the frame table needs of a packet, without its bytes."""

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


def _at_once(packet: Any) -> list[Any]:
    """Its frames, though a decoder of B-frames would hold them back for others."""
    return [*packet.decode(), *packet.stream.decode(None)]


def _first_frame(decode: Callable[[], Sequence[Any]]) -> tuple[Any, str]:
    try:
        return next(iter(decode()), None), ""
    except FFmpegError as error:
        return None, _reason(error)


def _can_seek(container, stream, packets: Sequence[_Packet], order, pts) -> bool:
    """Whether times lead to frames: they must not repeat, and be those of the decoder."""
    kind, codec = container.format.name.split(",")[0], stream.codec_context
    if kind not in _INDEXED or not (np.diff(pts) > 0).all():
        return False
    mpeg4, in_order = codec.name == "mpeg4", bool((np.diff(order) > 0).all())
    if mpeg4 and any(packet.size <= _PACKED_BYTES for packet in packets):
        return False
    # AVI has no presentation times, and some MP4 files lack theirs; B-frames then have wrong ones.
    # (MPEG-4 always says that it may have some.)
    if in_order:
        return mpeg4 or not codec.has_b_frames
    return kind != "avi"


def _damage(container, stream, packets: Sequence[_Packet], problem: str) -> str:
    """What the file promises and does not hold."""
    why = f" ({problem})" * bool(problem)
    if stream.frames > len(packets):
        return f"only {len(packets)} of {stream.frames} frames are there{why}"
    if problem:
        return f"nothing can be read after {len(packets)} frames{why}"
    if container.format.name.startswith("matroska") and stream.time_base:
        # It promises no number, but a time: of all streams, and often of each.
        promised = _seconds(stream.metadata.get("DURATION", ""))
        if len(container.streams) == 1 and not promised:
            promised = (container.duration or 0) / av.time_base
        last = max(packets, key=lambda packet: packet.time or 0)
        end, frame = (float(t * stream.time_base) for t in (last.end, last.duration))
        if promised > end + 1.5 * max(frame, 0.001):
            return f"ends after {end:.2f} of {promised:.2f} seconds"
    return ""


def _seconds(tag: str) -> float:
    """Of hours:minutes:seconds; 0 of anything else."""
    parts = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", tag.strip("\0 "))
    return sum(float(parts[i + 1]) * by for i, by in enumerate((3600, 60, 1))) if parts else 0.0


def _time(frame) -> float:
    return -math.inf if frame.pts is None else frame.pts


def _upright(video: VideoFile, frame, index: int, reformatter) -> np.ndarray:
    picture = reformatter.reformat(frame, format="rgb24").to_ndarray()
    if turns := round(frame.rotation / 90) % 4:
        picture = np.ascontiguousarray(np.rot90(picture, turns))
    if picture.shape[:2] != (video.height, video.width):
        raise VideoError(
            f"{video.path}: frame {index} is {picture.shape[1]} x {picture.shape[0]}, the first "
            f"is {video.width} x {video.height}"
        )
    return picture


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
