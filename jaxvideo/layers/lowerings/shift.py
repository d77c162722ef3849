"""SHIFT: a depthwise convolution as a sum of shifted, scaled copies, without matrix products."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxvideo.layers.geometry import Geometry, padded, turned
from jaxvideo.layers.lowerings.implementation import Implementation


def _taps(x, kernel, strides, out_size):
    """Yields (tap, strided slice of `[N, T, H, W, C]` under it) for each tap, row-major."""
    for offset in np.ndindex(*kernel):
        ends = [
            o + (out - 1) * stride + 1
            for o, out, stride in zip(offset, out_size, strides, strict=True)
        ]
        yield (
            offset,
            lax.slice(x, (0, *offset, 0), (x.shape[0], *ends, x.shape[-1]), (1, *strides, 1)),
        )


def forward(x, w, geometry: Geometry):
    """`(x, w) -> y`; w is `[kt, kh, kw, 1, C]`."""
    y = 0.0
    taps = _taps(padded(x, geometry.pads), geometry.kernel, geometry.strides, geometry.out_size)
    for offset, tap in taps:
        y = y + tap.astype(jnp.float32) * w[offset][0].astype(jnp.float32)
    return y.astype(x.dtype)


def input_gradient(g, w, geometry: Geometry):
    """`(g, w) -> dx`: the same sum with the reversed kernel.

    With strides, each phase of the strides is a sum over its own taps, and the phases interleave.
    JAX's transpose would write the whole input once per tap.
    """
    if geometry.strides == (1, 1, 1):
        return forward(*turned(g, w.swapaxes(3, 4), geometry))
    strides, size = geometry.strides, geometry.in_size
    # Positions of the padded input per phase, and taps per phase.
    steps = [
        -(-(n + sum(pad)) // s) for n, pad, s in zip(size, geometry.pads, strides, strict=True)
    ]
    reach = [-(-k // s) for k, s in zip(geometry.kernel, strides, strict=True)]
    g = padded(
        g,
        tuple(
            (r - 1, max(q - m, 0)) for r, q, m in zip(reach, steps, geometry.out_size, strict=True)
        ),
    )
    phases = []
    for phase in np.ndindex(*strides):
        y = jnp.zeros((len(g), *steps, g.shape[-1]), jnp.float32)
        for back in np.ndindex(*reach):
            tap = tuple(p + s * b for p, s, b in zip(phase, strides, back, strict=True))
            if all(t < k for t, k in zip(tap, geometry.kernel, strict=True)):
                first = [r - 1 - b for r, b in zip(reach, back, strict=True)]
                under = lax.dynamic_slice(g, (0, *first, 0), y.shape)
                y = y + under.astype(jnp.float32) * w[tap][0].astype(jnp.float32)
        phases.append(y.astype(g.dtype))
    st, sh, sw = strides
    dx = jnp.stack(phases, axis=4)  # [N, T, H, W, phases, C]
    n, t, h, v, _, c = dx.shape
    dx = dx.reshape(n, t, h, v, st, sh, sw, c).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    dx = dx.reshape(n, t * st, h * sh, v * sw, c)
    first = [pad[0] for pad in geometry.pads]
    return lax.slice(dx, (0, *first, 0), (n, *(f + k for f, k in zip(first, size, strict=True)), c))


def weight_gradient(x, g, geometry: Geometry):
    """`(x, g) -> dw`: a sum over all positions per tap.

    CPUs process one frame at a time. This is 4 to 6 times as fast, because the frames under the
    kernel stay in the caches for all taps.
    """
    x = padded(x, geometry.pads)
    kt, kh, kw = geometry.kernel
    frames, *in_space = geometry.out_size
    st = geometry.strides[0]

    def sums(x, g, out_size):
        g = g.astype(jnp.float32)
        taps = _taps(x, geometry.kernel, geometry.strides, out_size)
        return jnp.stack([(tap * g).sum((0, 1, 2, 3)) for _, tap in taps])

    def at_once(x, g):
        return sums(x, g, geometry.out_size)

    def by_frame(x, g):
        def add(index, total):
            clip, frame = index // frames, index % frames
            under = lax.dynamic_slice(x, (clip, frame * st, 0, 0, 0), (1, kt, *x.shape[2:]))
            here = lax.dynamic_slice(g, (clip, frame, 0, 0, 0), (1, 1, *g.shape[2:]))
            return total + sums(under, here, (1, *in_space))

        zeros = jnp.zeros((kt * kh * kw, g.shape[-1]), jnp.float32)
        return lax.fori_loop(0, x.shape[0] * frames, add, zeros)

    dw = lax.platform_dependent(x, g, cpu=by_frame, default=at_once)
    return dw.reshape(*geometry.kernel, 1, g.shape[-1]).astype(x.dtype)


IMPLEMENTATION = Implementation(
    forward, input_gradient, weight_gradient, fits=lambda geometry, depthwise: depthwise
)
