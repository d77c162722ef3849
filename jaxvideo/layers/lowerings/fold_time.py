"""FOLD_TIME: a (1, k, k) convolution as a 2-D one, with time folded into the batch."""

from __future__ import annotations

from jaxvideo.layers.geometry import Geometry, padded
from jaxvideo.layers.lowerings import folding
from jaxvideo.layers.lowerings.folding import Fold, merge_time
from jaxvideo.layers.lowerings.implementation import ungrouped


def fold(geometry: Geometry) -> Fold:
    """Returns the rearrangements that make frames a batch of images."""
    frames = geometry.out_size[0]
    return Fold(
        x=lambda x: merge_time(padded(x, geometry.pads[:1])[:, :: geometry.strides[0]]),
        w=lambda w: w[0],
        y=lambda y: y.reshape(-1, frames, *y.shape[1:]),
        strides=geometry.strides[1:],
        pads=geometry.pads[1:],
    )


IMPLEMENTATION = folding.implementation(fold, ungrouped(lambda geometry: geometry.kernel[0] == 1))
