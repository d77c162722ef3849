"""UNFOLD: im2col, one block at a time.

The inputs under all taps form a matrix `[positions, taps * C]`, which is multiplied with the
kernel. The whole matrix would be `taps` times as large as the input; a block of rows or frames
stays in a CPU's caches. This is fastest where XLA's 2-D convolution is slow: with strides, and on
deep, small maps.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxvideo.layers.geometry import Geometry, divisor, padded, turned
from jaxvideo.layers.lowerings import time_to_channels
from jaxvideo.layers.lowerings.implementation import Implementation, ungrouped

_UNFOLDED_BYTES = 2 << 20


def forward(x, w, geometry: Geometry):
    """`(x, w) -> y`."""
    x = padded(x, geometry.pads)
    matrix = w.reshape(-1, w.shape[-1])
    clips, out = x.shape[0], geometry.out_size
    # The kernel is read once per block, so a large kernel needs large blocks.
    most = max(_UNFOLDED_BYTES, 4 * w.size) // (4 * matrix.shape[0] * out[2])  # rows
    rows = divisor(out[1], most)
    frames = divisor(out[0], most // rows) if rows == out[1] else 1
    together = divisor(clips, most // (rows * frames)) if frames == out[0] else 1
    block = (together, frames, rows)
    blocks = (clips // together, out[0] // frames, out[1] // rows)
    strides = (*geometry.strides, 1)
    extents = [
        (n - 1) * stride + k
        for n, stride, k in zip(
            (frames, rows, out[2]), geometry.strides, geometry.kernel, strict=True
        )
    ]

    def some(index):
        clip, frame, row = jnp.unravel_index(index, blocks)
        start = (clip * together, frame * frames * strides[0], row * rows * strides[1], 0, 0)
        here = lax.dynamic_slice(x, start, (together, *extents, x.shape[-1]))
        taps = []
        for tap in np.ndindex(*geometry.kernel):
            ends = [
                first + (n - 1) * stride + 1
                for first, n, stride in zip(
                    tap, (frames, rows, out[2]), geometry.strides, strict=True
                )
            ]
            taps.append(
                lax.slice(here, (0, *tap, 0), (together, *ends, x.shape[-1]), (1, *strides))
            )
        unfolded = jnp.concatenate(taps, axis=-1).reshape(-1, matrix.shape[0])
        product = jnp.matmul(unfolded, matrix, preferred_element_type=jnp.float32)
        return product.astype(x.dtype).reshape(*block, out[2], -1)

    # Blocks run over rows, then frames, then clips, which is the order of the result.
    return lax.map(some, jnp.arange(np.prod(blocks))).reshape(clips, *out, -1)


def input_gradient(g, w, geometry: Geometry):
    """`(g, w) -> dx`: the convolution of the gradient with the reversed kernel."""
    if geometry.strides == (1, 1, 1):
        return forward(*turned(g, w, geometry))
    return time_to_channels.IMPLEMENTATION.input_gradient(g, w, geometry)  # phases of stride 1


IMPLEMENTATION = Implementation(
    forward,
    input_gradient,
    time_to_channels.IMPLEMENTATION.weight_gradient,
    fits=ungrouped(lambda geometry: True),
)
