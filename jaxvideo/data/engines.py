"""Map a function over many items: on this machine, or on the workers of Apache Beam."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import cv2

from jaxvideo.names import did_you_mean
from jaxvideo.types import DataError, UsageError

Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclasses.dataclass(frozen=True)
class Engine:
    """Where a function is computed.

    Attributes:
      name: a row of `ENGINES`. "processes" (default): this machine. "beam": Apache Beam.
      workers: number of processes (or threads) of this machine; 0 (default): none besides this
        process. Beam's number of workers is one of its options.
      options: pipeline options of Beam, such as "--runner=FlinkRunner".
    """

    name: str = "processes"
    workers: int = 0
    options: tuple[str, ...] = ()

    def __post_init__(self):
        if self.name not in ENGINES:
            raise UsageError(
                f"engine={self.name!r}: allowed are {', '.join(ENGINES)}."
                f"{did_you_mean(self.name, ENGINES)}"
            )
        if self.workers < 0:
            raise UsageError(f"workers={self.workers}: must be at least 0")
        if self.name == "beam":
            from jaxvideo.data.beam import check_options

            check_options(self.options)
        elif self.options:
            raise UsageError(f"pipeline options {' '.join(self.options)} need the engine beam")


def map_here(
    function: Callable[[Item], Found],
    items: Iterable[Item],
    workers: int,
    *,
    threads: bool = False,
    ordered: bool = False,
) -> Generator[tuple[int, Found]]:
    """Yields `(index, function(item))`, computed by processes or threads of this machine.

    At most `4 * workers + 1` items are submitted at a time, which bounds the memory of results.

    Args:
      function, items, threads: see `map_items`.
      workers: number of processes or threads; 0: compute in this thread.
      ordered: yield in the order of the items instead of that of completion.

    Raises:
      DataError: a worker process died.
    """
    if not workers:
        for index, item in enumerate(items):
            yield index, function(item)
        return
    upcoming = enumerate(items)
    pending: dict[Future, int] = {}
    with _pool(function, workers, threads) as pool:
        call = function if threads else _call
        try:
            while True:
                room = 4 * workers + 1 - len(pending)
                for index, item in itertools.islice(upcoming, room):
                    pending[pool.submit(call, item)] = index
                if not pending:
                    return
                first = next(iter(pending))
                done = [first] if ordered else wait_for(pending, return_when=FIRST_COMPLETED).done
                for future in done:
                    yield pending.pop(future), future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process died, possibly because of a video or of too little memory; run "
                "with --workers 0 to find the video"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _on_this_machine(function, items, engine: Engine, *, threads: bool, **_: Any):
    return map_here(function, items, engine.workers, threads=threads)


def _on_beam(function, items, engine: Engine, *, folder, block: int, **_: Any):
    from jaxvideo.data.beam import map_blocks

    return map_blocks(function, items, engine.options, folder=Path(folder), block=block)


#: Engines by name: functions with the arguments of `map_items`.
ENGINES: dict[str, Callable[..., Generator[tuple[int, Any]]]] = {
    "processes": _on_this_machine,
    "beam": _on_beam,
}


def map_items(
    function: Callable[[Item], Found],
    items: Sequence[Item],
    engine: Engine = Engine(),
    *,
    folder: str | os.PathLike[str] | None = None,
    block: int = 1,
    threads: bool = False,
) -> Generator[tuple[int, Found]]:
    """Yields `(index, function(items[index]))` in the order of completion.

    Args:
      function: is pickled for another process, hence a function of a module, a partial of one, or
        an instance of a class with `__call__`. On Beam an item may be computed twice, so that files
        must be written atomically.
      items: values that can be pickled.
      engine: where to compute.
      folder: existing directory for temporary files that all workers of Beam read and write. Not
        used on this machine.
      block: number of items that a worker of Beam computes at a time.
      threads: on this machine, use threads instead of processes.

    Raises:
      JaxvideoError: the function raised it for an item; the others are then stopped.
      DataError: a worker process died, or the pipeline failed.

    Example:
      >>> sorted(map_items(abs, [-1, 2], Engine()))
      [(0, 1), (1, 2)]
    """
    yield from ENGINES[engine.name](
        function, items, engine, folder=folder, block=block, threads=threads
    )


def _pool(function, workers: int, threads: bool) -> ProcessPoolExecutor | ThreadPoolExecutor:
    if threads:
        return ThreadPoolExecutor(workers)
    # A forked copy of a process with threads can deadlock.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_begin_worker, initargs=(function,))


_function: list[Callable[[Any], Any]] = []  # the function of this worker process


def _begin_worker(function: Callable[[Any], Any]) -> None:
    _function[:] = [function]
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process stops its workers
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(item: Any) -> Any:
    return _function[0](item)
