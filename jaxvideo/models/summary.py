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


def summarise(name: str, *, frames: int = 0, crop: int = 0, **arguments: Any) -> Summary:
    """Counts of a registry model; `frames` and `crop` replace its own input size."""
    t, h, w, c = model_entry(name).preprocessing.shape
    shape = (frames or t, crop or h, crop or w, c)
    model = create_model(name, **arguments)
    clip = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables, endpoints = traced_init(model, clip)
    program = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False)[0])(variables, clip)
    return Summary(
        parameters=_size(variables["params"]),
        statistics=_size(variables.get("batch_stats", {})),
        macs=_count(program.jaxpr),
        input_shape=shape,
        endpoints={name: shape[1:] for name, shape in endpoints.items()},
    )


def variable_shapes(model: Any, clip: jax.ShapeDtypeStruct) -> Any:
    """Returns the variables of a model as a tree of `ShapeDtypeStruct`."""
    return traced_init(model, clip)[0]


def traced_init(model: Any, clip: jax.ShapeDtypeStruct) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """Returns `variable_shapes`, and the shapes of the endpoints in network order."""
    endpoints: dict[str, tuple[int, ...]] = {}

    def init(clip):
        (_, ends), variables = model.init_with_output(jax.random.key(0), clip, train=False)
        # Stored while tracing: JAX sorts the keys of a dict that it returns.
        endpoints.update({name: end.shape for name, end in ends.items()})
        return variables

    with shapes_only():
        return jax.eval_shape(init, clip), endpoints


def count_macs(model: Any, clip_shape: tuple[int, ...]) -> int:
    """Multiply-adds of a model's forward pass for one clip `[T, H, W, C]`."""
    clip = jax.ShapeDtypeStruct((1, *clip_shape), jnp.float32)
    variables = variable_shapes(model, clip)
    return _count(
        jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False)[0])(variables, clip).jaxpr
    )


def _size(tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def convolutions(model: Any, clip_shape: tuple[int, ...]) -> list[tuple[Any, Any, Geometry]]:
    """(x's shape, kernel's shape, geometry) of every convolution of a model, in order."""
    clip = jax.ShapeDtypeStruct(clip_shape, jnp.float32)
    variables = variable_shapes(model, clip)
    program = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False)[0])(variables, clip)
    return [
        (*(v.aval.shape for v in equation.invars[:2]), equation.params["geometry"])
        for equation, _ in _equations(program.jaxpr)
        if equation.primitive.name == "conv3d_fused"
        or (equation.primitive.name == "conv3d" and equation.params["what"] is Pass.FORWARD)
    ]


def _equations(jaxpr, times: int = 1):
    """(equation, how many times it runs) of a program and of the programs inside."""
    for equation in jaxpr.eqns:
        yield equation, times
        inside = times * (equation.params["length"] if equation.primitive.name == "scan" else 1)
        for value in equation.params.values():
            if isinstance(value, jex_core.ClosedJaxpr):
                yield from _equations(value.jaxpr, inside)
            elif isinstance(value, jex_core.Jaxpr):
                yield from _equations(value, inside)


def _count(jaxpr) -> int:
    total = 0
    for equation, times in _equations(jaxpr):
        operands = (*equation.invars, *equation.outvars)
        shapes: list[tuple[int, ...]] = [getattr(v.aval, "shape", ()) for v in operands]
        if equation.primitive.name in ("conv3d", "conv3d_fused"):
            # A transposed convolution multiplies once per position of its input, the smaller side.
            transposed = equation.params.get("what") is Pass.INPUT_GRADIENT
            total += times * multiply_adds(shapes[0 if transposed else -1], shapes[1])
        elif equation.primitive.name == "dot_general":
            (contracting, _), _ = equation.params["dimension_numbers"]
            depth = np.prod([shapes[0][axis] for axis in contracting], dtype=np.int64)
            total += times * int(np.prod(shapes[-1], dtype=np.int64) * depth)
    return total
