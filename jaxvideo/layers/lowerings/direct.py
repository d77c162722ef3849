"""DIRECT: XLA's own convolution, `lax.conv_general_dilated` in NDHWC."""

from __future__ import annotations

from jax import lax

from jaxvideo.layers.lowerings.implementation import Implementation, transposed_dw, transposed_dx


def forward(x, w, geometry):
    """`(x, w) -> y`."""
    return lax.conv_general_dilated(
        x,
        w,
        geometry.strides,
        geometry.pads,
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        feature_group_count=geometry.groups,
    )


IMPLEMENTATION = Implementation(
    forward,
    transposed_dx(forward),
    transposed_dw(forward),
    fits=lambda geometry, depthwise: True,
)
