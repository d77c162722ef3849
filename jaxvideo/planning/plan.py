"""What a training step will need on chips that are not there: compiled for them, never run.

The compiler of TPUs comes with libtpu and wants no TPU. Memory, FLOPs and collectives are those
of the program that would run. Its cycles are its own ESTIMATE, which it orders its work by:
it leaves out the time of collectives and of waiting for data.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo.models import create_model
from jaxvideo.training.chips import Chip, chip_of_topology
from jaxvideo.training.config import Run
from jaxvideo.training.optim import make_optimizer, make_plateau, make_schedule
from jaxvideo.training.parallel import Layout, make_layout
from jaxvideo.training.program import jit_step, model_flops
from jaxvideo.training.step import TrainState, first_state, init_variables
from jaxvideo.types import ConfigError, Lowering

# Classes and training videos of data sets, as their papers or lists count them.
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
    """A run's training step as `jit` takes it, and the shapes, with shardings, that it is for."""

    function: Any
    state: TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    key: jax.ShapeDtypeStruct

    def lower(self) -> jax.stages.Lowered:
        traced = self.function.trace(self.state, self.batch, self.key)
        platform = next(iter(self.key.sharding.device_set)).platform
        # A TPU that is not there is no backend, which JAX would ask otherwise.
        return traced.lower(**({"lowering_platforms": ("tpu",)} if platform == "tpu" else {}))


def lowered_step(run: Run, num_classes: int, layout: Layout, *, epoch_steps: int = 1000) -> Step:
    """The step that `train` runs for this config, from shapes alone.

    Args:
      epoch_steps: the schedule counts in epochs; it changes constants of the program only.
    """
    model = create_model(**run.model, num_classes=num_classes)
    # A lowering only chooses how to compute, and shapes need the simplest.
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
        "video": jax.ShapeDtypeStruct((n, *run.preprocessing.video_shape), jnp.uint8),
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
    """The compiler found no way to fit the step into the chip's memory."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device while the step runs: what goes in, what comes out in memory of its
    own (a donated state comes out where it went in), what lives in between, and the program."""

    arguments: int
    outputs: int
    temporaries: int
    program: int

    @property
    def total(self) -> int:
        return self.arguments + self.outputs + self.temporaries + self.program


@dataclasses.dataclass(frozen=True)
class Plan:
    """A compiled step.

    Attributes:
      batch: clips of a step over all `devices`.
      flops: of a step over all devices, as the compiler counts what it runs; a loop's once.
      model_flops: what the network needs, see there.
      clip_bytes: of the batch that the host sends to one device.
      seconds: to lower and compile.
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
        """The compiler's ESTIMATE, without collectives; None where it makes none."""
        return self.cost.cycles / chip.clock if chip.clock and self.cost.cycles else None

    def link_seconds(self, chip: Chip) -> float | None:
        """The least time that a chip's links need for its part of the collectives: a sum is
        sent twice, once to be added up and once to be told."""
        if not chip.link:
            return None
        sent = {k: v[1] * (2 if k == "all-reduce" else 1) for k, v in self.cost.collectives.items()}
        return sum(sent.values()) * (1 - 1 / self.devices) / chip.link


def make_plan(
    run: Run, num_classes: int, devices: Sequence[Any], *, epoch_steps: int = 1000
) -> Plan:
    """Compiles a run's step for the devices.

    Raises:
      ConfigError: the devices do not divide the batch.
      DoesNotFit: there is not memory enough.
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
    """The part of the compiler's message that tells how much memory was missing."""
    for pattern in (r"Used (\S+) of (\S+) hbm", r"\((\S+)\) exceeds available HBM \((\S+)\)"):
        if found := re.search(pattern, message):
            return f"the compiler wants {found[1]} of {found[2]}"
    return message.partition("RESOURCE_EXHAUSTED: ")[2].splitlines()[0]
