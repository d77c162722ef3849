"""Read nothing twice: frame tables of data sets, and decoded frames for further epochs."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import mmap
import os
import shutil
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxvideo.data import tables
from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.engines import map_here
from jaxvideo.data.loading import Loading
from jaxvideo.data.memory import free_memory
from jaxvideo.data.stored import Form, Stored, form_of, open_stored, read_end, store, write_end
from jaxvideo.data.video import VideoFile, stamp_of
from jaxvideo.progress import LOG, replacing, track
from jaxvideo.startup import cache_directory
from jaxvideo.types import ConfigError, DataError, Preprocessing, VideoError

P = TypeVar("P")
T = TypeVar("T")

# Share of the free memory or disk that decoded frames may fill.
_FILLED = 0.9

# Maps of files begin at multiples of this many bytes.
_PAGE = mmap.ALLOCATIONGRANULARITY


# --- Frame tables -----------------------------------------------------------------------------


def indexed(dataset: VideoDataset, loading: Loading = Loading(index=True)) -> VideoDataset:
    """Returns the data set with frame tables that are kept on disk, see `tables`.

    Packed data sets are returned as they are. If the directory cannot be written, the log has one
    warning and the data set is returned as it is.
    """
    if dataset.kept or not loading.index or not _has_files(dataset) or not len(dataset):
        return dataset
    path = tables.file_of(dataset.paths)
    return dataclasses.replace(dataset, kept=str(path)) if tables.ready(path) else dataset


def build_index(dataset: VideoDataset, threads: int) -> int:
    """Opens every video once, so that all frame tables are on disk; shows the progress.

    Returns:
      The number of videos that cannot be opened.
    """
    dataset = indexed(dataset)

    def fails(index: int) -> bool:
        try:
            with dataset.open(index):
                return False
        except VideoError:
            return True

    failed = sum(track(_in_threads(fails, range(len(dataset)), threads), "videos", len(dataset)))
    if dataset.kept:
        tables.flush(dataset.kept)
    return failed


# --- Decoded frames ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CachedDataset(VideoDataset):
    """A data set whose decoded frames are stored.

    Attributes:
      base: reads the videos that are not stored, or have changed since.
      stored: the frames by video; None if they are not stored.
      memory: the file of frames in memory, which it keeps alive; None if they are on disk.
    """

    base: VideoDataset = dataclasses.field(repr=False, kw_only=True)
    stored: tuple[Stored | None, ...] = dataclasses.field(default=(), repr=False)
    memory: _Memory | None = dataclasses.field(default=None, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "memory": None}  # worker processes open it by its path

    @contextlib.contextmanager
    def open(self, index: int) -> Iterator[VideoFile]:
        """Opens the video of an index: its cached frames, or the video itself."""
        stored, path = self.stored[index], self.paths[index]
        with contextlib.ExitStack() as stack:
            file = None
            if stored and (stored.stamp is None or stored.stamp == stamp_of(path)):
                with contextlib.suppress(OSError):
                    file = stack.enter_context(open_stored(stored, path))
            yield file or stack.enter_context(self.base.open(index))


def cache_frames(
    datasets: Sequence[VideoDataset], preprocessing: Preprocessing, loading: Loading
) -> list[VideoDataset]:
    """Decodes all videos of data sets and stores their frames, as `loading.cache` states.

    A clip of a stored video has the same bytes as one that is decoded. Videos that are damaged or
    cannot be decoded from the first to the last frame are not stored, and read as before.

    "ram" stores frames in memory that worker processes share. It is freed when the process ends.
    "disk" stores a file per video in `startup.cache_directory() / "decoded"`, which later runs use.
    It is written again if the video's size or modification time changes.

    Args:
      datasets: data sets, in which a video may occur several times.
      preprocessing: determines if planes or RGB are stored.
      loading: cache, and the number of threads that decode.

    Returns:
      The data sets; as they are without `loading.cache`, or if they are cached already.

    Raises:
      ConfigError: the frames do not fit into 90 % of the free memory or disk; "ram" on a system
        other than Linux; "disk" with packed videos; or only stored flow is read.
      DataError: the disk cannot be written.
    """
    if not loading.cache or all(isinstance(dataset, CachedDataset) for dataset in datasets):
        return list(datasets)
    p, kind = preprocessing, loading.cache
    if p.flow == "stored" and p.modality == "flow":
        raise ConfigError(
            f"loading.cache={kind!r}: stored flow is not cached; set loading.cache=''"
        )
    if kind == "ram" and not hasattr(os, "memfd_create"):
        raise ConfigError("loading.cache='ram' needs Linux; set loading.cache='disk'")
    if kind == "disk" and not all(map(_has_files, datasets)):
        raise ConfigError("loading.cache='disk' needs video files; set 'ram' for packed videos")
    pixels = "rgb" if p.pixels == "rgb" or p.host_flow else "yuv"
    sources = [indexed(dataset, loading) for dataset in datasets]
    videos = [_Video(source, i, pixels) for source in sources for i in range(len(source))]
    threads = loading.threads * max(loading.workers, 1)
    stored, memory = (_in_memory if kind == "ram" else _on_disk)(videos, threads)
    if left := sum(one is None for one in stored):
        LOG.info(f"  {left:,} videos are not cached, because they are damaged or missing")
    parts = iter(stored)
    return [
        CachedDataset(
            **{field.name: getattr(source, field.name) for field in _FIELDS},
            base=source,
            stored=tuple(itertools.islice(parts, len(source))),
            memory=memory,
        )
        for source in sources
    ]


_FIELDS = dataclasses.fields(VideoDataset)


@dataclasses.dataclass(frozen=True, eq=False)
class _Memory:
    """A file in memory. The system frees it with the last process that uses it, even if killed."""

    descriptor: int


@dataclasses.dataclass(frozen=True)
class _Video:
    """A video to store, as planes ("yuv") or as RGB."""

    dataset: VideoDataset
    index: int
    pixels: str

    def stamp(self) -> tables.Stamp | None:
        return stamp_of(self.dataset.paths[self.index]) if _has_files(self.dataset) else None

    def form(self) -> Form | None:
        """Returns how its frames are stored; None if it cannot be opened."""
        with contextlib.suppress(VideoError), self.dataset.open(self.index) as file:
            return form_of(file, self.pixels)
        return None

    def store(self, form: Form, path: str, offset: int) -> Stored:
        """Writes its frames to an existing file.

        Raises:
          VideoError: it cannot be decoded.
        """
        stamp = self.stamp()
        with self.dataset.open(self.index) as file, open(path, "r+b") as out:
            out.seek(offset)
            return store(file, form, path, offset, stamp, out.write)

    def place(self) -> Path:
        """Returns the file of its frames on disk."""
        path = os.path.abspath(self.dataset.paths[self.index])
        name = hashlib.blake2b(os.fsencode(path), digest_size=16).hexdigest()
        return _directory() / f"{name}.{self.pixels}"


def _in_memory(videos: Sequence[_Video], threads: int) -> tuple[list[Stored | None], _Memory]:
    """Stores frames in a file in memory; returns them and the file."""

    def look(video: _Video) -> tuple[Form | None, None]:
        return video.form(), None

    free, what = free_memory() or (2**63, "memory of this machine is unknown")
    plans = _survey(videos, look, threads, "ram", free, what)
    sizes = [-(-form.size // _PAGE) * _PAGE if form else 0 for form, _ in plans]
    offsets = itertools.accumulate(sizes, initial=0)
    memory = _Memory(os.memfd_create("jaxvideo"))
    weakref.finalize(memory, os.close, memory.descriptor)
    os.truncate(memory.descriptor, sum(sizes))
    path = f"/proc/{os.getpid()}/fd/{memory.descriptor}"

    def fill(job: tuple[_Video, tuple[Form | None, None], int]) -> Stored | None:
        video, (form, _), offset = job
        with contextlib.suppress(VideoError):
            return video.store(form, path, offset) if form else None
        return None

    jobs = list(zip(videos, plans, offsets, strict=False))  # one more offset: the end
    return _decoded(fill, jobs, threads, path), memory


def _on_disk(videos: Sequence[_Video], threads: int) -> tuple[list[Stored | None], None]:
    """Stores the frames of each video in a file, or finds them there."""

    def look(video: _Video) -> tuple[Form | None, Stored | None]:
        form, stamp = video.form(), video.stamp()
        return form, read_end(os.fspath(video.place()), form, stamp) if form and stamp else None

    def fill(job: tuple[_Video, tuple[Form | None, Stored | None]]) -> Stored | None:
        video, (form, known) = job
        if known or not form:
            return known
        place = video.place()
        with contextlib.suppress(VideoError), replacing(place) as temporary:
            stored = video.store(form, os.fspath(temporary), 0)
            stored = dataclasses.replace(stored, path=os.fspath(place))
            with open(temporary, "ab") as file:
                write_end(file, stored)
            return stored
        return None

    directory = _directory()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(directory).free
    except OSError as error:
        raise _unwritable(directory, error) from error
    plans = _survey(videos, look, threads, "disk", free, f"disk of {directory}")
    return _decoded(fill, list(zip(videos, plans, strict=True)), threads, directory), None


def _survey(
    videos: Sequence[_Video],
    look: Callable[[_Video], tuple[Form | None, P]],
    threads: int,
    kind: str,
    free: int,
    what: str,
) -> list[tuple[Form | None, P]]:
    """Returns the form of every video, and what is stored of it already; logs the size.

    Raises:
      ConfigError: the frames do not fit; raised as soon as this is known.
    """
    plans, frames, needed, there = [], 0, 0, 0
    for form, known in track(_in_threads(look, videos, threads), "frame tables", len(videos)):
        plans.append((form, known))
        if form:
            frames += form.frames
            there += form.size if known else 0
            needed += 0 if known else form.size
        if needed > _FILLED * free:
            share = len(plans) / len(videos)
            about = "" if share == 1 else f"about (by {len(plans):,} of them) "
            other = " loading.cache='disk'," if kind == "ram" else ""
            raise ConfigError(
                f"loading.cache={kind!r} needs {about}{_size(needed / share)} for the "
                f"{frames / share:,.0f} frames of {len(videos):,} videos at their own size, but "
                f"{_size(free)} are free ({what}), of which 90 % may be filled. Set{other} "
                "loading.cache='', or pack the videos at a smaller size (`jaxvideo pack`) and "
                "cache these in memory"
            )
    LOG.info(
        f"loading.cache={kind!r}: {_size(needed + there)} for {frames:,} frames of "
        f"{len(videos):,} videos" + f", {_size(there)} of it are stored already" * bool(there)
        + f"; {_size(free)} are free ({what})"
    )  # fmt: skip
    return plans


def _decoded(
    fill: Callable[[P], Stored | None], jobs: Sequence[P], threads: int, place: str | Path
) -> list[Stored | None]:
    try:
        return list(track(_in_threads(fill, jobs, threads), "decoded videos", len(jobs)))
    except OSError as error:
        raise _unwritable(place, error) from error


def _unwritable(place: str | Path, error: OSError) -> DataError:
    return DataError(
        f"loading.cache: {place} cannot be written ({error.strerror or error}). Set JAXVIDEO_CACHE "
        "to a writable directory, or loading.cache=''"
    )


def _directory() -> Path:
    return cache_directory() / "decoded"


def _has_files(dataset: VideoDataset) -> bool:
    """True if the paths of a data set are files, not names of packed videos."""
    return type(dataset).open is VideoDataset.open


def _in_threads(work: Callable[[P], T], items: Iterable[P], threads: int) -> Iterator[T]:
    return (found for _, found in map_here(work, items, threads, threads=True, ordered=True))


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
