"""WINOGRAD: minimal filtering for 3 x 3 kernels in space with stride 1.

F(2 x 2, 3 x 3) of Lavin and Gray, "Fast algorithms for convolutional neural networks" (arXiv
1509.09308), is applied to every frame. A tile of 2 x 2 results is computed from 4 x 4 inputs with
16 multiplications instead of 36, as 16 matrix products over all tiles. Taps in time become 16
convolutions of tiles along time.

The rounding error is about twice that of the plain sum. The paper's larger tiles lose more digits
and are not used. Arithmetic is f32 for all operands, because sums of bf16 numbers would lose two
more bits before the multiplication.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from jaxvideo.layers.geometry import Geometry, divisor, padded, turned, x_like
from jaxvideo.layers.lowerings import fold_time, time_from_channels
from jaxvideo.layers.lowerings.folding import weight_gradient_by
from jaxvideo.layers.lowerings.implementation import Implementation, ungrouped

# Bytes of frames and results that one iteration transforms, so that they are still in the caches
# when they are multiplied. Half or twice as many is 10 % slower.
_TRANSFORMED_BYTES = 13 << 20


def fits(geometry: Geometry) -> bool:
    """Returns True for k x 3 x 3 kernels of stride 1; without taps in time, of any time stride."""
    (kt, *k), (st, *s) = geometry.kernel, geometry.strides
    return k == [3, 3] and s == [1, 1] and (st == 1 or kt == 1)


def _tiles(x, rows, columns):
    """B' d B of every 4 x 4 tile, at steps of 2: 16 arrays `[B * rows * columns, C]`."""

    def along(x, axis, tiles):
        a, b, c, d = (lax.slice_in_dim(x, i, i + 2 * tiles - 1, 2, axis) for i in range(4))
        return a - c, b + c, c - b, b - d

    return [
        tile.reshape(-1, x.shape[-1])
        for part in along(x, 1, rows)
        for tile in along(part, 2, columns)
    ]


# The paper's matrix G is written as sums: `custom_partitioning` refuses functions that close over
# an array.


def _kernels(w):
    """G w G' of the kernels `[T, 3, 3, C, D]`: `[16, T, 1, C, D]`."""

    def along(w, axis):
        a, b, c = (jnp.take(w, i, axis) for i in range(3))
        return jnp.stack([a, (a + b + c) / 2, (a - b + c) / 2, c])

    return along(along(w, 2), 2).reshape(16, w.shape[0], 1, *w.shape[3:])


def _kernel_gradient(totals):
    """G' m G of 16 matrices `[C, D]`, the transpose of `_kernels`: `[3, 3, C, D]`."""

    def along(a, b, c, d):
        half, difference = (b + c) / 2, (b - c) / 2
        return jnp.stack([a + half, difference, half + d])

    rows = [along(*totals[4 * i : 4 * i + 4]) for i in range(4)]  # G' along the columns
    return along(*rows)


def _results(products, shape):
    """A' m A of 16 products, as images `[B, 2 rows, 2 columns, D]`; shape = [B, rows, columns]."""
    m = [product.reshape(*shape, -1) for product in products]
    quads = [m[4 * i : 4 * i + 4] for i in range(4)]
    upper = [a + b + c for a, b, c, _ in zip(*quads, strict=True)]
    lower = [b - c - d for _, b, c, d in zip(*quads, strict=True)]
    lines = [jnp.stack([a + b + c, b - c - d], axis=3) for a, b, c, d in (upper, lower)]
    y = jnp.stack(lines, axis=2)
    return y.reshape(shape[0], 2 * shape[1], 2 * shape[2], -1)


def _gradients(g):
    """A g A' of every 2 x 2 tile: 16 arrays `[B * rows * columns, D]`."""

    def along(g, axis):
        a, b = (lax.slice_in_dim(g, i, None, 2, axis) for i in (0, 1))
        return a, a + b, a - b, -b

    return [tile.reshape(-1, g.shape[-1]) for part in along(g, 1) for tile in along(part, 2)]


def _frames_together(frames: int, rows: int, columns: int, channels: int) -> int:
    return divisor(frames, _TRANSFORMED_BYTES // (16 * rows * columns * channels * 4))


def forward(x, w, geometry: Geometry):
    """`(x, w) -> y`, one clip per iteration, or some frames if the kernel has one tap in time."""
    clips, frames = x.shape[0], geometry.out_size[0]
    in_time, (top, bottom), (left, right) = geometry.pads
    _, height, width = geometry.out_size
    rows, columns = -(-height // 2), -(-width // 2)
    kt, _, _, c, d = w.shape
    if kt == 1:
        x = padded(x, (in_time,))[:, :: geometry.strides[0]]
        together = _frames_together(clips * frames, rows, columns, c + d)
        x = x.reshape(-1, together, *x.shape[2:])
    else:
        together = frames
    odd = ((top, bottom + 2 * rows - height), (left, right + 2 * columns - width))
    x = padded(x, ((0, 0), *odd))
    kernels = _kernels(w.astype(jnp.float32))

    def product(tiles, kernel):
        if kt == 1:
            return tiles @ kernel[0, 0]
        tiles = tiles.reshape(1, x.shape[1], -1, c)
        layout = ("NHWC", "HWIO", "NHWC")
        pads = (in_time, (0, 0))
        return lax.conv_general_dilated(tiles, kernel, (1, 1), pads, dimension_numbers=layout)

    def some(images):
        tiles = _tiles(images.astype(jnp.float32), rows, columns)
        products = [product(tile, kernel) for tile, kernel in zip(tiles, kernels, strict=True)]
        return _results(products, (together, rows, columns)).astype(x.dtype)

    y = lax.map(some, x).reshape(clips, frames, 2 * rows, 2 * columns, d)
    return y[:, :, :height, :width]


def input_gradient(g, w, geometry: Geometry):
    """`(g, w) -> dx`: the convolution of the gradient with the reversed kernel."""
    if geometry.kernel[0] > 1:
        return forward(*turned(g, w, geometry))

    def frames(x):
        return padded(x, geometry.pads[:1])[:, :: geometry.strides[0]]

    in_space = dataclasses.replace(geometry, strides=(1, 1, 1), pads=((0, 0), *geometry.pads[1:]))
    dx = forward(*turned(g, w, in_space))
    return jax.linear_transpose(frames, x_like(g, w, geometry))(dx)[0]


def dw_2d(x, g, w, strides, pads):
    """Weight gradient of a 2-D convolution with the signature of `conv2d.dw`; strides are 1."""
    del strides
    batch, height, width, d = g.shape
    c = x.shape[-1]
    rows, columns = -(-height // 2), -(-width // 2)
    odd = (2 * rows - height, 2 * columns - width)
    (top, bottom), (left, right) = pads
    x = padded(x, ((top, bottom + odd[0]), (left, right + odd[1])))
    g = padded(g, ((0, odd[0]), (0, odd[1])))
    block = _frames_together(batch, rows, columns, c + d)

    def accumulate(totals, operands):
        images, gradients = (operand.astype(jnp.float32) for operand in operands)
        pairs = zip(_tiles(images, rows, columns), _gradients(gradients), strict=True)
        products = [
            lax.dot_general(tile, gradient, (((0,), (0,)), ((), ()))) for tile, gradient in pairs
        ]
        return [total + product for total, product in zip(totals, products, strict=True)], None

    blocks = (x.reshape(-1, block, *x.shape[1:]), g.reshape(-1, block, *g.shape[1:]))
    zeros = [jnp.zeros((c, d), jnp.float32)] * 16
    totals, _ = lax.scan(accumulate, zeros, blocks)
    return _kernel_gradient(totals).astype(w.dtype)


def weight_gradient(x, g, geometry: Geometry):
    """`(x, g) -> dw`."""
    fold = fold_time.fold if geometry.kernel[0] == 1 else time_from_channels.fold
    return weight_gradient_by(fold, dw_2d)(x, g, geometry)


IMPLEMENTATION = Implementation(forward, input_gradient, weight_gradient, ungrouped(fits))
