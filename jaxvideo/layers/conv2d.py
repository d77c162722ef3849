"""2-D convolution in three passes, by two algorithms: what most 3-D lowerings end in.

Arrays are `[B, H, W, C]`, kernels `[kh, kw, C, D]`, pads ((top, bottom), (left, right)). A
gradient gets the other's shape as an array or `ShapeDtypeStruct`:

    forward(x, w, strides, pads) -> y
    dx(g, w, x_like, strides, pads) -> dx
    dw(x, g, w_like, strides, pads) -> dw
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxvideo.layers.geometry import padded

# A CPU's loops unfold, or transform with their results, about this many bytes at a time, so
# that a block is still in the caches when it is multiplied. Half or twice is 10 % slower.
_UNFOLDED_BYTES = 2 << 20
_TRANSFORMED_BYTES = 13 << 20


def divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`, but at least 1."""
    return max(d for d in range(1, number + 1) if number % d == 0 and (d <= most or d == 1))


# --- By XLA, the weight gradient by blocks on a CPU ----------------------------------------


def xla_forward(x, w, strides, pads):
    return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def xla_dx(g, w, x, strides, pads):
    """No dilated convolution: input rows and columns of one phase of the stride meet only
    the kernel's taps of that phase, so each phase is a small convolution of its own.
    """
    (sh, sw), (height, width) = strides, x.shape[1:3]
    if strides == (1, 1):
        return jax.linear_transpose(lambda x: xla_forward(x, w, strides, pads), x)(g)[0]
    sizes = [
        -(-(size + sum(pad)) // stride)
        for size, pad, stride in zip((height, width), pads, strides, strict=True)
    ]
    after = [size - out for size, out in zip(sizes, g.shape[1:3], strict=True)]

    def phase(row, column):
        taps = w[row::sh, column::sw]
        if 0 in taps.shape[:2]:
            return jnp.zeros((g.shape[0], *sizes, w.shape[2]), g.dtype)
        padding = ((taps.shape[0] - 1, after[0]), (taps.shape[1] - 1, after[1]))
        return xla_forward(g, taps[::-1, ::-1].swapaxes(2, 3), (1, 1), padding)

    rows = [jnp.stack([phase(i, j) for j in range(sw)], axis=3) for i in range(sh)]
    dx = jnp.stack(rows, axis=2).reshape(g.shape[0], sizes[0] * sh, sizes[1] * sw, -1)
    (top, _), (left, _) = pads
    return dx[:, top : top + height, left : left + width]


def xla_dw(x, g, w, strides, pads):
    def plain(x, g):
        return jax.linear_transpose(lambda w: xla_forward(x, w, strides, pads), w)(g)[0]

    def blocked(x, g):
        return _blocked_weight_gradient(x, g, w.shape[:2], strides, pads)

    return lax.platform_dependent(x, g, cpu=blocked, default=plain)


def _blocked_weight_gradient(x, g, kernel, strides, pads):
    """dL/dw of a 2-D convolution: a few images at a time, a matrix product per tap.

    XLA's CPU backend makes the weight gradient a convolution with an image-sized kernel: at
    30 to 60 GFLOP/s for 64 channels on 56 x 56, where this has 75 to 125 (2 cores, 200 peak).
    """
    (kh, kw), (sh, sw) = kernel, strides
    height, width, d = g.shape[1:]
    c = x.shape[-1]
    x = padded(x, pads)
    # One product for all taps where a tap has too few channels to fill the registers.
    together = c < 32 or height * width < 128
    rows, columns, block = _blocks(g, kh * kw * c if together else c, whole_columns=kw > 1)

    def taps(images):
        for i in range(kh):
            for j in range(kw):
                ends = (i + (rows - 1) * sh + 1, j + (columns - 1) * sw + 1)
                yield lax.slice(images, (0, i, j, 0), (block, *ends, c), (1, sh, sw, 1))

    def product(unfolded, gradient):
        return lax.dot_general(
            unfolded.reshape(-1, unfolded.shape[-1]),
            gradient.reshape(-1, d),
            (((0,), (0,)), ((), ())),
            preferred_element_type=jnp.float32,
        )

    def accumulate(index, total):
        # A block is some rows of one image, or some of its columns, or several whole images.
        per_image = (height // rows) * (width // columns)
        image, part = index // per_image * block, index % per_image
        row, column = (part * rows, 0) if columns == width else (0, part * columns)
        rows_in, columns_in = (rows - 1) * sh + kh, (columns - 1) * sw + kw
        start = (image, row * sh, column * sw, 0)
        images = lax.dynamic_slice(x, start, (block, rows_in, columns_in, c))
        gradient = lax.dynamic_slice(g, (image, row, column, 0), (block, rows, columns, d))
        if together:
            return total + product(jnp.concatenate(list(taps(images)), axis=-1), gradient)
        products = [product(tap, gradient) for tap in taps(images)]
        return total + jnp.concatenate(products)

    steps = x.shape[0] // block * (height // rows) * (width // columns)
    total = lax.fori_loop(0, steps, accumulate, jnp.zeros((kh * kw * c, d), jnp.float32))
    return total.reshape(kh, kw, c, d).astype(x.dtype)


def _blocks(g, channels: int, whole_columns: bool) -> tuple[int, int, int]:
    """Rows and columns of an image, and images, in a block: divisors, so blocks are equal."""
    batch, height, width, _ = g.shape
    if not whole_columns:  # (k, 1): rows overlap, columns do not
        columns = divisor(width, _UNFOLDED_BYTES // (height * channels * 4))
        return height, columns, 1
    row = width * channels * 4
    rows = divisor(height, _UNFOLDED_BYTES // row)
    return rows, width, divisor(batch, _UNFOLDED_BYTES // (rows * row)) if rows == height else 1


# --- By Winograd's minimal filtering: 3 x 3 kernels, stride 1 ------------------------------
#
# F(2 x 2, 3 x 3) of Lavin and Gray, "Fast algorithms for convolutional neural networks"
# (arXiv 1509.09308): a tile of 2 x 2 results from 4 x 4 inputs with 16 multiplications instead
# of 36, as 16 matrix products over all tiles. The rounding error is about twice that of the
# plain sum; the paper's larger tiles lose digits and are not used. Arithmetic is f32 whatever
# the operands are: sums of bf16 numbers would lose two more bits before they are multiplied.

_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)


def _tiles(x, rows, columns):
    """B' d B of every 4 x 4 tile, step 2: 16 arrays `[B * rows * columns, C]`."""

    def along(x, axis, tiles):
        a, b, c, d = (lax.slice_in_dim(x, i, i + 2 * tiles - 1, 2, axis) for i in range(4))
        return a - c, b + c, c - b, b - d

    return [
        tile.reshape(-1, x.shape[-1])
        for part in along(x, 1, rows)
        for tile in along(part, 2, columns)
    ]


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


def _block(batch: int, rows: int, columns: int, channels: int) -> int:
    return divisor(batch, _TRANSFORMED_BYTES // (16 * rows * columns * channels * 4))


def winograd_forward(x, w, strides, pads):
    del strides  # 1
    (top, bottom), (left, right) = pads
    batch, height, width, c = x.shape
    out = height + top + bottom - 2, width + left + right - 2
    rows, columns = -(-out[0] // 2), -(-out[1] // 2)
    x = padded(x, ((top, bottom + 2 * rows - out[0]), (left, right + 2 * columns - out[1])))
    block = _block(batch, rows, columns, c + w.shape[-1])
    kernels = jnp.einsum("ai,bj,ijcd->abcd", _G, _G, w.astype(jnp.float32))
    kernels = list(kernels.reshape(16, c, -1))

    def some(images):
        tiles = _tiles(images.astype(jnp.float32), rows, columns)
        products = [tile @ kernel for tile, kernel in zip(tiles, kernels, strict=True)]
        return _results(products, (block, rows, columns)).astype(x.dtype)

    y = lax.map(some, x.reshape(-1, block, *x.shape[1:]))
    return y.reshape(batch, *y.shape[2:])[:, : out[0], : out[1]]


def winograd_dx(g, w, x, strides, pads):
    """The same convolution of the gradient, with the kernel turned by half a circle."""
    pads = tuple((2 - before, 2 - after) for before, after in pads)
    crops = tuple((min(a, 0), min(b, 0)) for a, b in pads)
    if any(map(any, crops)):  # padded by more than the kernel's reach: those results are unused
        g = lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *[(*c, 0) for c in crops], (0, 0, 0)])
    pads = tuple((max(a, 0), max(b, 0)) for a, b in pads)
    return winograd_forward(g, w[::-1, ::-1].swapaxes(2, 3), strides, pads).astype(x.dtype)


def winograd_dw(x, g, w, strides, pads):
    del strides
    batch, height, width, d = g.shape
    c = x.shape[-1]
    rows, columns = -(-height // 2), -(-width // 2)
    odd = (2 * rows - height, 2 * columns - width)
    (top, bottom), (left, right) = pads
    x = padded(x, ((top, bottom + odd[0]), (left, right + odd[1])))
    g = padded(g, ((0, odd[0]), (0, odd[1])))
    block = _block(batch, rows, columns, c + d)

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
    dw = jnp.einsum("ai,bj,abcd->ijcd", _G, _G, jnp.stack(totals).reshape(4, 4, c, d))
    return dw.astype(w.dtype)
