"""Cost of a compiled program, read from its text."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence

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
    """Cost of a compiled program per device and call.

    Attributes:
      cycles: the compiler's estimate (TPU only, otherwise 0); loops are multiplied by their trip
        counts.
      matrix_cycles: the part of `cycles` in convolutions and matrix products, including the
        operations fused with them.
      collectives: number and bytes by kind. Bytes count the whole array at one device: the input
        of a reduction or scatter, the output of a gather, the array sent.
      unknown_loops: number of loops with unknown trip count, which are counted once.
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
        """Returns the cost of `count` repetitions."""
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
    """Computes the cost of a compiled program from its HLO text.

    Args:
      text: `compiled.as_text()` of a `jax.stages.Compiled`.
    """
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
        """Collectives inside a fusion. Their cycles are included in those of the fusion."""
        total = Cost()
        for inner in computations[name]:
            if inner.opcode == "fusion":
                for deeper in called(inner, "calls"):
                    total += fused(instruction, deeper)
            kind = _kind(inner.opcode)
            # The text repeats an asynchronous collective in overlapping fusions and in its end.
            later = "async_collective_fusion_config" in inner.rest
            if kind and (not later or instruction.name.startswith("async-collective-start")):
                # On TPU a reduce-scatter is an all-reduce with a slice at its end.
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
    """Returns the collective that an operation starts; None for the `-done` half and all others."""
    name = opcode.removesuffix("-start")
    return name if name in COLLECTIVES else None


def _moved(instruction: _Instruction, computation: Sequence[_Instruction]) -> int:
    operands = instruction.rest.partition(")")[0]
    names = set(re.findall(r"%([\w.-]+)", operands))
    given = sum(_bytes(other.shape) for other in computation if other.name in names)
    made = _bytes(instruction.shape)
    if instruction.opcode in ("all-gather-start", "collective-permute-start"):
        # The result is a tuple (input, output), plus two counters for a permutation.
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
    """Returns the trip count of a loop; None if unknown.

    It is an attribute of the instruction, or, for `scan`, the constant to which the condition
    counts from zero.
    """
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
