"""Options of commands that use several processes or machines."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from jaxvideo import startup
from jaxvideo.progress import drop_output
from jaxvideo.types import UsageError

if TYPE_CHECKING:
    from jaxvideo.data.engines import Engine
    from jaxvideo.data.pipeline import Share


def add_engine(command: argparse.ArgumentParser) -> None:
    """Adds the options of `chosen_engine`."""
    group = command.add_argument_group("engine", "see docs/clusters.md")
    group.add_argument(
        "--engine",
        default="processes",
        metavar="NAME",
        help="processes (of this machine) or beam (workers of Apache Beam, which see the videos "
        "and outputs under the same paths; extra [beam]) (default: processes)",
    )
    group.add_argument(
        "--beam-options",
        metavar="OPTIONS",
        help="pipeline options of Beam in one argument, with an equals sign: "
        '--beam-options="--runner=FlinkRunner --flink_master=HOST:8081" (default: the local '
        "runner)",
    )


def chosen_engine(
    options: argparse.Namespace,
    paths: Iterable[str | None],
    workers: str,
    default: int,
    least: int = 0,
) -> Engine:
    """Returns the engine that the options name.

    Args:
      options: parsed options of `add_engine`.
      paths: directories and files of the command line; None is ignored.
      workers: name of the option with the number of workers on this machine.
      default: its default.
      least: its smallest value.

    Raises:
      UsageError: options that exclude each other, or a relative path, which would name another
        file on a worker.
    """
    from jaxvideo.data.engines import Engine

    number = getattr(options, workers)
    if number is not None and number < least:
        raise UsageError(f"--{workers}={number}: must be at least {least}")
    beam = tuple(shlex.split(options.beam_options or ""))
    if options.beam_options is not None and options.engine != "beam":
        raise UsageError("--beam-options needs --engine beam")
    if options.engine != "beam":
        return Engine(options.engine, default if number is None else number)
    if number is not None:
        raise UsageError(
            f"--{workers} and --engine beam are mutually exclusive; the number of workers is one "
            'of the --beam-options, for example "--direct_num_workers=8"'
        )
    for path in paths:
        if path is not None and not os.path.isabs(path):
            raise UsageError(
                f"{path}: with --engine beam all paths must be absolute, because the workers have "
                f"other working directories; write {os.path.abspath(path)}"
            )
    return Engine("beam", options=beam)


def add_processes(command: argparse.ArgumentParser) -> None:
    """Adds the options of `connected`."""
    group = command.add_argument_group(
        "processes", "for work that several processes share, see docs/clusters.md"
    )
    group.add_argument(
        "--distributed",
        action="store_true",
        help="this process is one of several, which JAX detects (TPU slice, Slurm, Open MPI)",
    )
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="address of process 0, if JAX cannot detect it"
    )
    group.add_argument("--processes", type=int, metavar="N", help="number of processes")
    group.add_argument("--process", type=int, metavar="I", help="index of this process, from 0")


@contextlib.contextmanager
def connected(options: argparse.Namespace) -> Iterator[Share]:
    """Connects the processes that `add_processes` describes; yields this process's share.

    Process 0 prints. The others are quiet, except for warnings and errors, and wait at the end
    until it has finished.
    """
    from jaxvideo.data.pipeline import Share

    given = options.coordinator, options.processes, options.process
    asked = options.distributed or any(value is not None for value in given)
    if not asked and not startup.one_of_several():  # JAX is imported after the options are checked
        yield Share()
        return
    import jax

    from jaxvideo.training import distributed

    distributed.start(*given, detect=options.distributed)
    with _only_own_output():
        if not distributed.writes():
            drop_output()
        with distributed.together():
            yield Share(jax.process_index(), jax.process_count())
            distributed.meet()


@contextlib.contextmanager
def _only_own_output() -> Iterator[None]:
    """Sends what libraries write to file descriptor 1 to stderr; Gloo would spoil --json."""
    before = sys.stdout
    before.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    with open(os.dup(kept), "w", encoding=before.encoding, errors=before.errors) as sys.stdout:
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(kept, 1)
            os.close(kept)
            sys.stdout = before
