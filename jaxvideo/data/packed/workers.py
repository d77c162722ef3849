"""Read and encode the videos of a data set in order, in this process or in worker processes."""

from __future__ import annotations

import collections
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cv2
import numpy as np

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.packed.record import Packing, pack_video, split_record
from jaxvideo.names import escape
from jaxvideo.types import DataError, VideoError

#: Row of a shard's table (name, labels, size, number of records, or the reason why the video cannot
#: be read), and the fields of its records, none if there is a reason.
Result = tuple[dict[str, Any], list[dict[str, Any]]]


def read_all(
    dataset: VideoDataset,
    indices: Sequence[int],
    packing: Packing,
    root: str | os.PathLike[str],
    workers: int,
) -> Generator[Result]:
    """Yields the results of `read_one` in the order of `indices`.

    Args:
      dataset, packing, root: see `read_one`.
      indices: the videos.
      workers: number of processes; 0 reads in this process.

    Raises:
      DataError: a worker process died.
    """
    if not workers:
        for index in indices:
            yield read_one(dataset, index, packing, root)
        return
    pending: collections.deque[Any] = collections.deque()
    with ProcessPoolExecutor(
        min(workers, len(indices)) or 1,
        # A forked copy of a process with threads can deadlock.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
        initargs=(dataset, packing, root),
    ) as pool:
        try:
            for place, index in enumerate(indices):
                pending.append((place, pool.submit(_read_in_worker, index)))
                if len(pending) > 4 * workers:
                    yield pending.popleft()[1].result()
            while pending:
                yield pending.popleft()[1].result()
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process died, possibly because of a video or of too little memory; run "
                "with --workers 0 to find the video"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def read_one(
    dataset: VideoDataset, index: int, packing: Packing, root: str | os.PathLike[str]
) -> Result:
    """Reads and encodes one video.

    Args:
      dataset: the data set.
      index: the video's index in it.
      packing: the settings.
      root: prefix that is removed from the video's path to get its name.
    """
    path, labels = dataset.paths[index], [int(label) for label in label_sets(dataset)[index]]
    row: dict[str, Any] = {"name": short_name(path, root), "labels": labels}
    try:
        with dataset.open(index) as video:
            records = split_record(pack_video(video, packing))
    except VideoError as error:
        return {**row, "reason": str(error)}, []
    row |= {"bytes": bytes_of(path), "records": len(records)}
    label = dataset.labels[index]
    rest = {"label": label, "labels": np.asarray(labels, np.int64)}
    # Text of TFDS is UTF-8. The names as they are follow in the metadata of the folder.
    names = {"class": escape(dataset.classes[label]), "name": escape(row["name"])}
    return row, [{**fields, **rest, **names} for fields in records]


def label_sets(dataset: VideoDataset) -> Sequence[Sequence[int]]:
    """Returns all class indices of each video, also if each has only one."""
    return dataset.label_sets or [(label,) for label in dataset.labels]


def short_name(path: str, root: str | os.PathLike[str]) -> str:
    """Returns a path relative to `root`, if it is below."""
    return path.removeprefix(os.path.join(root, "")) if root else path


def bytes_of(path: str) -> int:
    """Returns the size of a file or a folder of frames; 0 if the path is neither."""
    if os.path.isdir(path):
        return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())
    return os.path.getsize(path) if os.path.isfile(path) else 0


_worker: tuple[Any, ...] = ()  # (dataset, packing, root) of this worker process


def _begin_worker(*arguments: Any) -> None:
    global _worker
    _worker = arguments
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process stops its workers
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _read_in_worker(index: int) -> Result:
    dataset, packing, root = _worker
    return read_one(dataset, index, packing, root)
