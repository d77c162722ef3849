"""The three passes of a 2-D convolution, the basis of most 3-D implementations.

Arrays are `[B, H, W, C]`, kernels `[kh, kw, C, D]`, pads ((top, bottom), (left, right)). A
gradient receives the shape of its result as an array or `ShapeDtypeStruct`:

    forward(x, w, strides, pads) -> y
    dx(g, w, x_like, strides, pads) -> dx
    dw(x, g, w_like, strides, pads) -> dw
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from jaxvideo.layers.geometry import divisor, padded

# Bytes that one iteration of a CPU's loop unfolds, so that a block is still in the caches when it
# is multiplied. Half or twice as many is 10 % slower.
_UNFOLDED_BYTES = 2 << 20


def forward(x, w, strides, pads):
    """Computes y by XLA's convolution."""
    return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def dx(g, w, x, strides, pads):
    """Computes dx without a dilated convolution.

    Input rows and columns of one phase of the stride meet only the taps of that phase, so each
    phase is a small convolution.
    """
    (sh, sw), (height, width) = strides, x.shape[1:3]
    if strides == (1, 1):
        # JAX's transpose is several times slower inside a loop on a CPU.
        back = [
            (k - 1 - before, k - 1 - after)
            for k, (before, after) in zip(w.shape[:2], pads, strict=True)
        ]
        return forward(g, w[::-1, ::-1].swapaxes(2, 3), strides, back)
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
        return forward(g, taps[::-1, ::-1].swapaxes(2, 3), (1, 1), padding)

    rows = [jnp.stack([phase(i, j) for j in range(sw)], axis=3) for i in range(sh)]
    whole = jnp.stack(rows, axis=2).reshape(g.shape[0], sizes[0] * sh, sizes[1] * sw, -1)
    (top, _), (left, _) = pads
    return whole[:, top : top + height, left : left + width]


def dw(x, g, w, strides, pads):
    """Computes dw as a matrix product per tap, a few images at a time.

    XLA's CPU backend uses a convolution with an image-sized kernel. For 64 channels on 56 x 56
    that reaches 30 to 60 GFLOP/s, and this 75 to 125 (2 cores, peak 200).
    """
    (kh, kw), (sh, sw) = w.shape[:2], strides
    height, width, d = g.shape[1:]
    c = x.shape[-1]
    x = padded(x, pads)
    # If a tap has too few channels to fill the registers, one product serves all taps.
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
        # A block is some rows or some columns of one image, or several whole images.
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


def rows_product(x, g):
    """Computes x^T g, `[C, D]`, over all axes but the last, some rows at a time.

    XLA's CPU backend would transpose whole operands first. Calling `dw` with x and g reshaped to
    one image is slower: XLA then computes their producers a second time, for that shape (training
    step of X3D-M: 3.4 s instead of 2.9 s).
    """
    c, d = x.shape[-1], g.shape[-1]
    x, g = x.reshape(-1, c), g.reshape(-1, d)
    rows = divisor(len(x), _UNFOLDED_BYTES // (4 * c))

    def accumulate(index, total):
        some = (lax.dynamic_slice_in_dim(a, index * rows, rows) for a in (x, g))
        return total + lax.dot_general(
            *some, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
        )

    zeros = jnp.zeros((c, d), jnp.float32)
    return lax.fori_loop(0, len(x) // rows, accumulate, zeros).astype(x.dtype)


def _blocks(g, channels: int, whole_columns: bool) -> tuple[int, int, int]:
    """Rows, columns and images of a block: divisors, so that all blocks are equal."""
    batch, height, width, _ = g.shape
    if not whole_columns:  # (k, 1): rows overlap, columns do not
        columns = divisor(width, _UNFOLDED_BYTES // (height * channels * 4))
        return height, columns, 1
    row = width * channels * 4
    rows = divisor(height, _UNFOLDED_BYTES // row)
    return rows, width, divisor(batch, _UNFOLDED_BYTES // (rows * row)) if rows == height else 1
