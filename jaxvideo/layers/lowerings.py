"""The ways of computing a 3-D convolution and its two gradients, and which one to take.

A convolution is linear in its input and in its kernel, so its gradients are two more bilinear
maps, and the three are each other's transposes:

    FORWARD          (x, w) -> y
    INPUT_GRADIENT   (g, w) -> dx
    WEIGHT_GRADIENT  (x, g) -> dw

They differ so much in speed that each has its own choice (`resolve`). Most ways fold the
convolution into a 2-D one (`Fold`: three rearrangements) and compute that plainly or by
Winograd's minimal filtering.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxvideo.layers import conv2d, space_to_depth, unfold, winograd
from jaxvideo.layers.geometry import Geometry, Pads, Pass, padded
from jaxvideo.types import Lowering


def compute(
    what: Pass, lowering: Lowering, a: jax.Array, b: jax.Array, geometry: Geometry
) -> jax.Array:
    """One pass by one lowering; `a` and `b` as in the table above, `lowering` not AUTO."""
    forward, input_gradient, weight_gradient = _LOWERINGS[lowering]
    if what is Pass.FORWARD:
        return forward(a, b, geometry)
    if what is Pass.INPUT_GRADIENT:
        return input_gradient(a, b, geometry)
    return weight_gradient(a, b, geometry)


def fits(lowering: Lowering, geometry: Geometry, depthwise: bool) -> bool:
    """Whether a lowering can compute this convolution; `depthwise`: one channel per group."""
    kt, kh, kw = geometry.kernel
    st, sh, sw = geometry.strides
    if lowering is Lowering.SHIFT:
        return depthwise
    if geometry.groups != 1:
        return lowering is Lowering.DIRECT
    return {
        Lowering.DIRECT: True,
        Lowering.FOLD_TIME: kt == 1,
        Lowering.FOLD_SPACE: kh == kw == 1,
        Lowering.TIME_TO_CHANNELS: True,
        Lowering.TIME_FROM_CHANNELS: st == 1,
        Lowering.WINOGRAD: kh == kw == 3 and sh == sw == 1 and (st == 1 or kt == 1),
        Lowering.MATMUL: kt == kh == kw == 1,
        Lowering.SPACE_TO_DEPTH: True,
        Lowering.UNFOLD: True,
    }[lowering]


# --- DIRECT: XLA's own --------------------------------------------------------------------


def _direct(x, w, geometry):
    return lax.conv_general_dilated(
        x,
        w,
        geometry.strides,
        geometry.pads,
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        feature_group_count=geometry.groups,
    )


def _x_like(g, w, geometry):
    return jax.ShapeDtypeStruct(
        (g.shape[0], *geometry.in_size, w.shape[3] * geometry.groups), g.dtype
    )


def _w_like(x, g, geometry):
    channels = x.shape[-1] // geometry.groups
    return jax.ShapeDtypeStruct((*geometry.kernel, channels, g.shape[-1]), x.dtype)


def _transposed_dx(forward):
    def input_gradient(g, w, geometry):
        linear = jax.linear_transpose(lambda x: forward(x, w, geometry), _x_like(g, w, geometry))
        return linear(g)[0]

    return input_gradient


def _transposed_dw(forward):
    def weight_gradient(x, g, geometry):
        linear = jax.linear_transpose(lambda w: forward(x, w, geometry), _w_like(x, g, geometry))
        return linear(g)[0]

    return weight_gradient


def _with_transposes(forward):
    return forward, _transposed_dx(forward), _transposed_dw(forward)


# --- MATMUL: a 1x1x1 kernel is a matrix ---------------------------------------------------


def _matmul(x, w, geometry):
    st, sh, sw = geometry.strides
    return padded(x, geometry.pads)[:, ::st, ::sh, ::sw] @ w[0, 0, 0]


# --- SHIFT: a depthwise kernel is a sum of shifted, scaled copies -------------------------


def _taps(x, geometry):
    """The input's strided slices under each tap of the kernel, row-major."""
    x = padded(x, geometry.pads)
    for offset in np.ndindex(*geometry.kernel):
        ends = [
            o + (out - 1) * stride + 1
            for o, out, stride in zip(offset, geometry.out_size, geometry.strides, strict=True)
        ]
        yield (
            offset,
            lax.slice(
                x,
                (0, *offset, 0),
                (x.shape[0], *ends, x.shape[-1]),
                (1, *geometry.strides, 1),
            ),
        )


def _shift(x, w, geometry):
    y = 0.0
    for offset, tap in _taps(x, geometry):
        y = y + tap.astype(jnp.float32) * w[offset][0].astype(jnp.float32)
    return y.astype(x.dtype)


def _shift_dw(x, g, geometry):
    g = g.astype(jnp.float32)
    sums = [(tap * g).sum((0, 1, 2, 3)) for _, tap in _taps(x, geometry)]
    return jnp.stack(sums).reshape(*geometry.kernel, 1, g.shape[-1]).astype(x.dtype)


# --- Folds: 3-D convolutions as 2-D ones --------------------------------------------------


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


def _fold_time(geometry: Geometry) -> Fold:
    """(1, k, k): frames are images."""
    frames = geometry.out_size[0]
    return Fold(
        x=lambda x: _merge_time(padded(x, geometry.pads[:1])[:, :: geometry.strides[0]]),
        w=lambda w: w[0],
        y=lambda y: y.reshape(-1, frames, *y.shape[1:]),
        strides=geometry.strides[1:],
        pads=geometry.pads[1:],
    )


def _fold_space(geometry: Geometry) -> Fold:
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


def _time_to_channels(geometry: Geometry) -> Fold:
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


def _time_from_channels(geometry: Geometry) -> Fold:
    """Every frame under every time tap, side by side in the result's channels, then summed.

    The mirror image of `_time_to_channels`: as many multiplications (none for padding), a
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


def _folded(fold_of: Callable[[Geometry], Fold], dw_2d=conv2d.dw):
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
        fold, x = fold_of(geometry), _x_like(g, w, geometry)
        x2, _, y2 = shapes(fold, x, w)
        g2 = unfold_g(fold, y2, g)
        dx2 = conv2d.dx(g2, fold.w(w), x2, fold.strides, fold.pads)
        return jax.linear_transpose(fold.x, x)(dx2)[0]

    def weight_gradient(x, g, geometry):
        fold, w = fold_of(geometry), _w_like(x, g, geometry)
        _, w2, y2 = shapes(fold, x, w)
        g2 = unfold_g(fold, y2, g)
        dw2 = dw_2d(fold.x(x), g2, w2, fold.strides, fold.pads)
        return jax.linear_transpose(fold.w, w)(dw2)[0]

    return forward, input_gradient, weight_gradient


# --- WINOGRAD -----------------------------------------------------------------------------


def _winograd_dw(x, g, geometry):
    fold = _fold_time if geometry.kernel[0] == 1 else _time_from_channels
    return _folded(fold, winograd.dw_2d)[2](x, g, geometry)


# --- UNFOLD -------------------------------------------------------------------------------


def _unfold_dx(g, w, geometry):
    if geometry.strides == (1, 1, 1):
        return unfold.input_gradient(g, w, geometry)
    return _folded(_time_to_channels)[1](g, w, geometry)  # its phases have no strides


# --- The table ----------------------------------------------------------------------------

#: (forward, input gradient, weight gradient), each `(a, b, geometry) -> array`.
_LOWERINGS: dict[Lowering, tuple[Callable, Callable, Callable]] = {
    Lowering.DIRECT: _with_transposes(_direct),
    Lowering.SPACE_TO_DEPTH: _with_transposes(space_to_depth.forward),
    Lowering.MATMUL: _with_transposes(_matmul),
    Lowering.SHIFT: (_shift, _transposed_dx(_shift), _shift_dw),
    Lowering.FOLD_TIME: _folded(_fold_time),
    Lowering.FOLD_SPACE: _folded(_fold_space),
    Lowering.TIME_TO_CHANNELS: _folded(_time_to_channels),
    Lowering.TIME_FROM_CHANNELS: _folded(_time_from_channels),
    Lowering.UNFOLD: (unfold.forward, _unfold_dx, _folded(_time_to_channels)[2]),
    Lowering.WINOGRAD: (winograd.forward, winograd.input_gradient, _winograd_dw),
}


def resolve(
    platform: str, what: Pass, geometry: Geometry, in_channels: int, features: int
) -> Lowering:
    """The lowering that AUTO stands for: a pure function of platform, pass and shapes."""
    if geometry.groups != 1:
        depthwise = geometry.groups == in_channels == features
        return Lowering.SHIFT if depthwise else Lowering.DIRECT
    if platform == "cpu":
        return _resolve_cpu(what, geometry, min(in_channels, features))
    if platform == "tpu" and space_to_depth.pays(geometry, in_channels, features):
        return Lowering.SPACE_TO_DEPTH
    return Lowering.DIRECT


def _resolve_cpu(what: Pass, geometry: Geometry, channels: int) -> Lowering:
    """By `benchmarks/conv.py` on 2 cores of an x86 with AVX-512; `channels`: the fewer."""
    kt, kh, kw = geometry.kernel
    area = geometry.out_size[1] * geometry.out_size[2]
    if kt == kh == kw == 1:
        strided = geometry.strides != (1, 1, 1)
        if what is Pass.WEIGHT_GRADIENT or (strided and what is Pass.INPUT_GRADIENT):
            return Lowering.FOLD_SPACE
        return Lowering.MATMUL
    if kh == kw == 1:
        return Lowering.FOLD_SPACE
    # On small maps the transformed kernels outweigh the tiles, with few channels the
    # transforms outweigh the products.
    least = 20 * 20 if kt > 1 and what is not Pass.WEIGHT_GRADIENT else 14 * 14
    if fits(Lowering.WINOGRAD, geometry, False) and area >= least and channels >= 32:
        return Lowering.WINOGRAD
    if kt == 1:
        return Lowering.FOLD_TIME
    small, strided = area < 100, geometry.strides != (1, 1, 1)
    if channels >= 32 and (
        (what is Pass.FORWARD and (small or strided))
        or (what is Pass.INPUT_GRADIENT and small and not strided)
    ):
        return Lowering.UNFOLD
    if small and fits(Lowering.TIME_FROM_CHANNELS, geometry, False):
        return Lowering.TIME_FROM_CHANNELS
    return Lowering.TIME_TO_CHANNELS
