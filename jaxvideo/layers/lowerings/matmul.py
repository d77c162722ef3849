"""MATMUL: a 1 x 1 x 1 convolution as a strided slice and one matrix product."""

from __future__ import annotations

from jaxvideo.layers.geometry import padded
from jaxvideo.layers.lowerings import conv2d
from jaxvideo.layers.lowerings.implementation import Implementation, transposed_dx, ungrouped


def forward(x, w, geometry):
    """`(x, w) -> y`."""
    return _strided(x, geometry) @ w[0, 0, 0]


def weight_gradient(x, g, geometry):
    """`(x, g) -> dw`."""
    x = _strided(x, geometry)
    return conv2d.rows_product(x, g).reshape(1, 1, 1, x.shape[-1], -1)


def _strided(x, geometry):
    st, sh, sw = geometry.strides
    return padded(x, geometry.pads)[:, ::st, ::sh, ::sw]


IMPLEMENTATION = Implementation(
    forward,
    transposed_dx(forward),
    weight_gradient,
    fits=ungrouped(lambda geometry: geometry.kernel == (1, 1, 1)),
)
