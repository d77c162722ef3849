"""What a network is made of, counted from its traced program and without running it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core

from jaxvideo.layers.conv import multiply_adds
from jaxvideo.layers.geometry import Geometry, Pass
from jaxvideo.layers.parameters import shapes_only
from jaxvideo.models import create_model, model_entry


@dataclasses.dataclass(frozen=True)
class Summary:
    """Counts of one network for one clip.

    `parameters` are trainable numbers, `statistics` the running ones of BN; `macs` are
    multiply-adds of convolutions and matrix products only, as papers count them;
    `endpoints` are shapes without the batch axis, in network order.
    """

    parameters: int
    statistics: int
    macs: int
    input_shape: tuple[int, int, int, int]
    endpoints: dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Trace:
    """One forward pass of a network in test mode, traced and not run.

    `variables` is the tree of `ShapeDtypeStruct` that `init` makes, `logits` and `endpoints`
    (in network order) are what the network returns, `program` is its jaxpr, whose last result
    is the logits.
    """

    variables: Any
    logits: jax.ShapeDtypeStruct
    endpoints: dict[str, jax.ShapeDtypeStruct]
    program: Any

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and matrix products."""
        return sum(_multiply_adds(equation) * times for equation, times in self.equations())

    @property
    def convolutions(self) -> list[tuple[Any, Any, Geometry]]:
        """(x's shape, kernel's shape, geometry) of every convolution, in order."""
        return [
            (*(v.aval.shape for v in equation.invars[:2]), equation.params["geometry"])
            for equation, _ in self.equations()
            if equation.primitive.name == "conv3d_fused"
            or (equation.primitive.name == "conv3d" and equation.params["what"] is Pass.FORWARD)
        ]

    def equations(self):
        """(equation, how many times it runs) of what the logits need, and of programs inside.

        `init` may compute more, such as the teacher of a supervision transfer.
        """
        needed, kept = {self.program.outvars[-1]}, []
        for equation in reversed(self.program.eqns):
            if needed.intersection(equation.outvars):
                needed.update(v for v in equation.invars if isinstance(v, jex_core.Var))
                kept.append(equation)
        return _equations(reversed(kept))


def trace(model: Any, clip: jax.ShapeDtypeStruct) -> Trace:
    """Traces `model.init_with_output` for a batch of clips `[N, T, H, W, C]`."""
    results: dict[str, Any] = {}

    def init(clip):
        (logits, ends), variables = model.init_with_output(jax.random.key(0), clip, train=False)
        # Stored while tracing: JAX sorts the keys of a dict that it returns.
        results.update(logits=_shape_of(logits), endpoints=jax.tree.map(_shape_of, ends))
        results["order"] = list(ends)
        return variables, logits

    with shapes_only():
        program, (variables, _) = jax.make_jaxpr(init, return_shape=True)(clip)
    endpoints = {name: results["endpoints"][name] for name in results["order"]}
    return Trace(variables, results["logits"], endpoints, program.jaxpr)


def summarize(name: str, *, frames: int = 0, crop: int = 0, **arguments: Any) -> Summary:
    """Counts of a registry model; `frames` and `crop` replace its own input size."""
    t, h, w, c = model_entry(name).preprocessing.shape
    shape = (frames or t, crop or h, crop or w, c)
    return summary_of(trace_of_clip(create_model(name, **arguments), shape), shape)


def summary_of(traced: Trace, shape: tuple[int, int, int, int]) -> Summary:
    """The counts in a trace of one clip of the shape `[T, H, W, C]`."""
    return Summary(
        parameters=_size(traced.variables["params"]),
        statistics=_size(traced.variables.get("batch_stats", {})),
        macs=traced.macs,
        input_shape=shape,
        endpoints={name: end.shape[1:] for name, end in traced.endpoints.items()},
    )


def trace_of_clip(model: Any, shape: tuple[int, ...]) -> Trace:
    """`trace` for one f32 clip of the shape `[T, H, W, C]`."""
    return trace(model, jax.ShapeDtypeStruct((1, *shape), jnp.float32))


def _shape_of(array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _size(tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def _equations(equations, times: int = 1):
    for equation in equations:
        yield equation, times
        inside = times * (equation.params["length"] if equation.primitive.name == "scan" else 1)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner.eqns, inside)


def _multiply_adds(equation) -> int:
    operands = (*equation.invars, *equation.outvars)
    shapes: list[tuple[int, ...]] = [getattr(v.aval, "shape", ()) for v in operands]
    if equation.primitive.name in ("conv3d", "conv3d_fused"):
        # A transposed convolution multiplies once per position of its input, the smaller side.
        transposed = equation.params.get("what") is Pass.INPUT_GRADIENT
        return multiply_adds(shapes[0 if transposed else -1], shapes[1])
    if equation.primitive.name == "dot_general":
        (contracting, _), _ = equation.params["dimension_numbers"]
        depth = np.prod([shapes[0][axis] for axis in contracting], dtype=np.int64)
        return int(np.prod(shapes[-1], dtype=np.int64) * depth)
    return 0
