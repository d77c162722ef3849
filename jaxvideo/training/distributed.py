"""Runs of several processes: start, exchange of host values, and exit. JAX's runtime connects
the processes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax._src import distributed as runtime  # the barrier of the runtime has no public name
from jax.experimental import multihost_utils

from jaxvideo import startup
from jaxvideo.progress import LOG, silence
from jaxvideo.types import ConfigError, Interrupted, JaxvideoError, TrainingError

# A process that died is detected after this time, and the others exit.
_HEARTBEAT_SECONDS = 20
_START_SECONDS = 300
_MEETING_SECONDS = 7 * 24 * 3600

# Names of barriers, which are used once.
_MEETINGS = itertools.count()


def start(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    detect: bool = False,
) -> None:
    """Connects this process with the other processes of its run, if there are any.

    Without arguments the environment decides: a Slurm step of several tasks, a TPU slice of
    several hosts, or Open MPI.

    Args:
      coordinator: host:port of process 0. All three arguments are given, or none.
      processes: number of processes.
      process: index of this process.
      detect: without arguments, let JAX detect any cluster that it knows.

    Raises:
      ConfigError: an argument is missing or out of range, or the connection failed.
    """
    given = (coordinator, processes, process)
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise ConfigError(
                "--coordinator, --processes and --process must be given together; "
                f"got {coordinator}, {processes} and {process}"
            )
        if not 0 <= process < processes:  # pyright: ignore[reportOperatorIssue]
            raise ConfigError(
                f"--process={process}: must be at least 0 and less than --processes={processes}"
            )
    elif not detect and not startup.one_of_several():
        return
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=_START_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=60,
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the processes of the run could not connect ({_first_line(error)}); check that all "
            "of them have started, and that --coordinator can be reached from each"
        ) from error
    if jax.process_index():
        silence()


def writes() -> bool:
    """Returns True in the process that writes files, process 0."""
    return jax.process_index() == 0


def meet() -> None:
    """Waits until every process calls it; ends with an error if a process dies.

    Collectives on arrays wait for the other processes for seconds only (30 s on CPUs), but a share
    of the videos may take hours longer than another.
    """
    if jax.process_count() > 1:
        client: Any = runtime.global_state.client
        client.wait_at_barrier(f"jaxvideo-{next(_MEETINGS)}", timeout_in_ms=_MEETING_SECONDS * 1000)


def gather(data: bytes) -> list[bytes]:
    """Returns the data of every process, in their order. Collective: every process calls it."""
    if jax.process_count() == 1:
        return [data]
    meet()
    sizes = multihost_utils.process_allgather(np.asarray([len(data)], np.int32)).ravel()
    room = np.zeros(int(sizes.max()), np.uint8)
    room[: len(data)] = np.frombuffer(data, np.uint8)
    rows = multihost_utils.process_allgather(room)
    return [bytes(row[:size]) for row, size in zip(rows, sizes, strict=True)]


def broadcast(value: Any) -> Any:
    """Returns the JSON value of process 0. Collective: every process calls it."""
    return json.loads(gather(json.dumps(value).encode())[0])


def stop_agreed(step: int) -> bool:
    """Returns True if the run is to stop after this step.

    It is True if any process received SIGTERM or a preemption notice. All processes get the same
    result. Collective: every process calls it after every step.
    """
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Context that exits at once on an error, so that the other processes abort too.

    Otherwise this process would wait for them at the runtime's last barrier.
    """
    try:
        yield
    except Interrupted:  # all processes stop after the same step
        raise
    except Exception as error:
        if jax.process_count() == 1:
            raise
        if isinstance(error, jax.errors.JaxRuntimeError):
            error = TrainingError(
                "another process of the run has exited, or the network failed: "
                f"{_first_line(error)}"
            )
        if not isinstance(error, JaxvideoError):
            import traceback

            traceback.print_exc()
        LOG.error(f"process {jax.process_index()}: {error}")
        sys.stdout.flush()
        os._exit(1)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
