"""Check the structure of MP4 and AVI files before FFmpeg opens them."""

from __future__ import annotations

import dataclasses
import os
from typing import BinaryIO

from jaxvideo.types import VideoError

# MP4 boxes that may begin a file, and the boxes that contain its sample tables and edit lists.
_FIRST_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"sidx")
_NESTED_BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Size and structure of a video file.

    Attributes:
      size: bytes of the file.
      cut: which MP4 box or AVI chunk the end of the file truncates; empty if none.
      edited: True if an MP4 file has an edit list, so that not all its samples are shown.
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
    most, cut, edited, ranges = 0, "", False, [(0, size)]
    while ranges:
        start, end = ranges.pop()
        outermost = start == 0
        while start < end:
            file.seek(start)
            head = file.read(min(20, end - start))
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
                ranges.append((start + 8, min(start + length, end)))
            elif kind in (b"stsz", b"trun"):
                place = 16 if kind == b"stsz" else 12
                most = max(most, int.from_bytes(head[place : place + 4], "big"))
            edited |= kind == b"elst"
            start += max(length, 8)
    return most, cut, edited
