"""Ahead-of-time resource estimates of a training step for a target topology.

The step is compiled for the target and never run. The TPU compiler comes with libtpu and needs no
TPU. Memory, FLOPs and collectives are those of the program that would run. Cycles are the
compiler's own estimate, which excludes collectives and waiting for data.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo.models import create_model
from jaxvideo.planning.cost import Cost, read_program
from jaxvideo.training.chips import Chip
from jaxvideo.training.config import Run
from jaxvideo.training.optim import make_optimizer, make_plateau, make_schedule
from jaxvideo.training.parallel import Layout, make_layout
from jaxvideo.training.program import jit_step, model_flops
from jaxvideo.training.step import TrainState, first_state, init_variables
from jaxvideo.types import Lowering

#: Number of classes and of training videos, from the papers or the official lists.
DATASETS = {
    "kinetics400": (400, 246_534),
    "kinetics600": (600, 392_622),
    "kinetics700": (700, 545_317),
    "something_v1": (174, 86_017),
    "something_v2": (174, 168_913),
    "sports1m": (487, 793_211),
    "activitynet": (200, 10_024),
    "ucf101": (101, 9_537),
    "hmdb51": (51, 3_570),
}


@dataclasses.dataclass(frozen=True)
class Step:
    """Jitted training step of a run, with the shapes and shardings of its arguments."""

    function: Any
    state: TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    key: jax.ShapeDtypeStruct

    def lower(self) -> jax.stages.Lowered:
        """Lowers the step for the platform of its shardings, without a device."""
        traced = self.function.trace(self.state, self.batch, self.key)
        platform = next(iter(self.key.sharding.device_set)).platform
        # Without an explicit platform JAX asks the default backend, which may not be a TPU.
        return traced.lower(**({"lowering_platforms": ("tpu",)} if platform == "tpu" else {}))


def lowered_step(run: Run, num_classes: int, layout: Layout, *, epoch_steps: int = 1000) -> Step:
    """Builds the step that `train` runs for this config, from shapes alone.

    Args:
      run: the config.
      num_classes: size of the classifier.
      layout: mesh and shardings of the target devices.
      epoch_steps: training steps per epoch, for the schedule. It changes only constants of the
        program.
    """
    model = create_model(**run.model, num_classes=num_classes)
    # Shapes do not depend on the lowering; DIRECT traces fastest.
    simple = model.clone(lowering=Lowering.DIRECT)
    variables = jax.eval_shape(lambda: init_variables(simple, run.preprocessing, run.seed))
    schedule = make_schedule(run.optim, steps_per_epoch=epoch_steps, epochs=run.epochs)
    optimizer = make_optimizer(run.optim, schedule, variables["params"])
    plateau = make_plateau(run.optim)

    def at(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    shapes = jax.eval_shape(
        lambda v: first_state(v, optimizer, plateau, ema=bool(run.ema)), variables
    )
    shardings = layout.state(shapes, run.parallel.fsdp)
    n = run.batch_size
    batch = {
        "video": jax.ShapeDtypeStruct((n, *run.preprocessing.transfer_shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((n,), jnp.int32),
        "weight": jax.ShapeDtypeStruct((n,), jnp.float32),
        "sample": jax.ShapeDtypeStruct((n, 3), jnp.int32),
    }
    return Step(
        jit_step(run, model, optimizer, layout, shardings),
        jax.tree.map(at, shapes, shardings),
        {k: at(v, layout.video if k == "video" else layout.rows) for k, v in batch.items()},
        at(jax.eval_shape(lambda: jax.random.key(0)), layout.whole),
    )


class DoesNotFit(Exception):
    """The compiler cannot fit the step into the memory of the chip."""


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
        return self.arguments + self.outputs + self.temporaries + self.program


@dataclasses.dataclass(frozen=True)
class Plan:
    """Resource estimates of a compiled step.

    Attributes:
      batch: clips per step over all devices.
      devices: number of devices.
      kind: `device_kind` of the devices.
      memory: bytes per device.
      flops: FLOPs per step over all devices as the compiler counts them; the body of a loop counts
        once.
      model_flops: FLOPs per step that the network needs, see `program.model_flops`.
      cost: cycles and collectives per device.
      parameters: number of trainable parameters.
      clip_bytes: bytes of the batch that the host sends to one device.
      seconds: time to lower and compile the step.
    """

    batch: int
    devices: int
    kind: str
    memory: Memory
    flops: float
    model_flops: int
    cost: Cost
    parameters: int
    clip_bytes: int
    seconds: float

    def step_seconds(self, chip: Chip) -> float | None:
        """Estimated seconds per step without collectives; None if the compiler gives no cycles."""
        return self.cost.cycles / chip.clock if chip.clock and self.cost.cycles else None

    def link_seconds(self, chip: Chip) -> float | None:
        """Lower bound of the time for collectives, in seconds; None if the bandwidth is unknown.

        An all-reduce counts twice: reduce-scatter, then all-gather.
        """
        if not chip.link:
            return None
        sent = {k: v[1] * (2 if k == "all-reduce" else 1) for k, v in self.cost.collectives.items()}
        return sum(sent.values()) * (1 - 1 / self.devices) / chip.link


def make_plan(
    run: Run, num_classes: int, devices: Sequence[Any], *, epoch_steps: int = 1000
) -> Plan:
    """Compiles the training step of a run for the devices.

    Args:
      run: the config.
      num_classes: size of the classifier.
      devices: real devices, or those of `tpu_devices`.
      epoch_steps: training steps per epoch, for the schedule.

    Raises:
      ConfigError: the batch is not a multiple of the number of devices.
      DoesNotFit: the step needs more memory than the chip has.
    """
    layout = make_layout(run.parallel, {"batch_size": run.batch_size}, devices)
    step = lowered_step(run, num_classes, layout, epoch_steps=epoch_steps)
    started = time.perf_counter()
    try:
        compiled = step.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(_shortage(str(error))) from error
    seconds = time.perf_counter() - started
    stats = compiled.memory_analysis()
    assert stats is not None
    costs = compiled.cost_analysis() or {}
    return Plan(
        batch=run.batch_size,
        devices=len(devices),
        kind=devices[0].device_kind,
        memory=Memory(
            stats.argument_size_in_bytes,
            stats.output_size_in_bytes - stats.alias_size_in_bytes,
            stats.temp_size_in_bytes,
            stats.generated_code_size_in_bytes,
        ),
        flops=costs.get("flops", 0.0) * len(devices),
        model_flops=model_flops(create_model(**run.model, num_classes=num_classes), run),
        cost=read_program(compiled.as_text() or ""),
        parameters=sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(step.state.params)),
        clip_bytes=sum(
            leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
            for leaf in step.batch.values()
        ),
        seconds=seconds,
    )


def _shortage(message: str) -> str:
    """Extracts the required and the available memory from a compiler error."""
    for pattern in (r"Used (\S+) of (\S+) hbm", r"\((\S+)\) exceeds available HBM \((\S+)\)"):
        if found := re.search(pattern, message):
            return f"needs {found[1]}, has {found[2]}"
    return message.partition("RESOURCE_EXHAUSTED: ")[2].splitlines()[0]
