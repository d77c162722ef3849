"""Numbers of parameters and multiply-adds, and shapes, of a network that is traced but not run."""

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

    Attributes:
      parameters: number of trainable parameters.
      statistics: number of running statistics of BN.
      macs: multiply-adds of convolutions and matrix products only, as papers count them.
      input_shape: `(T, H, W, C)`.
      endpoints: shapes without the batch axis, in network order.
    """

    parameters: int
    statistics: int
    macs: int
    input_shape: tuple[int, int, int, int]
    endpoints: dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Trace:
    """One forward pass of a network in test mode, traced but not run.

    Attributes:
      variables: shapes and dtypes of the variables.
      logits: shape and dtype of the logits.
      endpoints: shapes and dtypes of the endpoints, in network order.
      program: the jaxpr; its last result is the logits.
    """

    variables: Any
    logits: jax.ShapeDtypeStruct
    endpoints: dict[str, jax.ShapeDtypeStruct]
    program: Any

    @property
    def macs(self) -> int:
        """Number of multiply-adds of convolutions and matrix products."""
        return sum(_multiply_adds(equation) * times for equation, times in self.equations())

    @property
    def convolutions(self) -> list[tuple[Any, Any, Geometry]]:
        """Shape of the input, shape of the kernel and geometry of every convolution, in order."""
        return [
            (*(v.aval.shape for v in equation.invars[:2]), equation.params["geometry"])
            for equation, _ in self.equations()
            if equation.primitive.name == "conv3d_fused"
            or (equation.primitive.name == "conv3d" and equation.params["what"] is Pass.FORWARD)
        ]

    def equations(self):
        """Yields (equation, number of runs) of everything that the logits depend on.

        Equations of nested programs are included. `init` may compute more than the logits need,
        e.g. the teacher of a supervision transfer.
        """
        needed, kept = {self.program.outvars[-1]}, []
        for equation in reversed(self.program.eqns):
            if needed.intersection(equation.outvars):
                needed.update(v for v in equation.invars if isinstance(v, jex_core.Var))
                kept.append(equation)
        return _equations(reversed(kept))


def trace(model: Any, clip: jax.ShapeDtypeStruct) -> Trace:
    """Traces `model.init_with_output` with `train=False` for a batch of clips `[N, T, H, W, C]`."""
    results: dict[str, Any] = {}

    def init(clip):
        (logits, ends), variables = model.init_with_output(jax.random.key(0), clip, train=False)
        # Stored while tracing, because JAX sorts the keys of returned dicts.
        results.update(logits=_shape_of(logits), endpoints=jax.tree.map(_shape_of, ends))
        results["order"] = list(ends)
        return variables, logits

    with shapes_only():
        program, (variables, _) = jax.make_jaxpr(init, return_shape=True)(clip)
    endpoints = {name: results["endpoints"][name] for name in results["order"]}
    return Trace(variables, results["logits"], endpoints, program.jaxpr)


def summarize(name: str, *, frames: int = 0, crop: int = 0, **arguments: Any) -> Summary:
    """Counts parameters, multiply-adds and endpoints of a network of the registry.

    Args:
      name: a name of `list_models()`.
      frames, crop: size of the clip; 0 (default): that of the network's preprocessing.
      **arguments: arguments of `create_model`.

    Example:
      summarize("r2plus1d_18").parameters
    """
    t, h, w, c = model_entry(name).preprocessing.shape
    shape = (frames or t, crop or h, crop or w, c)
    return summary_of(trace_of_clip(create_model(name, **arguments), shape), shape)


def summary_of(traced: Trace, shape: tuple[int, int, int, int]) -> Summary:
    """Summarizes a network from its trace for one clip of shape `[T, H, W, C]`."""
    return Summary(
        parameters=_size(traced.variables["params"]),
        statistics=_size(traced.variables.get("batch_stats", {})),
        macs=traced.macs,
        input_shape=shape,
        endpoints={name: end.shape[1:] for name, end in traced.endpoints.items()},
    )


def trace_of_clip(model: Any, shape: tuple[int, ...]) -> Trace:
    """Calls `trace` for one f32 clip of shape `[T, H, W, C]`."""
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
        # A transposed convolution has one product per position of its input, the smaller side.
        transposed = equation.params.get("what") is Pass.INPUT_GRADIENT
        return multiply_adds(shapes[0 if transposed else -1], shapes[1])
    if equation.primitive.name == "dot_general":
        (contracting, _), _ = equation.params["dimension_numbers"]
        depth = np.prod([shapes[0][axis] for axis in contracting], dtype=np.int64)
        return int(np.prod(shapes[-1], dtype=np.int64) * depth)
    return 0
