"""Memory of the training step: what it needs, what there is, and what to change if it is short."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from jaxvideo.data.memory import free_memory
from jaxvideo.training.parallel import Layout
from jaxvideo.training.schema import Run
from jaxvideo.types import TrainingError

# Share of the available memory that the advice fills; the estimate is proportional.
_FILLED = 0.9


@dataclasses.dataclass(frozen=True)
class Memory:
    """Memory of one device while the step runs, in bytes.

    Attributes:
      arguments: state and batch.
      outputs: results that do not reuse the memory of a donated argument.
      temporaries: intermediate arrays.
      program: machine code and constants.
    """

    arguments: int
    outputs: int
    temporaries: int
    program: int

    @property
    def total(self) -> int:
        """Sum of all parts in bytes."""
        return self.arguments + self.outputs + self.temporaries + self.program


def memory_of(compiled: Any) -> Memory | None:
    """Returns the memory of a compiled program; None if the platform does not report it."""
    try:
        stats = compiled.memory_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    if stats is None:
        return None
    return Memory(
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes - stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.generated_code_size_in_bytes,
    )


def check_memory(run: Run, memory: Memory | None, state: Any, layout: Layout) -> None:
    """Checks that a compiled training step fits into the memory of each local device.

    Args:
      run: the run.
      memory: see `memory_of`; None skips the check.
      state: the training state, or the shapes of its arrays, with shardings.
      layout: devices of the run.

    Raises:
      TrainingError: it does not fit; the message names a batch size that does.
    """
    devices = layout.mesh.local_devices
    there = available(devices[0])
    if memory is None or there is None:
        return
    limit, what = there
    if devices[0].platform == "cpu":  # all CPU devices share the memory
        limit //= len(devices)
    if memory.total <= limit:
        return
    held = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves((state, state.params))  # the gradients are as large as these
    )
    share = f", {len(devices)} devices" if len(devices) > 1 else ""
    raise TrainingError(
        f"the training step needs {_size(memory.total)} per device for a batch of "
        f"{run.batch_size} clips; {_size(limit)} are available ({what}{share}). "
        + advice(run, memory, held, limit, layout.mesh.shape["data"])
    )


def advice(run: Run, memory: Memory, held: int, limit: int, devices: int) -> str:
    """Returns a sentence that names settings with which the step fits.

    Args:
      run: the run.
      memory: memory of its step.
      held: bytes of state and gradients on one device. They do not depend on the batch.
      limit: bytes of one device.
      devices: number of devices that share a batch.
    """
    growing = max(memory.total - held, 1)
    room = _FILLED * limit - held
    groups = run.model.get("bn_groups", 1)
    unit = math.lcm(devices, groups if groups > 1 else 1, run.parallel.accumulate)
    batch = int(run.batch_size * room / growing) // unit * unit if room > 0 else 0
    remat = "" if run.parallel.remat else "config.parallel.remat=true (recompute activations)"
    if batch < unit:
        ways = [remat, "smaller clips (config.preprocessing.frames, size and crop)"]
        others = " or ".join(way for way in (*ways, "another network") if way)
        return f"Even the smallest batch, {unit}, does not fit by proportion; try {others}"
    parts = _micro_batches(run, batch, devices)
    ways = [f"config.batch_size={batch}"]
    if parts and "bn_groups" in run.model and groups % parts:
        ways.append(f"config.parallel.accumulate={parts} with config.model.bn_groups={parts}")
    elif parts:
        ways.append(f"config.parallel.accumulate={parts}")
    ways += [remat] if remat else []
    return (
        f"Set {', or '.join(ways)}. The batch size is an estimate: all but the "
        f"{_size(held)} of weights, gradients and optimizer state grows with the batch"
    )


def _micro_batches(run: Run, fits: int, devices: int) -> int:
    """Returns the smallest number of micro-batches of at most `fits` clips; 0 if none divides."""
    for parts in range(run.parallel.accumulate + 1, run.batch_size // devices + 1):
        size = run.batch_size // parts
        if run.batch_size % (parts * devices) == 0 and size * run.parallel.accumulate <= fits:
            return parts
    return 0


def available(device: Any) -> tuple[int, str] | None:
    """Returns the memory that a device can give to this process, in bytes, and what limits it.

    None if it is unknown.

    Args:
      device: a local JAX device.
    """
    if device.platform != "cpu":
        stats: Mapping[str, int] = device.memory_stats() or {}
        return (stats["bytes_limit"], device.device_kind) if "bytes_limit" in stats else None
    return free_memory()


@contextlib.contextmanager
def shortage_explained(run: Run, what: str) -> Iterator[None]:
    """Context that turns XLA's out-of-memory errors into a TrainingError with a remedy.

    Args:
      run: the run.
      what: "validation" or the name of other work, for the message.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text and "Out of memory" not in text:
            raise
        cause = text.partition("RESOURCE_EXHAUSTED: ")[2] or text
        lower = (
            f"Lower config.eval_batch_size (now {run.eval_batch_size})"
            if what == "validation"
            else f"Lower config.batch_size (now {run.batch_size}), or set "
            "config.parallel.accumulate or config.parallel.remat=true"
        )
        raise TrainingError(
            f"{what} ran out of memory ({cause.splitlines()[0][:200]}). {lower}"
        ) from error


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
