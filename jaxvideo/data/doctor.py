"""Check videos before training by decoding every frame once.

A video is *broken* if some clip of it cannot be read, so that training would skip it sometimes. It
is *suspicious* if all frames can be read, but the file states more than it contains or its times
are implausible. Otherwise it is *ok*. Broken videos are written to a quarantine file, and training
leaves them out. Properties that are unusual but no fault, such as edit lists, are remarks.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvideo.data.datasets.folders import group_of
from jaxvideo.data.decode import decode_frames, raw_frames
from jaxvideo.data.engines import Engine, map_items
from jaxvideo.data.video import VideoFile, frames_in, open_video, stamp_of
from jaxvideo.names import escape, one_line
from jaxvideo.progress import write_file
from jaxvideo.types import DataError, VideoError

OK, SUSPICIOUS, BROKEN = STATUSES = ("ok", "suspicious", "broken")

# A gap of this many seconds between two frames is implausible even for a screen recording.
_GAP = 10.0

# Videos that a worker of Beam checks at a time: a result is a file, and no more is lost at a stop.
_BEAM_BLOCK = 16

# Bytes per read of a file.
_BLOCK = 2**20

# Marks the lines of the quarantine file that this module wrote; other lines are kept.
_SIGNED = "doctor: "


@dataclasses.dataclass(frozen=True)
class Record:
    """The result of checking one video.

    Attributes:
      path: the file, or the folder of frames.
      status: one of `STATUSES`.
      reason: the problems found, if the status is not "ok".
      frames: number of decoded frames.
      corrupt: number of frames decoded from corrupt data.
      packets: number of frames in the frame table, `VideoFile.num_frames`.
      corrupt_packets: see `probe.FrameTable`.
      fps: average frame rate; 0 if unknown.
      variable: True if the distance of frames varies.
      duration: seconds from the first frame to the end of the last.
      rotation: rotation of the frames in degrees.
      height, width: size of the upright frame.
      codec, pixel_format: FFmpeg's names; codec "images" for a folder of frames.
      gop: largest distance of key frames, a bound of the frames decoded before a clip starts.
      pixel_aspect: width of a pixel divided by its height.
      remarks: unusual properties, see `probe.FrameTable`, separated by "; ".
      size: size in bytes.
      modified: modification time in nanoseconds.
      digest: BLAKE2b of the file's bytes.
    """

    path: str
    status: str
    reason: str = ""
    frames: int = 0
    corrupt: int = 0
    packets: int = 0
    corrupt_packets: int = 0
    fps: float = 0.0
    variable: bool = False
    duration: float = 0.0
    rotation: int = 0
    height: int = 0
    width: int = 0
    codec: str = ""
    pixel_format: str = ""
    gop: int = 0
    pixel_aspect: float = 1.0
    remarks: str = ""
    size: int = 0
    modified: int = 0
    digest: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """What concerns several videos or the annotations.

    Attributes:
      copies: see `duplicates`.
      leaks: see `leaks`.
      recordings: see `recordings`.
      wrong_counts: see `wrong_counts`.
      remarks: see `remark_counts`.
    """

    copies: Sequence[Sequence[str]] = ()
    leaks: Sequence[Sequence[tuple[str, str]]] = ()
    recordings: Sequence[tuple[str, Mapping[str, int]]] = ()
    wrong_counts: Sequence[tuple[str, int, int]] = ()
    remarks: Sequence[tuple[str, int, str]] = ()


def examine(path: str | os.PathLike[str]) -> Record:
    """Decodes a video from first to last frame. A broken video is a record, not an error."""
    path = os.fspath(path)
    known: dict[str, Any] = {}
    try:
        if stamp := stamp_of(path):
            known.update(zip(("size", "modified"), stamp, strict=True))
        known["digest"] = _digest(path)
        with open_video(path) as video:
            return dataclasses.replace(_examine(video), **known)
    except VideoError as error:
        reason = str(error).removeprefix(f"{one_line(path)}: ")
    except Exception as error:  # a damaged file can raise anything in PyAV and OpenCV
        reason = f"{type(error).__name__}: {error}"
    return Record(path, BROKEN, reason, **known)


def scan(
    paths: Sequence[str],
    engine: Engine = Engine(),
    *,
    folder: str | os.PathLike[str] | None = None,
    known: Mapping[str, Record] | None = None,
    progress: Callable[[Sequence[str]], Iterable[str]] = iter,
    done: Callable[[Record], None] | None = None,
) -> list[Record]:
    """Checks videos and returns their records in order.

    Args:
      paths: the videos.
      engine: where to decode, by default in this thread. Its workers on this machine are threads,
        since FFmpeg releases the GIL.
      folder: see `engines.map_items`; required by Beam.
      known: records of an earlier scan by path. A record is reused if size and modification time
        have not changed.
      progress: wraps the paths, for example in a progress bar.
      done: called with each record, in the order of completion.

    Example:
      scan(find_videos(["data/videos"]), Engine(workers=8))
    """
    records: dict[int, Record] = {}
    watched = iter(progress(paths))

    def keep(place: int, record: Record) -> None:
        next(watched)
        records[place] = record
        if done:
            done(record)

    for place, path in enumerate(paths):
        old = (known or {}).get(path)
        if old and stamp_of(path) == (old.size, old.modified):
            keep(place, old)
    todo = [place for place in range(len(paths)) if place not in records]
    checked = map_items(
        examine,
        [paths[place] for place in todo],
        engine,
        folder=folder,
        block=_BEAM_BLOCK,
        threads=True,
    )
    with contextlib.closing(checked) as results:
        for number, record in results:
            keep(todo[number], record)
    for _ in watched:  # lets `progress` finish
        pass
    return [records[place] for place in range(len(paths))]


def _examine(video: VideoFile) -> Record:
    problems, doubts = [], []
    if video.stream is None:
        frames, reasons = _count_images(video)
        corrupt, other, missing, codec, pixels = 0, 0, 0, "images", ""
    else:
        reasons: list[str] = []
        frames, corrupt, other, missing = _count_frames(video, reasons)
        codec, pixels = video.stream.codec_context.name, video.stream.codec_context.pix_fmt or ""
        if frames > video.num_frames:
            doubts.append(f"{frames} frames, but its packets state {video.num_frames}")
    if reasons:
        problems.append(f"{len(reasons)} frames cannot be decoded ({reasons[0]})")
    elif missing:
        problems.append(f"{missing} of {video.num_frames} frames are not decoded")
    if corrupt:
        problems.append(f"{corrupt} of {frames} frames are corrupt")
    if other:
        problems.append(f"{other} of {frames} frames differ in size from the first")
    if video.damage:
        doubts.append(video.damage)
    elif video.corrupt_packets:
        doubts.append(f"{video.corrupt_packets} packets are marked as corrupt")
    steps = np.diff(video.times)
    usual = float(np.median(steps)) if len(steps) else 0.0
    if len(steps) and steps.max() > _GAP and not video.images:
        doubts.append(f"no frame for {steps.max():.1f} seconds")
    last = usual or (1 / video.fps if video.fps else 0.0)
    return Record(
        path=video.path,
        status=BROKEN if problems else SUSPICIOUS if doubts else OK,
        reason="; ".join(problems + doubts),
        frames=frames,
        corrupt=corrupt,
        packets=video.num_frames,
        corrupt_packets=video.corrupt_packets,
        fps=round(video.fps, 4),
        # Tolerance for rounded times, in Matroska milliseconds.
        variable=len(steps) > 1 and bool(np.ptp(steps) > 0.1 * usual + 0.001),
        duration=0.0 if video.images else round(float(video.times[-1]) + last, 4),
        rotation=video.rotation,
        height=video.height,
        width=video.width,
        codec=codec,
        pixel_format=pixels,
        gop=int(np.diff([0, *video.keyframes, video.num_frames]).max()),
        pixel_aspect=round(video.pixel_aspect, 4),
        remarks="; ".join(video.remarks),
    )


def _count_frames(video: VideoFile, reasons: list[str]) -> tuple[int, int, int, int]:
    """Decodes a video and counts its frames.

    Returns:
      (all frames, corrupt ones, ones of another size, frames of the table that are not decoded).
    """
    frames = corrupt = other = 0
    times, latest = set(), -math.inf
    for frame in raw_frames(video, failed=reasons.append):
        frames += 1
        # A frame after one with a later time would not be found by its time.
        if frame.pts is not None and frame.pts > latest:
            times.add(latest := frame.pts)
        corrupt += frame.is_corrupt
        size = (frame.height, frame.width)
        turned = round(frame.rotation / 90) % 2
        other += (size[::-1] if turned else size) != (video.height, video.width)
    if video.seekable:
        return frames, corrupt, other, len(set(video.pts.tolist()) - times)
    return frames, corrupt, other, max(video.num_frames - frames, 0)


def _count_images(video: VideoFile) -> tuple[int, list[str]]:
    whole, reasons = 0, []
    for index in range(video.num_frames):
        try:
            whole += len(list(decode_frames(video, [index])))
        except VideoError as error:
            reasons.append(str(error))
    return whole, reasons


# --- Files --------------------------------------------------------------------------------


def _digest(path: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in frames_in(path) if os.path.isdir(path) else [path]:
        with open(part, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


# --- Several videos -----------------------------------------------------------------------


def duplicates(records: Sequence[Record]) -> list[list[str]]:
    """Returns groups of paths with identical files, except empty ones."""
    groups = collections.defaultdict(dict)
    for record in records:
        if record.size and record.digest:
            groups[record.digest][record.path] = None
    return [list(paths) for paths in groups.values() if len(paths) > 1]


def leaks(
    records: Sequence[Record], splits: Mapping[str, Sequence[str]]
) -> list[list[tuple[str, str]]]:
    """Returns groups of (split, path) with the same video or identical files in several splits."""
    digests = {record.path: record.digest for record in records if record.size}
    groups = collections.defaultdict(dict)
    for split, paths in splits.items():
        for path in paths:
            groups[digests.get(path) or path][split, path] = None
    return [list(group) for group in groups.values() if len({split for split, _ in group}) > 1]


def recordings(splits: Mapping[str, Sequence[str]]) -> list[tuple[str, dict[str, int]]]:
    """Returns recordings with clips in several splits, by the names of the files.

    Args:
      splits: paths of each split.

    Returns:
      (name of the recording, number of its clips by split), see `folders.group_of`.
    """
    counts: dict[str, collections.Counter[str]] = {}
    for split, paths in splits.items():
        for path in paths:
            if group := group_of(path):
                counts.setdefault(group, collections.Counter())[split] += 1
    return [(group, dict(own)) for group, own in sorted(counts.items()) if len(own) > 1]


def wrong_counts(
    records: Sequence[Record], declared: Mapping[str, int]
) -> list[tuple[str, int, int]]:
    """Returns (path, declared frames, found frames) of videos where these differ.

    Args:
      records: the videos.
      declared: number of frames in the annotations by path; 0 if unknown.
    """
    found = [(record.path, declared.get(record.path, 0), record.frames) for record in records]
    return [row for row in found if row[1] not in (0, row[2])]


def remark_counts(records: Sequence[Record]) -> list[tuple[str, int, str]]:
    """Returns (remark, number of videos, one of them); remarks that differ in numbers are one."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for record in records:
        if record.remarks:
            kind = re.sub(r"\d+", "#", record.remarks)
            kinds.setdefault(kind, []).append((record.remarks, record.path))
    rows = [(found[0][0], len(found), found[0][1]) for found in kinds.values()]
    return sorted(rows, key=lambda row: -row[1])


def write_index(path: str | os.PathLike[str], records: Iterable[Record], root: str) -> None:
    """Writes one JSON object per line and video; paths below `root` are relative to it.

    Raises:
      DataError: the file cannot be written.
    """
    _write(Path(path), "".join(index_line(record, root) for record in records))


def index_line(record: Record, root: str) -> str:
    """Returns the line of a record in the index, with the line end."""
    fields = {**dataclasses.asdict(record), "path": short_path(record.path, root)}
    return json.dumps(fields) + "\n"


def read_index(path: str | os.PathLike[str], root: str) -> dict[str, Record]:
    """Reads the records of an index by path; an empty dict if the file does not exist.

    Truncated lines and lines of other versions are left out, so their videos are checked again.

    Raises:
      DataError: the file cannot be read.
    """
    records = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return records
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as an index ({error})") from error
    names = {field.name for field in dataclasses.fields(Record)}
    for line in lines:
        with contextlib.suppress(ValueError):
            fields = json.loads(line)
            if isinstance(fields, dict) and fields.keys() == names:
                record = Record(**{**fields, "path": os.path.join(root, fields["path"])})
                records[record.path] = record
    return records


def write_quarantine(path: str | os.PathLike[str], records: Iterable[Record], root: str) -> int:
    """Writes the broken videos to a quarantine file of lines `path<TAB>reason`.

    Paths are escaped as `jaxvideo.names.escape` does. Lines that this function did not write are
    kept.

    Args:
      path: the quarantine file.
      records: records of all videos.
      root: folder that the paths in the file are relative to.

    Returns:
      The number of broken videos.

    Raises:
      DataError: the file cannot be written.
    """
    path = Path(path)
    kept = []
    if path.exists():
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        kept = [line for line in text.splitlines() if f"\t{_SIGNED}" not in line]
    broken = [record for record in records if record.status == BROKEN]
    own = []
    for record in broken:
        reason = one_line(" ".join(record.reason.split()))
        own.append(f"{escape(short_path(record.path, root))}\t{_SIGNED}{reason}")
    if own or path.exists():
        _write(path, "".join(f"{line}\n" for line in kept + own))
    return len(broken)


def short_path(path: str, root: str) -> str:
    """Returns a path relative to `root`, if it is below; otherwise absolute."""
    path, root = os.path.abspath(path), os.path.abspath(root)
    return os.path.relpath(path, root) if path.startswith(os.path.join(root, "")) else path


def _write(path: Path, text: str) -> None:
    """Writes a file atomically."""
    try:
        write_file(path, text)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror})") from error
