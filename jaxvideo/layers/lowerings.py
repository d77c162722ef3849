"""The ways of computing a 3-D convolution and its two gradients, and which one to take.

A convolution is linear in its input and in its kernel, so its gradients are two more bilinear
maps, and the three are each other's transposes:

    FORWARD          (x, w) -> y
    INPUT_GRADIENT   (g, w) -> dx
    WEIGHT_GRADIENT  (x, g) -> dw

They differ so much in speed that each has its own choice (`resolve`). The ways that take more
than a few lines have a file each: `folds`, `winograd`, `unfold`, `space_to_depth`, `depthwise`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxvideo.layers import conv2d, depthwise, folds, onednn, space_to_depth, unfold, winograd
from jaxvideo.layers.geometry import Geometry, Pass, padded, w_like, x_like
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
    if lowering is Lowering.ONEDNN:
        return onednn.fits(geometry)
    if lowering is Lowering.SHIFT:
        return depthwise
    if geometry.groups != 1:
        return lowering in (Lowering.DIRECT, Lowering.GROUP_BY_GROUP)
    return {
        Lowering.GROUP_BY_GROUP: False,
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


def _transposed_dx(forward):
    def input_gradient(g, w, geometry):
        linear = jax.linear_transpose(lambda x: forward(x, w, geometry), x_like(g, w, geometry))
        return linear(g)[0]

    return input_gradient


def _transposed_dw(forward):
    def weight_gradient(x, g, geometry):
        linear = jax.linear_transpose(lambda w: forward(x, w, geometry), w_like(x, g, geometry))
        return linear(g)[0]

    return weight_gradient


def _with_transposes(forward):
    return forward, _transposed_dx(forward), _transposed_dw(forward)


# --- MATMUL: a 1x1x1 kernel is a matrix ---------------------------------------------------


def _matmul(x, w, geometry):
    st, sh, sw = geometry.strides
    return padded(x, geometry.pads)[:, ::st, ::sh, ::sw] @ w[0, 0, 0]


def _matmul_dw(x, g, geometry):
    st, sh, sw = geometry.strides
    x = padded(x, geometry.pads)[:, ::st, ::sh, ::sw]
    return conv2d.rows_product(x, g).reshape(1, 1, 1, x.shape[-1], -1)


# --- WINOGRAD -----------------------------------------------------------------------------


def _winograd_dw(x, g, geometry):
    fold = folds.fold_time if geometry.kernel[0] == 1 else folds.time_from_channels
    return folds.folded(fold, winograd.dw_2d)[2](x, g, geometry)


# --- UNFOLD -------------------------------------------------------------------------------


def _unfold_dx(g, w, geometry):
    if geometry.strides == (1, 1, 1):
        return unfold.input_gradient(g, w, geometry)
    return folds.folded(folds.time_to_channels)[1](g, w, geometry)  # its phases have no strides


# --- GROUP_BY_GROUP: grouped convolutions as plain ones, in a loop -------------------------

#: Groups of fewer channels are taken together, as blocks of a kernel that is zero elsewhere.
_LEAST_GROUP = 8


def _by_group(what: Pass):
    def run(a, b, geometry):
        groups = geometry.groups
        alone = dataclasses.replace(geometry, groups=1)
        width = min(a.shape[-1], b.shape[-1]) // groups
        together = next(
            d
            for d in range(1, groups + 1)
            if groups % d == 0 and (d * width >= _LEAST_GROUP or d == groups)
        )
        parts = groups // together
        a = _channels_apart(a, parts)
        if what is Pass.WEIGHT_GRADIENT:
            b = _channels_apart(b, parts)
            channels = a.shape[-1], b.shape[-1]
        else:
            b = _block_diagonal(b, parts, together)
            channels = b.shape[-2:]
        lowering = _resolve_cpu(what, alone, *channels)

        y = lax.map(lambda ab: compute(what, lowering, *ab, alone), (a, b))
        if what is Pass.WEIGHT_GRADIENT:
            y = _diagonal_blocks(y, together)
        return jnp.moveaxis(y, 0, -2).reshape(*y.shape[1:-1], -1)

    return run


def _channels_apart(x, parts):
    return jnp.moveaxis(x.reshape(*x.shape[:-1], parts, -1), -2, 0)


def _block_diagonal(w, parts, together):
    """`[k, k, k, C / groups, D]` to `[parts, k, k, k, together C / groups, D / parts]`."""
    *k, c, _ = w.shape
    w = w.reshape(*k, c, parts, together, -1)
    blocks = jnp.einsum("tijcpgd,gh->ptijhcgd", w, jnp.eye(together, dtype=w.dtype))
    return blocks.reshape(parts, *k, together * c, -1)


def _diagonal_blocks(w, together):
    parts, *k, c, d = w.shape
    w = w.reshape(parts, *k, together, c // together, together, d // together)
    return jnp.einsum("ptijgcgd->ptijcgd", w).reshape(parts, *k, c // together, d)


# --- ONEDNN -------------------------------------------------------------------------------


def _onednn_dw(x, g, geometry):
    if geometry.groups != 1:
        depthwise_ = geometry.groups == x.shape[-1] == g.shape[-1]
        other = Lowering.SHIFT if depthwise_ else Lowering.GROUP_BY_GROUP
        return compute(Pass.WEIGHT_GRADIENT, other, x, g, geometry)
    return onednn.weight_gradient(x, g, geometry)


# --- The table ----------------------------------------------------------------------------

#: (forward, input gradient, weight gradient), each `(a, b, geometry) -> array`.
_LOWERINGS: dict[Lowering, tuple[Callable, Callable, Callable]] = {
    Lowering.DIRECT: _with_transposes(_direct),
    Lowering.SPACE_TO_DEPTH: _with_transposes(space_to_depth.forward),
    Lowering.MATMUL: (_matmul, _transposed_dx(_matmul), _matmul_dw),
    Lowering.SHIFT: (depthwise.forward, depthwise.input_gradient, depthwise.weight_gradient),
    Lowering.FOLD_TIME: folds.folded(folds.fold_time),
    Lowering.FOLD_SPACE: folds.folded(folds.fold_space),
    Lowering.TIME_TO_CHANNELS: folds.folded(folds.time_to_channels),
    Lowering.TIME_FROM_CHANNELS: folds.folded(folds.time_from_channels),
    Lowering.GROUP_BY_GROUP: (
        _by_group(Pass.FORWARD),
        _by_group(Pass.INPUT_GRADIENT),
        _by_group(Pass.WEIGHT_GRADIENT),
    ),
    Lowering.UNFOLD: (unfold.forward, _unfold_dx, folds.folded(folds.time_to_channels)[2]),
    Lowering.WINOGRAD: (winograd.forward, winograd.input_gradient, _winograd_dw),
    Lowering.ONEDNN: (onednn.forward, onednn.input_gradient, _onednn_dw),
}


def resolve(
    platform: str,
    what: Pass,
    geometry: Geometry,
    in_channels: int,
    features: int,
    *,
    engine: str = "",
) -> Lowering:
    """The lowering that AUTO stands for: a pure function of platform, pass and shapes.

    `engine` is how oneDNN computes this dtype on this CPU, see `onednn_probe.engine`; "" if it
    does not.
    """
    if engine and _onednn_pays(engine, what, geometry, in_channels, features):
        return Lowering.ONEDNN
    if geometry.groups != 1:
        if geometry.groups == in_channels == features:
            return _resolve_depthwise(platform, what, geometry)
        # XLA's CPU backend needs up to 40 times as long for 32 groups of 4 channels.
        return Lowering.GROUP_BY_GROUP if platform == "cpu" else Lowering.DIRECT
    if platform == "cpu":
        return _resolve_cpu(what, geometry, in_channels, features)
    if platform == "tpu" and space_to_depth.pays(geometry, in_channels, features):
        return Lowering.SPACE_TO_DEPTH
    return Lowering.DIRECT


def _onednn_pays(
    engine: str, what: Pass, geometry: Geometry, in_channels: int, features: int
) -> bool:
    """True if oneDNN is the fastest on this kind of shape, by `benchmarks/conv.py`."""
    if not onednn.fits(geometry):
        return False
    kt, kh, kw = geometry.kernel
    strided = geometry.strides != (1, 1, 1)
    area = geometry.out_size[1] * geometry.out_size[2]
    positions = area * geometry.out_size[0]
    if geometry.groups != 1:
        # A group has few channels: its input gradient by phases is mostly copies.
        return what is Pass.FORWARD or (what is Pass.INPUT_GRADIENT and not strided)
    if what is Pass.WEIGHT_GRADIENT:
        # A product per tap reads x and g once for each: it pays if these are small or few.
        if kt == kh == kw == 1:
            return positions > 1
        if kt * kh * kw > 27 or min(in_channels, features) < 32:
            return False
        if engine == "bfloat16":
            return True
        return area <= 7 * 7 or (kt > 1 and kh > 1 and strided and area <= 14 * 14)
    # Winograd's products are a fraction of the convolution's; vectors of 512 bits outweigh that.
    return not (engine == "avx2" and _winograd_pays(what, geometry, in_channels, features))


def _winograd_pays(what: Pass, geometry: Geometry, in_channels: int, features: int) -> bool:
    """True if WINOGRAD outdoes a direct convolution at full speed."""
    return (
        geometry.kernel[0] > 1
        and min(in_channels, features) >= 64
        and max(in_channels, features) >= 128
        and fits(Lowering.WINOGRAD, geometry, False)
        and _resolve_cpu(what, geometry, in_channels, features) is Lowering.WINOGRAD
    )


def _resolve_depthwise(platform: str, what: Pass, geometry: Geometry) -> Lowering:
    # Where the kernel reaches over space, XLA's own on a TPU sums over the positions of all taps
    # at once, and puts nothing between the columns of a strided one.
    strided_dx = what is Pass.INPUT_GRADIENT and geometry.strides != (1, 1, 1)
    if platform == "tpu" and geometry.kernel[1:] != (1, 1):
        return Lowering.DIRECT if what is Pass.WEIGHT_GRADIENT or strided_dx else Lowering.SHIFT
    return Lowering.SHIFT


def _resolve_cpu(what: Pass, geometry: Geometry, in_channels: int, features: int) -> Lowering:
    """By `benchmarks/conv.py` on 2 cores of an x86 with AVX-512."""
    channels, more = sorted((in_channels, features))
    kt, kh, kw = geometry.kernel
    area = geometry.out_size[1] * geometry.out_size[2]
    if kt == kh == kw == 1:
        if geometry.strides != (1, 1, 1) and what is not Pass.FORWARD:
            return Lowering.FOLD_SPACE
        return Lowering.MATMUL
    forward, dx = what is Pass.FORWARD, what is Pass.INPUT_GRADIENT
    # The side that becomes kt times as large should be the one with few channels.
    to_few = what is Pass.WEIGHT_GRADIENT and geometry.strides[0] == 1
    if kh == kw == 1:
        few = to_few and in_channels >= 3 * features
        return Lowering.TIME_FROM_CHANNELS if few else Lowering.FOLD_SPACE
    if to_few and kt > 1 and in_channels <= 4 and features <= 16:  # SlowFast's Fast stem
        return Lowering.TIME_FROM_CHANNELS
    small, strided = area < 100, geometry.strides != (1, 1, 1)
    # On small maps the transformed kernels outweigh the tiles, with few channels the
    # transforms outweigh the products.
    if forward or dx:
        large = area >= 14 * 14 and area * geometry.out_size[0] >= 2000 and channels >= 32
    else:
        enough = 32 if kt > 1 else 64 if more <= 128 else 128
        large = area >= 14 * 14 and channels >= enough
    if large and fits(Lowering.WINOGRAD, geometry, False):
        return Lowering.WINOGRAD
    if channels >= 32 and (
        (forward and (small or (strided and kt > 1 and area >= 20 * 20)))
        or (dx and small and not strided)
    ):
        return Lowering.UNFOLD
    if forward and channels <= 4 and kh * kw <= 9 and not strided:  # C3D's stem
        return Lowering.UNFOLD
    if kt == 1:
        return Lowering.FOLD_TIME
    if small and fits(Lowering.TIME_FROM_CHANNELS, geometry, False):
        return Lowering.TIME_FROM_CHANNELS
    return Lowering.TIME_TO_CHANNELS
