"""Check the structure of MP4 and AVI files before FFmpeg opens them."""

from __future__ import annotations

import dataclasses
import os
from typing import BinaryIO

from jaxvideo.types import VideoError

# MP4 boxes that may begin a file, and the boxes that contain its sample tables and edit lists.
_FIRST_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"sidx")
_NESTED_BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf")

# Bytes of a box that are read: its header, and an edit list with one entry.
_HEAD = 48


@dataclasses.dataclass(frozen=True)
class Layout:
    """Size and structure of a video file.

    Attributes:
      size: bytes of the file.
      cut: which MP4 box or AVI chunk the end of the file truncates; empty if none.
      edited: True if an edit list of an MP4 file hides samples.
    """

    size: int
    cut: str = ""
    edited: bool = False


def check_layout(path: str, file: BinaryIO) -> Layout:
    """Checks the sample counts of an MP4 file against its size.

    FFmpeg allocates its index from these counts alone (`stsz` and `trun` of ISO/IEC 14496-12), so
    four wrong bytes could allocate gigabytes. FFmpeg also does not report a truncated fragment.

    Raises:
      VideoError: the file is too small for the number of samples in its header.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(4) == b"RIFF":
        return Layout(size, _scan_riff(file, size))
    samples, cut, edited = _scan_boxes(file, size)
    check_count(path, samples, size)
    return Layout(size, cut, edited)


def check_count(path: str, frames: int, size: int, least: int = 1) -> None:
    """Checks that a file has at least `least` bytes per frame.

    Raises:
      VideoError: it does not.
    """
    if frames * least > size:
        raise VideoError(
            f"{path}: the header states {frames} frames, but the file has only {size} bytes"
        )


def _scan_riff(file: BinaryIO, size: int) -> str:
    """Returns the position of a truncated RIFF chunk; files above 1 GB have several."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF" or not length:  # 0: the recording was not finished
            return ""
        if start + 8 + length > size:
            return f"truncated after byte {start}"
        start += 8 + length + length % 2
    return ""


def _scan_boxes(file: BinaryIO, size: int) -> tuple[int, str, bool]:
    """Returns the largest sample count, the position of a truncated box, and `Layout.edited`.

    Returns (0, "", False) for files that are not MP4.
    """
    most, cut, movie = 0, "", 0
    # Range of boxes, and the position of the track that contains them.
    ranges: list[tuple[int, int, int]] = [(0, size, 0)]
    # By track: units per second and duration; start and duration of its only edit.
    media: dict[int, tuple[int, int]] = {}
    edits: dict[int, tuple[int, int] | None] = {}
    firsts: dict[int, int] = {}  # time of the first sample
    while ranges:
        start, end, track = ranges.pop()
        outermost = start == 0
        while start < end:
            file.seek(start)
            head = file.read(min(_HEAD, end - start))
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if start == 0 and kind not in _FIRST_BOXES:
                return 0, "", False
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            elif length == 0:
                length = end - start
            # A box that exceeds the file, or a fragment's header without its data.
            if outermost and (len(head) < 8 or start + length + (kind == b"moof") > end):
                cut = f"truncated after byte {start}"
            if kind in _NESTED_BOXES:
                own = start if kind == b"trak" else track
                ranges.append((start + 8, min(start + length, end), own))
            elif kind in (b"stsz", b"trun"):
                place = 16 if kind == b"stsz" else 12
                most = max(most, int.from_bytes(head[place : place + 4], "big"))
            elif kind == b"mvhd":
                movie, _ = _clock(head)
            elif kind == b"mdhd":
                media[track] = _clock(head)
            elif kind == b"ctts":
                firsts[track] = int.from_bytes(head[20:24], "big", signed=True)
            elif kind == b"elst":
                edits[track] = _only_edit(head)
            start += max(length, 8)
    edited = any(
        _hides(edit, movie, media.get(track), firsts.get(track, 0)) for track, edit in edits.items()
    )
    return most, cut, edited


def _clock(head: bytes) -> tuple[int, int]:
    """Returns units per second and duration of a box `mvhd` or `mdhd`."""
    place, width = (28, 8) if head[8:9] == b"\1" else (20, 4)
    units = int.from_bytes(head[place : place + 4], "big")
    return units, int.from_bytes(head[place + 4 : place + 4 + width], "big")


def _only_edit(head: bytes) -> tuple[int, int] | None:
    """Returns start (in units of the media) and duration (of the movie); None if several edits."""
    if int.from_bytes(head[12:16], "big") != 1:
        return None
    width = 8 if head[8:9] == b"\1" else 4
    duration, start = head[16 : 16 + width], head[16 + width : 16 + 2 * width]
    return int.from_bytes(start, "big", signed=True), int.from_bytes(duration, "big")


def _hides(
    edit: tuple[int, int] | None, movie: int, media: tuple[int, int] | None, first: int
) -> bool:
    """True if the edit begins after the first sample, or ends before the media.

    The end may differ by the rounding of its duration.
    """
    if edit is None or not media or not movie:
        return edit is None
    (start, length), (units, duration) = edit, media
    return start > first or duration - start - length * units / movie > 2 * units / movie
