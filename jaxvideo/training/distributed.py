"""Several processes as one run. JAX's own runtime does the work; here is what the processes of a
run tell each other, and when they end."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxvideo.progress import LOG, silence
from jaxvideo.types import ConfigError, Interrupted, JaxvideoError, TrainingError

# A process that is gone is noticed after this long, and the others end.
_HEARTBEAT_SECONDS = 20
_START_SECONDS = 300


def start(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    detect: bool = False,
) -> None:
    """Joins this process to a run of several, if there are several.

    With arguments, by them: `coordinator` is host:port of process 0. Without, where the
    environment tells (a Slurm step of several tasks, a TPU slice of several hosts, Open MPI), or,
    with `detect`, wherever JAX finds out; else this process stays alone.

    Raises:
      ConfigError: arguments that do not belong together, or nobody there.
    """
    given = (coordinator, processes, process)
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise ConfigError("--coordinator, --processes and --process belong together: all three")
        if not 0 <= process < processes:  # pyright: ignore[reportOperatorIssue]
            raise ConfigError(f"--process={process}: one of 0 to --processes={processes} less one")
    elif not detect and not _several_in_environment():
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
            f"the processes did not find each other ({_first_line(error)})"
        ) from error
    if jax.process_index():
        silence()


def _several_in_environment() -> bool:
    env = os.environ
    counts = (env.get("SLURM_STEP_NUM_TASKS"), env.get("OMPI_COMM_WORLD_SIZE"))
    hosts = env.get("TPU_WORKER_HOSTNAMES", "").split(",")
    several = any(count and count.isdigit() and int(count) > 1 for count in counts)
    return several or len(hosts) > 1 or "JAX_COORDINATOR_ADDRESS" in env


def writes() -> bool:
    """Whether this process is the one that writes files."""
    return jax.process_index() == 0


def gather(data: bytes) -> list[bytes]:
    """What every process gives, in their order; all must call it."""
    if jax.process_count() == 1:
        return [data]
    sizes = multihost_utils.process_allgather(np.asarray([len(data)], np.int32)).ravel()
    room = np.zeros(int(sizes.max()), np.uint8)
    room[: len(data)] = np.frombuffer(data, np.uint8)
    rows = multihost_utils.process_allgather(room)
    return [bytes(row[:size]) for row, size in zip(rows, sizes, strict=True)]


def first_says(value: Any) -> Any:
    """What process 0 gives, as JSON; all must call it."""
    return json.loads(gather(json.dumps(value).encode())[0])


def stop_agreed(step: int) -> bool:
    """Whether a process has been told to end (SIGTERM, a preemption notice), and all have agreed
    on this step for it. Asked after every step by all."""
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends every process when one fails: this one at once, without waiting for the others at the
    runtime's last barrier, and the others because it is gone."""
    try:
        yield
    except Interrupted:  # all have agreed on it
        raise
    except Exception as error:
        if jax.process_count() == 1:
            raise
        if isinstance(error, jax.errors.JaxRuntimeError):
            error = TrainingError(
                f"another process of the run has ended, or the network failed: {_first_line(error)}"
            )
        if not isinstance(error, JaxvideoError):
            import traceback

            traceback.print_exc()
        LOG.error(f"process {jax.process_index()}: {error}")
        sys.stdout.flush()
        os._exit(1)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
