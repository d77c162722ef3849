"""Keep frame tables on disk, so that a video is opened without reading all its packets.

A data set has one file of tables in `startup.cache_directory() / "frames"`. Each table is valid for
one path, size and modification time, and for the versions of PyAV and FFmpeg that the file's name
contains. Processes and hosts share the file without locks: a writer reads it, adds its tables and
replaces it atomically. A table that two simultaneous writers lose is written again later.

A cache never stops a run: a file that is damaged counts as empty, and one that cannot be written is
one warning.
"""

from __future__ import annotations

import atexit
import dataclasses
import hashlib
import io
import json
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np

from jaxvideo.data.probe import FrameTable
from jaxvideo.progress import LOG, write_file
from jaxvideo.startup import cache_directory

# Version of the file's format, and of what a frame table means: increment it if `probe` changes.
_FORMAT = 1

# Seconds between two writes: at least this, and so many times the duration of a write.
_INTERVAL, _SHARE = 2.0, 50

#: Size in bytes and modification time in nanoseconds.
Stamp = tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class _Content:
    """What a file of tables contains.

    Attributes:
      version: inode, size and modification time of the file; None if it was not read.
      keys: keys of the videos, uint64, ascending.
      starts, ends: first byte of each table in `data`, and the byte after it.
      data: the tables, compressed.
    """

    version: tuple[int, int, int] | None
    keys: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    data: bytes

    def record(self, key: int) -> bytes:
        """Returns the table of a video; empty if there is none."""
        place = int(np.searchsorted(self.keys, np.uint64(key)))
        if place == len(self.keys) or int(self.keys[place]) != key:
            return b""
        return self.data[self.starts[place] : self.ends[place]]


@dataclasses.dataclass
class _Tables:
    """A file of tables as this process knows it.

    Attributes:
      path: the file.
      lock: protects the other fields.
      content: what was last read.
      added: tables of this process by key, until they are read back from the file.
      due: time of the next write.
      writable: False after a write has failed.
    """

    path: Path
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    content: _Content = dataclasses.field(default_factory=lambda: _parse(None, b""))
    added: dict[int, bytes] = dataclasses.field(default_factory=dict)
    due: float = 0.0
    writable: bool = True


_KNOWN: dict[str, _Tables] = {}
_KNOWN_LOCK = threading.Lock()


def file_of(paths: Iterable[str]) -> Path:
    """Returns the file of tables for a list of videos: one for each common folder.

    The name contains the versions on which tables depend.
    """
    folders = {os.path.dirname(os.path.abspath(path)) for path in paths}
    root = os.path.commonpath(folders) if folders else ""
    versions = [_FORMAT, av.__version__.split(".")[0]]
    versions += [av.library_versions[name][0] for name in ("libavformat", "libavcodec")]
    name = f"{_digest(os.fsencode(root)).hex()}-{'.'.join(map(str, versions))}"
    return cache_directory() / "frames" / name


def ready(path: Path) -> bool:
    """Creates the folder of a file of tables; False, with one warning, if that is impossible.

    A folder that is read-only is used if it contains the file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() and not os.access(path.parent, os.W_OK):
            raise PermissionError(None, "Permission denied")
    except OSError as error:
        _warn(path.parent, error)
        return False
    return True


def find(tables: str, path: str, stamp: Stamp) -> FrameTable | None:
    """Returns the table of a video; None if there is none for its size and modification time.

    Args:
      tables: the file of tables, see `file_of`.
      path: the video.
      stamp: size and modification time of the video now.
    """
    known, key = _open(tables), _key(path)
    with known.lock:
        table = _table(known, key, stamp)
        if table is None and _read(known):
            table = _table(known, key, stamp)
        _write_if_due(known)
    return table


def keep(tables: str, path: str, stamp: Stamp, table: FrameTable) -> None:
    """Adds the table of a video; it is written to the file after some seconds.

    The table of a damaged video is not kept, because its frames could depend on that, see
    `FrameTable.damaged`.

    Args:
      tables, path: see `find`.
      stamp: size and modification time before the table was read.
      table: the table.
    """
    if table.damaged:
        return
    known = _open(tables)
    with known.lock:
        if not known.added:
            known.due = max(known.due, time.monotonic() + _INTERVAL)
        known.added[_key(path)] = encode(table, stamp)
        _write_if_due(known)


def flush(tables: str) -> None:
    """Writes the tables that were added and are not in the file yet."""
    known = _open(tables)
    with known.lock:
        _write(known)


@atexit.register
def _flush_all() -> None:
    for tables in list(_KNOWN):
        if os.path.isdir(os.path.dirname(tables)):
            flush(tables)


# --- One table --------------------------------------------------------------------------------


def encode(table: FrameTable, stamp: Stamp) -> bytes:
    """Returns a frame table as compressed bytes, some hundred for a video of ten seconds."""
    fields = {field.name: getattr(table, field.name) for field in dataclasses.fields(FrameTable)}
    arrays = [np.diff(fields.pop(name), prepend=0).astype("<i8") for name in ("pts", "keyframes")]
    times = fields.pop("times").astype("<f8")
    if not table.unit:
        arrays.append(times)
    fields["cut"] = sorted(table.cut, key=repr)
    head = json.dumps([stamp, len(arrays[0]), fields]).encode()
    return zlib.compress(b"".join([struct.pack("<I", len(head)), head, *arrays]))


def decode(record: bytes, stamp: Stamp | None = None) -> FrameTable | None:
    """Returns the frame table of `encode`; None if it was encoded with another stamp.

    Raises:
      ValueError, KeyError, TypeError, zlib.error, struct.error: the bytes are damaged.
    """
    data = zlib.decompress(record)
    (length,) = struct.unpack_from("<I", data)
    own, count, fields = json.loads(data[4 : 4 + length])
    if stamp is not None and tuple(own) != stamp:
        return None
    values = np.frombuffer(data, "<i8", offset=4 + length)
    unit = fields["unit"]
    pts = np.cumsum(values[:count])
    keyframes = np.cumsum(values[count : None if unit else -count])
    times = (pts - pts[0]) * unit if unit else values[-count:].view("<f8")
    fields["cut"] = frozenset(map(tuple, fields["cut"]))
    fields["remarks"] = tuple(fields["remarks"])
    return FrameTable(pts=pts, keyframes=keyframes, times=times, **fields)


# --- The file ---------------------------------------------------------------------------------
#
# Two arrays in NumPy's format, uint64 `keys` and int64 `lengths`, and the tables one after the
# other. It is read as a whole: a memory map of a file that another host replaces is not safe on
# network disks.


def _open(tables: str) -> _Tables:
    known = _KNOWN.get(tables)
    if known is None:
        with _KNOWN_LOCK:
            known = _KNOWN.setdefault(tables, _Tables(Path(tables)))
    return known


def _table(known: _Tables, key: int, stamp: Stamp) -> FrameTable | None:
    record = known.added.get(key) or known.content.record(key)
    try:
        return decode(record, stamp) if record else None
    except (ValueError, KeyError, IndexError, TypeError, zlib.error, struct.error):
        return None  # damaged


def _read(known: _Tables) -> bool:
    """Reads the file if it has changed; returns True if it has."""
    try:
        status = os.stat(known.path)
        version = status.st_ino, status.st_size, status.st_mtime_ns
        if version == known.content.version:
            return False
        known.content = _parse(version, known.path.read_bytes())
    except OSError:
        return False
    for key, record in list(known.added.items()):
        if known.content.record(key) == record:
            del known.added[key]
    return True


def _parse(version: tuple[int, int, int] | None, data: bytes) -> _Content:
    """Returns the content of a file; nothing if it is damaged."""
    file = io.BytesIO(data)
    try:
        keys, lengths = (np.load(file, allow_pickle=False) for _ in range(2))
        data = data[file.tell() :]
        if keys.shape != lengths.shape or lengths.sum() != len(data) or (lengths < 0).any():
            raise ValueError("damaged")
    except (ValueError, EOFError):
        keys, lengths, data = np.zeros(0, np.uint64), np.zeros(0, np.int64), b""
    order, ends = np.argsort(keys), np.cumsum(lengths)
    return _Content(version, keys[order], (ends - lengths)[order], ends[order], data)


def _write_if_due(known: _Tables) -> None:
    if known.added and known.writable and time.monotonic() > known.due:
        _write(known)


def _write(known: _Tables) -> None:
    """Adds this process's tables to the file, which others may have changed meanwhile."""
    if not known.writable:
        return
    started = time.monotonic()
    _read(known)
    if not known.added:
        return
    added = np.fromiter(known.added, np.uint64, len(known.added))
    old = known.content
    left = ~np.isin(old.keys, added)
    starts, ends = old.starts[left], old.ends[left]
    lengths = [*(ends - starts), *map(len, known.added.values())]
    file = io.BytesIO()
    np.save(file, np.concatenate([old.keys[left], added]))
    np.save(file, np.asarray(lengths, np.int64))
    file.writelines(old.data[a:b] for a, b in zip(starts, ends, strict=True))
    file.writelines(known.added.values())
    try:
        write_file(known.path, file.getvalue())
    except OSError as error:
        known.writable = False
        _warn(known.path.parent, error)
    now = time.monotonic()
    known.due = now + max(_INTERVAL, _SHARE * (now - started))


def _warn(folder: Path, error: OSError) -> None:
    LOG.warning(
        f"frame tables are not kept: {folder} cannot be written ({error.strerror or error}). Set "
        "JAXVIDEO_CACHE to a writable directory, or loading.index=false"
    )


def _key(path: str) -> int:
    return int.from_bytes(_digest(os.fsencode(os.path.abspath(path))), "little")


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()
