"""TIME_TO_CHANNELS: the frames under a kernel's time taps concatenated in the channels, then 2-D.

The input becomes kt times as large.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from jaxvideo.layers.geometry import Geometry, padded
from jaxvideo.layers.lowerings import folding
from jaxvideo.layers.lowerings.folding import Fold, merge_time
from jaxvideo.layers.lowerings.implementation import ungrouped


def fold(geometry: Geometry) -> Fold:
    """Returns the rearrangements that move the time taps into the input channels."""
    kt, stride, frames = geometry.kernel[0], geometry.strides[0], geometry.out_size[0]

    def x(x):
        x = padded(x, geometry.pads[:1])
        taps = [
            lax.slice_in_dim(x, k, k + (frames - 1) * stride + 1, stride, axis=1) for k in range(kt)
        ]
        return merge_time(jnp.concatenate(taps, axis=-1))

    def w(w):
        return w.transpose(1, 2, 0, 3, 4).reshape(*w.shape[1:3], -1, w.shape[-1])

    return Fold(
        x=x,
        w=w,
        y=lambda y: y.reshape(-1, frames, *y.shape[1:]),
        strides=geometry.strides[1:],
        pads=geometry.pads[1:],
    )


IMPLEMENTATION = folding.implementation(fold, ungrouped(lambda geometry: True))
