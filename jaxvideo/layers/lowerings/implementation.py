"""The interface of an implementation, and gradients by transposition of the forward pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from jaxvideo.layers.geometry import Geometry, w_like, x_like

#: One pass: `(a, b, geometry) -> result`, see `Implementation`.
Function = Callable[[jax.Array, jax.Array, Geometry], jax.Array]


@dataclasses.dataclass(frozen=True)
class Implementation:
    """Computes a 3-D convolution and its two gradients.

    Attributes:
      forward: `(x, w, geometry) -> y`.
      input_gradient: `(g, w, geometry) -> dx`, where `g` is the gradient of `y`.
      weight_gradient: `(x, g, geometry) -> dw`.
      fits: `(geometry, depthwise) -> bool`: True if it can compute this convolution. `depthwise`
        is True if each group has one input and one output channel.
    """

    forward: Function
    input_gradient: Function
    weight_gradient: Function
    fits: Callable[[Geometry, bool], bool]


def ungrouped(condition: Callable[[Geometry], bool]) -> Callable[[Geometry, bool], bool]:
    """Returns a `fits` for an implementation that computes convolutions of one group only."""
    return lambda geometry, depthwise: geometry.groups == 1 and condition(geometry)


def transposed_dx(forward: Function) -> Function:
    """Returns the input gradient that JAX derives from a forward pass."""

    def input_gradient(g, w, geometry):
        linear = jax.linear_transpose(lambda x: forward(x, w, geometry), x_like(g, w, geometry))
        return linear(g)[0]

    return input_gradient


def transposed_dw(forward: Function) -> Function:
    """Returns the weight gradient that JAX derives from a forward pass."""

    def weight_gradient(x, g, geometry):
        linear = jax.linear_transpose(lambda w: forward(x, w, geometry), w_like(x, g, geometry))
        return linear(g)[0]

    return weight_gradient
