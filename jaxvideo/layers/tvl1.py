"""TV-L1 optical flow on the device, as one JAX program.

The method is that of C. Zach, T. Pock, H. Bischof, "A Duality Based Approach for Realtime TV-L1
Optical Flow", DAGM 2007, in the form of J. Sanchez Perez, E. Meinhardt-Llopis, G. Facciolo, "TV-L1
Optical Flow Estimation", IPOL 3 (2013). It works from coarse to fine over a pyramid. At each level
the second image is warped by the current flow, and the linearized problem is solved by a fixed
number of iterations, which alternate a thresholding step for the data term with a projection step
for the total variation.

Differences from the IPOL code: the pyramid uses (anti-aliased) linear interpolation; derivatives of
the image are five-point and warped bilinearly, the image bicubically; images are not smoothed
beforehand; there is no stopping test, because accelerators need a fixed amount of work.

A flow is `[N, H, W, 2]`, x (to the right) then y (down), in pixels: a point at (x, y) in the first
frame is at (x, y) + flow in the second.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxvideo.types import ConfigError

#: Smallest side of a level in pixels; smaller images have no structure to match.
SMALLEST_LEVEL = 16

#: OpenCV's weights of red, green and blue (ITU-R BT.601).
_GRAY = np.array([0.299, 0.587, 0.114], np.float32)


def to_gray(rgb: jax.Array) -> jax.Array:
    """Converts RGB to gray with OpenCV's weights.

    Args:
      rgb: `[..., 3]` in 0..255, any dtype.

    Returns:
      f32 `[...]` in 0..255.
    """
    red, green, blue = (rgb[..., c].astype(jnp.float32) * _GRAY[c] for c in range(3))
    return red + green + blue


@functools.partial(
    jax.jit, static_argnames=("levels", "scale", "warps", "iterations", "tau", "lam", "theta")
)
def tvl1(
    frames0: jax.Array,
    frames1: jax.Array,
    *,
    levels: int = 5,
    scale: float = 0.5,
    warps: int = 5,
    iterations: int = 30,
    tau: float = 0.25,
    lam: float = 0.15,
    theta: float = 0.3,
) -> jax.Array:
    """Computes the flow from `frames0` to `frames1`.

    Args:
      frames0, frames1: gray images `[N, H, W]` in 0..255, any dtype.
      levels: levels of the pyramid including the full size. Levels with a side of less than 16
        pixels are skipped.
      scale: size of a level relative to the next finer one.
      warps: warps per level.
      iterations: iterations per warp; 10 are enough if speed matters.
      tau: step size of the projection; it converges for values up to 0.25.
      lam: weight of the data term; smaller values give smoother flow.
      theta: tightness of the coupling between the two terms.

    Returns:
      f32 `[N, H, W, 2]`, (x, y) in pixels.

    Raises:
      ConfigError: the shapes of the frames differ or are wrong, or a setting is out of range.

    Example:
      >>> tvl1(jnp.zeros((1, 32, 32)), jnp.zeros((1, 32, 32)), levels=1).shape
      (1, 32, 32, 2)
    """
    _check(frames0, frames1, levels, scale, warps, iterations)
    frames = jnp.stack([frames0, frames1]).astype(jnp.float32)
    sizes = _pyramid(*frames.shape[2:], levels, scale)
    flow = jnp.zeros((frames.shape[1], 2, *sizes[-1]), jnp.float32)
    for size in reversed(sizes):
        i0, i1 = frames if size == sizes[0] else _resized(frames, *size)
        flow = _enlarged(flow, *size)
        flow = _level(i0, i1, flow, warps, iterations, tau, lam, theta)
    return jnp.moveaxis(flow, 1, -1)


def tvl1_video(video: jax.Array, *, chunk: int = 1, **settings) -> jax.Array:
    """Computes the flow between consecutive frames of a video.

    Args:
      video: gray `[T, H, W]` in 0..255, uint8 or float.
      chunk: number of pairs that are solved together; see `flow_of_video`.
      **settings: see `tvl1`.

    Returns:
      f32 `[T - 1, H, W, 2]`, field t from frame t to frame t + 1.
    """
    if video.ndim != 3 or len(video) < 2:
        raise ConfigError(
            f"tvl1_video: video has shape {video.shape}; it must be [T, H, W], gray, with T >= 2"
        )
    return _in_chunks(video[None], chunk, lambda pair: tvl1(*pair, **settings))[0]


def flow_of_video(
    video: jax.Array, *, bound: float = 20.0, chunk: int = 1, **settings
) -> jax.Array:
    """Computes quantized flow from RGB frames, the input of a flow network.

    Args:
      video: `[N, T + 1, H, W, 3]` RGB in 0..255, uint8 or float; N may be sharded.
      bound: flow in pixels that 255 represents; 0 represents minus `bound`, see `quantize`.
      chunk: number of pairs of each video that are solved together. CPUs are fastest with few
        pixels, which stay in the cache; accelerators need a million pixels or more. Memory: about
        200 bytes per pixel of N x chunk fields, in addition to video and result.
      **settings: see `tvl1`.

    Returns:
      uint8 `[N, T, H, W, 2]`, field t from frame t to frame t + 1.
    """
    if video.ndim != 5 or video.shape[1] < 2 or video.shape[-1] != 3:
        raise ConfigError(
            f"flow_of_video: video has shape {video.shape}; it must be [N, T + 1, H, W, 3], RGB, "
            "with T >= 1"
        )

    def solve(pair):
        return quantize(tvl1(*map(to_gray, pair), **settings), bound)

    return _in_chunks(video, chunk, solve)


def quantize(flow: jax.Array, bound: float = 20.0) -> jax.Array:
    """Maps flow in [-bound, bound] pixels to uint8 0..255, rounded and clipped.

    It equals `data.flow.quantize`.
    """
    scaled = (flow + bound) * (255 / (2 * bound))
    return jnp.clip(jnp.round(scaled), 0, 255).astype(jnp.uint8)


def _in_chunks(videos, chunk, solve):
    """Calls `solve` for all pairs of consecutive frames, `chunk` pairs of every video at a time.

    Args:
      videos: `[N, T + 1, ...]`.
      chunk: pairs per call.
      solve: maps two batches `[M, ...]` of frames to fields `[M, H, W, 2]`.
    """
    n, frames, *rest = videos.shape
    pairs = frames - 1
    if chunk < 1:
        raise ConfigError(f"chunk={chunk}: must be at least 1")
    chunk = min(chunk, pairs)

    def fields_from(start):
        part = lax.dynamic_slice_in_dim(videos, start, chunk + 1, axis=1)
        flat = [frames.reshape(n * chunk, *rest) for frames in (part[:, :-1], part[:, 1:])]
        fields = solve(flat)
        return fields.reshape(n, chunk, *fields.shape[1:])

    def one_chunk(number, out):
        # The last chunk overlaps the previous one, so that all have the same shape.
        start = jnp.minimum(number * chunk, pairs - chunk)
        return lax.dynamic_update_slice_in_dim(out, fields_from(start), start, 1)

    field = jax.eval_shape(fields_from, 0)
    out = jnp.zeros((n, pairs, *field.shape[2:]), field.dtype)
    return lax.fori_loop(0, -(-pairs // chunk), one_chunk, out)


def _check(frames0, frames1, levels, scale, warps, iterations):
    if frames0.ndim != 3 or frames0.shape != frames1.shape:
        raise ConfigError(
            f"tvl1: frames have shapes {frames0.shape} and {frames1.shape}; both must be the same, "
            "[N, H, W], gray"
        )
    if min(frames0.shape[1:]) < SMALLEST_LEVEL:
        raise ConfigError(
            f"tvl1: frames have size {frames0.shape[1:]}; both sides must be at least "
            f"{SMALLEST_LEVEL} pixels"
        )
    if not 0 < scale < 1:
        raise ConfigError(f"tvl1: scale={scale}: must be between 0 and 1, both excluded")
    if min(levels, warps, iterations) < 1:
        raise ConfigError(
            f"tvl1: levels={levels}, warps={warps}, iterations={iterations}: must be at least 1"
        )


def _pyramid(height, width, levels, scale):
    """Sizes (height, width) of the levels, finest first."""
    sizes = [(round(height * scale**k), round(width * scale**k)) for k in range(levels)]
    return [sizes[0], *(size for size in sizes[1:] if min(size) >= SMALLEST_LEVEL)]


def _resized(images, height, width):
    """Resizes `[..., H, W]` linearly, with anti-aliasing if the size decreases."""
    rows, columns = _linear(images.shape[-2], height), _linear(images.shape[-1], width)
    highest = lax.Precision.HIGHEST
    return jnp.einsum("ah,...hw,bw->...ab", rows, images, columns, precision=highest)


def _linear(size, new):
    """Weights `[new, size]` as constants, which shortens compilation."""
    places = (np.arange(new) + 0.5) * size / new - 0.5
    distance = np.abs(places[:, None] - np.arange(size)) / max(size / new, 1)
    weights = np.maximum(1 - distance, 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _enlarged(flow, height, width):
    """Resizes flow to another level and scales it to the pixels of that level."""
    factors = np.array([width / flow.shape[-1], height / flow.shape[-2]], np.float32)
    return _resized(flow, height, width) * factors[:, None, None]


def _level(i0, i1, flow, warps, iterations, tau, lam, theta):
    """The warps of one level: i0 and i1 `[N, H, W]`, flow `[N, 2, H, W]`."""
    slopes = _gradient(i1)
    most = lam * theta

    def warp(state, _):
        start = state[0]
        moved, inside = _bicubic(i1, start)
        gradient = _bilinear(slopes, start)
        norm = _dot(gradient, gradient)
        # Residual rho(flow) = offset + gradient . flow, linearized at the warped position.
        offset = moved - i0 - _dot(gradient, start)
        # The data term is zero outside the second image and where it is flat.
        per_norm = jnp.where(inside & (norm > 1e-6), 1 / jnp.maximum(norm, 1e-6), 0.0)

        def iteration(_, state):
            flow, dual_x, dual_y = state
            # Thresholding, the minimizer over v: one clip covers all three cases of the paper.
            rho = offset + _dot(gradient, flow)
            step = jnp.clip(-rho * per_norm, -most, most)
            divergence = _backward(dual_x, -1) + _backward(dual_y, -2)
            flow = flow + step[:, None] * gradient + theta * divergence
            dx, dy = _forward(flow, -1), _forward(flow, -2)
            shrink = 1 / (1 + tau / theta * jnp.sqrt(dx * dx + dy * dy))
            dual_x = (dual_x + tau / theta * dx) * shrink
            dual_y = (dual_y + tau / theta * dy) * shrink
            return flow, dual_x, dual_y

        return lax.fori_loop(0, iterations, iteration, state), None

    zero = jnp.zeros_like(flow)
    (flow, _, _), _ = lax.scan(warp, (flow, zero, zero), None, length=warps)
    return flow


def _dot(a, b):
    """Dot product over the two components; a reduction would be slow on CPUs."""
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1]


def _taps(images, flow, reach):
    """Reads images `[N, C, H, W]` around (x, y) + flow, edges repeated `reach` pixels outwards.

    Returns:
      A function (row, column) -> `[N, C, H, W]`, the pixels at that offset from the upper left
      neighbor; the fractions fx and fy, each `[N, 1, H, W]`; and a mask of positions inside.
    """
    n, channels, height, width = images.shape
    x = jnp.arange(width, dtype=jnp.float32) + flow[:, 0]
    y = jnp.arange(height, dtype=jnp.float32)[:, None] + flow[:, 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    x, y = jnp.clip(x, 0, width - 1), jnp.clip(y, 0, height - 1)
    left, top = jnp.minimum(jnp.floor(x), width - 2), jnp.minimum(jnp.floor(y), height - 2)
    flat = _edged(images, reach).reshape(n, channels, -1)
    pitch = width + 2 * reach
    corner = (top + reach).astype(jnp.int32) * pitch + (left + reach).astype(jnp.int32)
    corner = corner.reshape(n, -1)

    def at(row, column):
        places = corner + (row * pitch + column)
        read = jax.vmap(lambda image, place: image.at[:, place].get(mode="promise_in_bounds"))
        return read(flat, places).reshape(images.shape)

    return at, (x - left)[:, None], (y - top)[:, None], inside


def _bicubic(image, flow):
    """Samples at (x, y) + flow by Catmull-Rom cubics; also returns where it is inside."""
    at, fx, fy, inside = _taps(image[:, None], flow, reach=1)

    def cubic(p0, p1, p2, p3, f):
        bend = 2 * p0 - 5 * p1 + 4 * p2 - p3 + f * (3 * (p1 - p2) + p3 - p0)
        return p1 + 0.5 * f * (p2 - p0 + f * bend)

    rows = (cubic(*(at(row, column) for column in range(-1, 3)), fx) for row in range(-1, 3))
    return cubic(*rows, fy)[:, 0], inside


def _bilinear(planes, flow):
    """Samples `[N, C, H, W]` at (x, y) + flow."""
    at, fx, fy, _ = _taps(planes, flow, reach=0)
    upper = at(0, 0) * (1 - fx) + at(0, 1) * fx
    lower = at(1, 0) * (1 - fx) + at(1, 1) * fx
    return upper * (1 - fy) + lower * fy


def _gradient(image):
    """Derivatives `[N, 2, H, W]` of `[N, H, W]` along x and y, exact for cubics."""

    def derivative(axis):
        def ahead(by):
            return lax.slice_in_dim(edged, 2 + by, 2 + by + size, axis=axis)

        size = image.shape[axis]
        widths = [(0, 0)] * image.ndim
        widths[axis] = (2, 2)
        edged = jnp.pad(image, widths, mode="edge")
        return (8 * (ahead(1) - ahead(-1)) - (ahead(2) - ahead(-2))) / 12

    return jnp.stack([derivative(2), derivative(1)], 1)


def _edged(images, by):
    return jnp.pad(images, ((0, 0), (0, 0), (by, by), (by, by)), mode="edge") if by else images


def _forward(u, axis):
    """u[i + 1] - u[i], and 0 at the end."""
    size = u.shape[axis]
    ahead = lax.slice_in_dim(u, 1, size, axis=axis) - lax.slice_in_dim(u, 0, size - 1, axis=axis)
    return _pad_one(ahead, axis, after=1)


def _backward(p, axis):
    """p[i] - p[i - 1] with p[-1] = 0: the negative adjoint of `_forward` for p that ends in 0."""
    behind = lax.slice_in_dim(p, 0, p.shape[axis] - 1, axis=axis)
    return p - _pad_one(behind, axis, before=1)


def _pad_one(x, axis, before=0, after=0):
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return jnp.pad(x, widths)
