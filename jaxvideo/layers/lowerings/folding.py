"""Computes a 3-D convolution and its gradients as a 2-D one of rearranged arrays.

Four implementations share this file and differ in their `Fold`: `fold_time`, `fold_space`,
`time_to_channels` and `time_from_channels`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from jaxvideo.layers.geometry import Geometry, Pads, w_like, x_like
from jaxvideo.layers.lowerings import conv2d
from jaxvideo.layers.lowerings.implementation import Implementation


@dataclasses.dataclass(frozen=True)
class Fold:
    """Linear rearrangements that turn a 3-D convolution into a 2-D one over `[B, H, W, C]`.

    Attributes:
      x: input of the 3-D convolution to input of the 2-D one.
      w: kernel of the 3-D convolution to kernel of the 2-D one.
      y: result of the 2-D convolution to result of the 3-D one.
      strides: strides (h, w) of the 2-D convolution.
      pads: its padding.
      g: transpose of `y`; None (default) uses JAX's transpose.
    """

    x: Callable[[jax.Array], jax.Array]
    w: Callable[[jax.Array], jax.Array]
    y: Callable[[jax.Array], jax.Array]
    strides: tuple[int, int]
    pads: Pads
    g: Callable[[jax.Array], jax.Array] | None = None


def merge_time(x):
    """`[N, T, H, W, C]` to `[N * T, H, W, C]`."""
    return x.reshape(-1, *x.shape[2:])


def implementation(
    fold_of: Callable[[Geometry], Fold], fits: Callable[[Geometry, bool], bool]
) -> Implementation:
    """Returns the implementation that a fold describes."""

    def forward(x, w, geometry):
        fold = fold_of(geometry)
        return fold.y(conv2d.forward(fold.x(x), fold.w(w), fold.strides, fold.pads))

    def input_gradient(g, w, geometry):
        fold, x = fold_of(geometry), x_like(g, w, geometry)
        x2, _, y2 = _shapes(fold, x, w)
        dx2 = conv2d.dx(_folded_g(fold, y2, g), fold.w(w), x2, fold.strides, fold.pads)
        return jax.linear_transpose(fold.x, x)(dx2)[0]

    return Implementation(forward, input_gradient, weight_gradient_by(fold_of, conv2d.dw), fits)


def weight_gradient_by(fold_of: Callable[[Geometry], Fold], dw_2d: Callable[..., jax.Array]):
    """Returns a 3-D weight gradient computed by a 2-D one with the signature of `conv2d.dw`."""

    def weight_gradient(x, g, geometry):
        fold, w = fold_of(geometry), w_like(x, g, geometry)
        _, w2, y2 = _shapes(fold, x, w)
        g2 = _folded_g(fold, y2, g)
        dw2 = dw_2d(fold.x(x), g2, w2, fold.strides, fold.pads)
        return jax.linear_transpose(fold.w, w)(dw2)[0]

    return weight_gradient


def _shapes(fold: Fold, x, w):
    x2, w2 = jax.eval_shape(fold.x, x), jax.eval_shape(fold.w, w)
    y2 = jax.eval_shape(lambda x, w: conv2d.forward(x, w, fold.strides, fold.pads), x2, w2)
    return x2, w2, y2


def _folded_g(fold: Fold, y2, g):
    return fold.g(g) if fold.g else jax.linear_transpose(fold.y, y2)(g)[0]
