"""GROUP_BY_GROUP: a grouped convolution as a loop over plain ones.

XLA's CPU backend computes grouped convolutions up to 40 times as slowly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxvideo.layers.geometry import Pass
from jaxvideo.layers.lowerings.choice import resolve_cpu
from jaxvideo.layers.lowerings.implementation import Function, Implementation

#: Groups with fewer channels are merged, by kernels that are block diagonal.
_MIN_CHANNELS = 8


def implementation(compute: Callable[..., jax.Array]) -> Implementation:
    """Returns the implementation; `compute` computes a plain convolution by any lowering."""
    forward, input_gradient, weight_gradient = (_loop(what, compute) for what in Pass)
    return Implementation(
        forward,
        input_gradient,
        weight_gradient,
        fits=lambda geometry, depthwise: geometry.groups != 1,
    )


def _loop(what: Pass, compute: Callable[..., jax.Array]) -> Function:
    def run(a, b, geometry):
        groups = geometry.groups
        plain = dataclasses.replace(geometry, groups=1)
        width = min(a.shape[-1], b.shape[-1]) // groups
        merged = next(
            d
            for d in range(1, groups + 1)
            if groups % d == 0 and (d * width >= _MIN_CHANNELS or d == groups)
        )
        parts = groups // merged
        a = _split_channels(a, parts)
        if what is Pass.WEIGHT_GRADIENT:
            b = _split_channels(b, parts)
            channels = a.shape[-1], b.shape[-1]
        else:
            b = _block_diagonal(b, parts, merged)
            channels = b.shape[-2:]
        lowering = resolve_cpu(what, plain, *channels)

        y = lax.map(lambda ab: compute(what, lowering, *ab, plain), (a, b))
        if what is Pass.WEIGHT_GRADIENT:
            y = _diagonal_blocks(y, merged)
        return jnp.moveaxis(y, 0, -2).reshape(*y.shape[1:-1], -1)

    return run


def _split_channels(x, parts):
    """`[..., C]` to `[parts, ..., C / parts]`."""
    return jnp.moveaxis(x.reshape(*x.shape[:-1], parts, -1), -2, 0)


def _block_diagonal(w, parts, merged):
    """`[k, k, k, C / groups, D]` to `[parts, k, k, k, merged C / groups, D / parts]`."""
    *k, c, _ = w.shape
    w = w.reshape(*k, c, parts, merged, -1)
    blocks = jnp.einsum("tijcpgd,gh->ptijhcgd", w, jnp.eye(merged, dtype=w.dtype))
    return blocks.reshape(parts, *k, merged * c, -1)


def _diagonal_blocks(w, merged):
    """The transpose of `_block_diagonal`."""
    parts, *k, c, d = w.shape
    w = w.reshape(parts, *k, merged, c // merged, merged, d // merged)
    return jnp.einsum("ptijgcgd->ptijcgd", w).reshape(parts, *k, c // merged, d)
