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
from jaxvideo.training.optim import make_optimizer, make_plateau, make_schedule
from jaxvideo.training.parallel import Layout, make_layout
from jaxvideo.training.program import jit_step, model_flops
from jaxvideo.training.schema import Run
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

_FORMS = (
    "v5e:2x2, v5e:4x4, v5e:16x16, v6e:8x8, v4:2x2x1, v5p:4x4x4 and the like (chips along each "
    "axis, as Cloud TPU lists them); or a device's memory, as 80GB, for the device at hand"
)

_UNITS = {"MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30}


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


# --- The program's text ---------------------------------------------------------------------

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
    "collective-broadcast",
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a compiled program does, read from its text.

    Attributes:
      cycles: the compiler's estimate, where it makes one (TPU); loops as often as they run.
      matrix_cycles: those of convolutions and matrix products, and of what is fused with them.
      collectives: number and bytes by kind. Bytes are those of the whole array at one device:
        the one reduced, or scattered; the one gathered; the one sent.
      unknown_loops: loops counted once, because the text does not tell how often they run.
    """

    cycles: int = 0
    matrix_cycles: int = 0
    collectives: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    unknown_loops: int = 0

    def __add__(self, other: Cost) -> Cost:
        collectives = dict(self.collectives)
        for kind, (number, size) in other.collectives.items():
            before = collectives.get(kind, (0, 0))
            collectives[kind] = (before[0] + number, before[1] + size)
        return Cost(
            self.cycles + other.cycles,
            self.matrix_cycles + other.matrix_cycles,
            collectives,
            self.unknown_loops + other.unknown_loops,
        )

    def times(self, count: int) -> Cost:
        return Cost(
            self.cycles * count,
            self.matrix_cycles * count,
            {k: (count * number, count * size) for k, (number, size) in self.collectives.items()},
            self.unknown_loops,
        )


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    opcode: str
    rest: str  # operands and attributes
    root: bool


_HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+)(\d+)\w*\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


def read_program(text: str) -> Cost:
    """The cost of a compiled program's text, `compiled.as_text()`."""
    computations: dict[str, list[_Instruction]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            lines = computations[head[2]] = []
            entry = head[2] if head[1] else entry
        elif found := _LINE.match(line):
            lines.append(_Instruction(found[2], found[3], found[4], found[5], bool(found[1])))

    def called(instruction: _Instruction, attribute: str) -> list[str]:
        found = re.search(rf"\b{attribute}=\{{?((?:%?[\w.-]+(?:, )?)+)", instruction.rest)
        names = found[1].replace("%", "").split(", ") if found else []
        return [name for name in names if name in computations]

    @functools.cache
    def multiplies(name: str) -> bool:
        return any(
            i.opcode in ("convolution", "dot") or any(map(multiplies, called(i, "calls")))
            for i in computations[name]
        )

    def fused(instruction: _Instruction, name: str) -> Cost:
        """The collectives inside a fusion, whose cycles are the fusion's own."""
        total = Cost()
        for inner in computations[name]:
            if inner.opcode == "fusion":
                for deeper in called(inner, "calls"):
                    total += fused(instruction, deeper)
            kind = _kind(inner.opcode)
            # An asynchronous one also stands in all that runs beside it, and in its end.
            later = "async_collective_fusion_config" in inner.rest
            if kind and (not later or instruction.name.startswith("async-collective-start")):
                # A TPU scatters a sum by cutting it at its end.
                kind = "reduce-scatter" if name.startswith("all-reduce-scatter") else kind
                total += Cost(collectives={kind: (1, _moved(inner, computations[name]))})
        return total

    @functools.cache
    def cost(name: str) -> Cost:
        total = Cost()
        for instruction in computations[name]:
            found = _CYCLES.search(instruction.rest)
            cycles = int(found[1]) if found else 0
            matrix = instruction.opcode in ("convolution", "dot")
            inside = called(instruction, "calls")
            if kind := _kind(instruction.opcode):
                size = _moved(instruction, computations[name])
                total += Cost(collectives={kind: (1, size)})
            elif instruction.opcode == "fusion":
                matrix = any(map(multiplies, inside))
                for part in inside:
                    total += fused(instruction, part)
            elif instruction.opcode in ("call", "async-start"):
                for part in inside or called(instruction, "to_apply"):
                    total += cost(part)
            elif instruction.opcode == "conditional":
                branches = called(instruction, "branch_computations") or [
                    part
                    for side in ("true_computation", "false_computation")
                    for part in called(instruction, side)
                ]
                total += max(map(cost, branches), key=lambda branch: branch.cycles)
            elif instruction.opcode == "while":
                count = _trips(instruction, computations, called(instruction, "condition"))
                (body,) = called(instruction, "body")
                total += cost(body).times(count or 1) + Cost(unknown_loops=int(not count))
            total += Cost(cycles, cycles * matrix)
        return total

    return cost(entry) if entry else Cost()


def _kind(opcode: str) -> str | None:
    """The collective that an operation begins; its end is not another one."""
    name = opcode.removesuffix("-start")
    return name if name in COLLECTIVES else None


def _moved(instruction: _Instruction, computation: Sequence[_Instruction]) -> int:
    operands = instruction.rest.partition(")")[0]
    names = set(re.findall(r"%([\w.-]+)", operands))
    given = sum(_bytes(other.shape) for other in computation if other.name in names)
    made = _bytes(instruction.shape)
    if instruction.opcode in ("all-gather-start", "collective-permute-start"):
        # (what is given, what is made, and a permutation's two counters)
        made -= given + 8 * (instruction.opcode == "collective-permute-start")
    return max(given, made)


def _bytes(shape: str) -> int:
    return sum(
        math.ceil(int(bits) * math.prod(int(n) for n in sizes.split(",") if n) / 8)
        for _, bits, sizes in _ARRAY.findall(shape.replace("pred[", "u8["))
    )


def _trips(
    loop: _Instruction, computations: Mapping[str, Sequence[_Instruction]], condition: list[str]
) -> int | None:
    """How often a loop runs: as its line says, or, of the loops of `scan`, up to which constant
    its condition counts from zero."""
    if found := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest):
        return int(found[1])
    for name in condition:
        constants = {
            i.name: int(i.rest.partition(")")[0])
            for i in computations[name]
            if i.opcode == "constant" and re.match(r"\d+\)", i.rest)
        }
        for i in computations[name]:
            if i.root and i.opcode == "compare" and "direction=LT" in i.rest:
                limits = [constants[n] for n in re.findall(r"%([\w.-]+)", i.rest) if n in constants]
                if len(limits) == 1:
                    return limits[0]
    return None


# --- A plan ---------------------------------------------------------------------------------


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


def tpu_devices(topology: str) -> tuple[list[Any], Chip]:
    """The devices of a TPU topology, as `v5e:16x16`, and what they are. None has to be there.

    Raises:
      ConfigError: there is no such topology, or libtpu is not installed.
    """
    from jax.experimental import topologies

    if not re.fullmatch(r"\w+:\d+(x\d+)+", topology):
        raise ConfigError(f"topology {topology!r}: allowed are {_FORMS}")
    chip = chip_of_topology(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            "the TPU compiler is not installed: python -m pip install 'jaxvideo[tpu]' (no TPU "
            "is needed)"
        )
    sides = [int(side) for side in topology.partition(":")[2].split("x")]
    # A host has four chips, two by two, unless the whole topology is smaller.
    host = tuple(min(side, most) for side, most in zip((*sides, 1, 1), (2, 2, 1), strict=False))
    try:
        description = topologies.get_topology_desc(
            platform="tpu",
            topology_name=topology,
            chip_config_name=chip.form,
            chips_per_host_bounds=host,
        )
    except jax.errors.JaxRuntimeError as error:
        said = str(error).splitlines()[0]
        if not said.startswith(("INVALID_ARGUMENT", "NOT_FOUND")):
            raise ConfigError(f"libtpu does not start: {said}") from error
        raise ConfigError(f"topology {topology!r}: allowed are {_FORMS} ({said})") from error
    return list(description.devices), chip


def memory_size(text: str) -> int:
    """Bytes of `80GB` or `15.75GiB`; ConfigError for what is no size."""
    found = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(_UNITS)})", text)
    if not found:
        raise ConfigError(f"topology {text!r}: allowed are {_FORMS}")
    return round(float(found[1]) * _UNITS[found[2]])


def batch_unit(run: Run, devices: int) -> int:
    """What a global batch must be a multiple of, if BN sees as many clips as the config says."""
    return run.parallel.accumulate * math.lcm(devices // run.parallel.split, _bn_size(run))


def with_batch(run: Run, batch: int) -> Run:
    """The run with another global batch. BN groups keep their size, so there are more or fewer of
    them; a single group stays single."""
    groups, model = run.model.get("bn_groups", 1), run.model
    if groups > 1:
        if batch % _bn_size(run):
            raise ConfigError(
                f"a batch of {batch}: must be a multiple of the {_bn_size(run)} clips that a BN "
                f"group of the config has (batch_size={run.batch_size}, model.bn_groups={groups})"
            )
        model = {**model, "bn_groups": batch // _bn_size(run)}
    return dataclasses.replace(run, batch_size=batch, model=model)


def _bn_size(run: Run) -> int:
    groups = run.model.get("bn_groups", 1)
    return run.batch_size // groups if groups > 1 else 1


def largest(fits: Callable[[int], bool], first: int) -> int:
    """The largest number from 1 that fits, to 3 % where it is large; 0 if none does. By doubling
    and bisection, as every question is a compilation; whatever is below one that fits does."""
    low, high, number = 0, None, first
    while high is None or high - low > max(low // 32, 1):
        if fits(number):
            low = number
        else:
            high = number
        number = 2 * low if high is None else (low + high) // 2
    return low
