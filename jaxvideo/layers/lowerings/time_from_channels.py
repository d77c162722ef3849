"""TIME_FROM_CHANNELS: every frame under every time tap as features of a 2-D result, then summed.

This mirrors `time_to_channels`: it needs as many multiplications (none for padding), and the
result instead of the input becomes kt times as large. The stride in time must be 1.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import lax

from jaxvideo.layers.geometry import Geometry, padded
from jaxvideo.layers.lowerings import folding
from jaxvideo.layers.lowerings.folding import Fold, merge_time
from jaxvideo.layers.lowerings.implementation import ungrouped


def fold(geometry: Geometry) -> Fold:
    """Returns the rearrangements that move the time taps into the output features."""
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
        # Tap k of frame t was added to frame t + before - k of the result.
        widths = [(0, 0, 0), (kt - 1 - before, kt - 1 - after, 0), *[(0, 0, 0)] * 3]
        g = lax.pad(g, jnp.zeros((), g.dtype), widths)
        taps = [lax.slice_in_dim(g, kt - 1 - k, kt - 1 - k + frames, axis=1) for k in range(kt)]
        return merge_time(jnp.concatenate(taps, axis=-1))

    return Fold(
        x=merge_time,
        w=w,
        y=y,
        strides=geometry.strides[1:],
        pads=geometry.pads[1:],
        g=g,
    )


def fits(geometry: Geometry) -> bool:
    """Returns True if the stride in time is 1."""
    return geometry.strides[0] == 1


IMPLEMENTATION = folding.implementation(fold, ungrouped(fits))
