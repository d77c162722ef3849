"""Pooling over `[N, T, H, W, C]`, with the padding conventions of `layers.conv`."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxvideo.layers.conv import Padding, explicit_padding


def max_pool(
    x: jax.Array, kernel: Sequence[int], strides: Sequence[int], padding: Padding = 0
) -> jax.Array:
    """Computes the maximum of each window.

    Padding counts as -inf. In a tie, the gradient goes to the first maximum in row-major order, as
    in torch.

    Args:
      x: `[N, T, H, W, C]`.
      kernel: size of the window (t, h, w).
      strides: (t, h, w).
      padding: see `layers.conv.explicit_padding`.

    Returns:
      `[N, T', H', W', C]`.

    Example:
      >>> max_pool(jnp.ones((1, 4, 8, 8, 3)), (1, 3, 3), (1, 2, 2), (0, 1, 1)).shape
      (1, 4, 4, 4, 3)
    """
    pads = explicit_padding(padding, x.shape[1:4], kernel, strides)
    return _max_pool(x, tuple(kernel), tuple(strides), pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x, *window):
    return lax.platform_dependent(x, **_implementations(window))


def _max_pool_forward(x, *window):
    return _max_pool(x, *window), x


def _max_pool_backward(*window_x_g):
    *window, x, g = window_x_g

    def gradient(forward):
        return lambda x, g: jax.vjp(forward, x)[1](g)

    gradients = {name: gradient(forward) for name, forward in _implementations(window).items()}
    return lax.platform_dependent(x, g, **gradients)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _implementations(window):
    """One function per platform. TPUs are two to three times as fast with whole windows."""
    kernel, strides, pads = window
    return {
        "tpu": lambda x: _by_window(x, kernel, strides, pads),
        "default": lambda x: _by_axis(x, kernel, strides, pads),
    }


def _by_window(x, kernel, strides, pads):
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, *kernel, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0))
    )


def _by_axis(x, kernel, strides, pads):
    """Compares shifted slices, one axis at a time.

    The gradient is then a few selects. XLA's select-and-scatter is slow on CPUs and not
    deterministic on GPUs. The first of equal values on each axis, width first, is the first in
    row-major order.
    """
    for axis in (3, 2, 1):
        x = _max_along(x, axis, kernel[axis - 1], strides[axis - 1], pads[axis - 1])
    return x


def _max_along(x, axis, k, stride, pad):
    if k == 1 and stride == 1 and not any(pad):
        return x
    if any(pad):
        widths = [(0, 0)] * x.ndim
        widths[axis] = pad
        x = jnp.pad(x, widths, constant_values=-jnp.inf)
    out = (x.shape[axis] - k) // stride + 1

    def slice_of(tap):
        return lax.slice_in_dim(x, tap, tap + (out - 1) * stride + 1, stride, axis)

    best = slice_of(0)
    for tap in range(1, k):
        here = slice_of(tap)
        # A NaN is a maximum, so that it reaches the loss, at which training stops.
        best = jnp.where((here > best) | jnp.isnan(here), here, best)
    return best


def avg_pool(
    x: jax.Array, kernel: Sequence[int], strides: Sequence[int], padding: Padding = 0
) -> jax.Array:
    """Computes the mean of each window; padding counts as zeros and is part of the divisor.

    Args:
      x: `[N, T, H, W, C]`.
      kernel: size of the window (t, h, w).
      strides: (t, h, w).
      padding: see `layers.conv.explicit_padding`.

    Returns:
      `[N, T', H', W', C]`.

    Example:
      >>> avg_pool(jnp.ones((1, 4, 8, 8, 3)), (2, 7, 7), (1, 1, 1)).shape
      (1, 3, 2, 2, 3)
    """
    pads = explicit_padding(padding, x.shape[1:4], kernel, strides)
    zero = np.zeros((), x.dtype)
    total = lax.reduce_window(
        x, zero, lax.add, (1, *kernel, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0))
    )
    return total / np.prod(kernel).astype(x.dtype)
