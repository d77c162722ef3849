"""3-D convolutions as 2-D ones: four rearrangements of time or space, and their gradients."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxvideo.layers import conv2d
from jaxvideo.layers.geometry import Geometry, Pads, padded, w_like, x_like


@dataclasses.dataclass(frozen=True)
class Fold:
    """Linear rearrangements that make a 3-D convolution a 2-D one of `[B, H, W, C]`."""

    x: Callable[[jax.Array], jax.Array]
    w: Callable[[jax.Array], jax.Array]
    y: Callable[[jax.Array], jax.Array]  # from the 2-D result to the 3-D one
    strides: tuple[int, int]
    pads: Pads
    #: Transpose of `y`, where the one that JAX derives is slow.
    g: Callable[[jax.Array], jax.Array] | None = None


def _merge_time(x):
    return x.reshape(-1, *x.shape[2:])


def fold_time(geometry: Geometry) -> Fold:
    """(1, k, k): frames are images."""
    frames = geometry.out_size[0]
    return Fold(
        x=lambda x: _merge_time(padded(x, geometry.pads[:1])[:, :: geometry.strides[0]]),
        w=lambda w: w[0],
        y=lambda y: y.reshape(-1, frames, *y.shape[1:]),
        strides=geometry.strides[1:],
        pads=geometry.pads[1:],
    )


def fold_space(geometry: Geometry) -> Fold:
    """(k, 1, 1): the clip is an image, T high and H*W wide."""
    _, height, width = geometry.out_size
    _, sh, sw = geometry.strides

    def x(x):
        x = padded(x, ((0, 0), *geometry.pads[1:]))[:, :, ::sh, ::sw]
        return x.reshape(*x.shape[:2], -1, x.shape[-1])

    return Fold(
        x=x,
        w=lambda w: w[:, :, 0],
        y=lambda y: y.reshape(*y.shape[:2], height, width, y.shape[-1]),
        strides=(geometry.strides[0], 1),
        pads=(geometry.pads[0], (0, 0)),
    )


def time_to_channels(geometry: Geometry) -> Fold:
    """The frames under a kernel's time taps, side by side in the channels."""
    kt, stride, frames = geometry.kernel[0], geometry.strides[0], geometry.out_size[0]

    def x(x):
        x = padded(x, geometry.pads[:1])
        taps = [
            lax.slice_in_dim(x, k, k + (frames - 1) * stride + 1, stride, axis=1) for k in range(kt)
        ]
        return _merge_time(jnp.concatenate(taps, axis=-1))

    def w(w):
        return w.transpose(1, 2, 0, 3, 4).reshape(*w.shape[1:3], -1, w.shape[-1])

    return Fold(
        x=x,
        w=w,
        y=lambda y: y.reshape(-1, frames, *y.shape[1:]),
        strides=geometry.strides[1:],
        pads=geometry.pads[1:],
    )


def time_from_channels(geometry: Geometry) -> Fold:
    """Every frame under every time tap, side by side in the result's channels, then summed.

    The mirror image of `time_to_channels`: as many multiplications (none for padding), a
    result instead of an input that is kt times as large. Stride 1 in time.
    """
    kt, frames = geometry.kernel[0], geometry.in_size[0]
    (before, after), out = geometry.pads[0], geometry.out_size[0]

    def w(w):
        return w.transpose(1, 2, 3, 0, 4).reshape(*w.shape[1:4], -1)

    def y(y):
        y = padded(y.reshape(-1, frames, *y.shape[1:]), ((before, after),))
        d = y.shape[-1] // kt
        taps = [y[:, k : k + out, ..., k * d : (k + 1) * d] for k in range(kt)]
        return functools.reduce(jnp.add, taps)

    def g(g):
        # Tap k of frame t went into the result's frame t + before - k.
        widths = [(0, 0, 0), (kt - 1 - before, kt - 1 - after, 0), *[(0, 0, 0)] * 3]
        g = lax.pad(g, jnp.zeros((), g.dtype), widths)
        taps = [lax.slice_in_dim(g, kt - 1 - k, kt - 1 - k + frames, axis=1) for k in range(kt)]
        return _merge_time(jnp.concatenate(taps, axis=-1))

    return Fold(
        x=_merge_time,
        w=w,
        y=y,
        strides=geometry.strides[1:],
        pads=geometry.pads[1:],
        g=g,
    )


def folded(fold_of: Callable[[Geometry], Fold], dw_2d=conv2d.dw):
    """The three passes of a fold, by the three of a 2-D convolution."""

    def shapes(fold, x, w):
        x2, w2 = jax.eval_shape(fold.x, x), jax.eval_shape(fold.w, w)
        y2 = jax.eval_shape(lambda x, w: conv2d.forward(x, w, fold.strides, fold.pads), x2, w2)
        return x2, w2, y2

    def unfold_g(fold, y2, g):
        return fold.g(g) if fold.g else jax.linear_transpose(fold.y, y2)(g)[0]

    def forward(x, w, geometry):
        fold = fold_of(geometry)
        return fold.y(conv2d.forward(fold.x(x), fold.w(w), fold.strides, fold.pads))

    def input_gradient(g, w, geometry):
        fold, x = fold_of(geometry), x_like(g, w, geometry)
        x2, _, y2 = shapes(fold, x, w)
        g2 = unfold_g(fold, y2, g)
        dx2 = conv2d.dx(g2, fold.w(w), x2, fold.strides, fold.pads)
        return jax.linear_transpose(fold.x, x)(dx2)[0]

    def weight_gradient(x, g, geometry):
        fold, w = fold_of(geometry), w_like(x, g, geometry)
        _, w2, y2 = shapes(fold, x, w)
        g2 = unfold_g(fold, y2, g)
        dw2 = dw_2d(fold.x(x), g2, w2, fold.strides, fold.pads)
        return jax.linear_transpose(fold.w, w)(dw2)[0]

    return forward, input_gradient, weight_gradient
