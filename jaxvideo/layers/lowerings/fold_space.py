"""FOLD_SPACE: a (k, 1, 1) convolution as a 2-D one over images of height T and width H * W."""

from __future__ import annotations

from jaxvideo.layers.geometry import Geometry, padded
from jaxvideo.layers.lowerings import folding
from jaxvideo.layers.lowerings.folding import Fold
from jaxvideo.layers.lowerings.implementation import ungrouped


def fold(geometry: Geometry) -> Fold:
    """Returns the rearrangements that make a clip one image `[T, H * W, C]`."""
    _, height, width = geometry.out_size
    _, sh, sw = geometry.strides

    def x(x):
        x = padded(x, ((0, 0), *geometry.pads[1:]))[:, :, ::sh, ::sw]
        return x.reshape(*x.shape[:2], -1, x.shape[-1])

    return Fold(
        x=x,
        w=lambda w: w[:, :, 0],
        y=lambda y: y.reshape(*y.shape[:2], height, width, y.shape[-1]),
        strides=(geometry.strides[0], 1),
        pads=(geometry.pads[0], (0, 0)),
    )


IMPLEMENTATION = folding.implementation(
    fold, ungrouped(lambda geometry: geometry.kernel[1:] == (1, 1))
)
