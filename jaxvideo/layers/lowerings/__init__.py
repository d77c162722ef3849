"""The implementations of a 3-D convolution and its two gradients, and the choice between them.

A convolution is linear in its input and in its kernel, so its gradients are two more bilinear
maps, and the three are each other's transposes:

    FORWARD          (x, w) -> y
    INPUT_GRADIENT   (g, w) -> dx
    WEIGHT_GRADIENT  (x, g) -> dw

Their speeds differ so much that each has its own choice (`resolve`).

To add an implementation, write a file like `direct.py`, give it a name in `types.Lowering` and a
row in `LOWERINGS`. The tests in `tests/layers/test_lowerings.py` run over all rows. AUTO uses it
only if a rule in `choice.py` returns it.
"""

from __future__ import annotations

import jax

from jaxvideo.layers.geometry import Geometry, Pass
from jaxvideo.layers.lowerings import (
    direct,
    fold_space,
    fold_time,
    group_by_group,
    matmul,
    onednn,
    shift,
    space_to_depth,
    time_from_channels,
    time_to_channels,
    unfold,
    winograd,
)
from jaxvideo.layers.lowerings.choice import resolve
from jaxvideo.layers.lowerings.implementation import Implementation
from jaxvideo.types import Lowering

__all__ = ["LOWERINGS", "Implementation", "compute", "fits", "resolve"]


def compute(
    what: Pass, lowering: Lowering, a: jax.Array, b: jax.Array, geometry: Geometry
) -> jax.Array:
    """Computes one pass by one implementation.

    Args:
      what: the pass; it decides what `a` and `b` are, see the table above.
      lowering: any but AUTO.
      a: x or g, `[N, T, H, W, C]`.
      b: w, `[kt, kh, kw, C / groups, D]`, or g.
      geometry: sizes, strides, padding and groups.

    Returns:
      y, dx or dw, in the dtype of `a`.
    """
    implementation = LOWERINGS[lowering]
    if what is Pass.FORWARD:
        return implementation.forward(a, b, geometry)
    if what is Pass.INPUT_GRADIENT:
        return implementation.input_gradient(a, b, geometry)
    return implementation.weight_gradient(a, b, geometry)


def fits(lowering: Lowering, geometry: Geometry, depthwise: bool) -> bool:
    """Returns True if a lowering, any but AUTO, can compute this convolution.

    Args:
      lowering: any but AUTO.
      geometry: sizes, strides, padding and groups.
      depthwise: True if each group has one input and one output channel.
    """
    return LOWERINGS[lowering].fits(geometry, depthwise)


#: All implementations by name. Two of them compute parts by other implementations.
LOWERINGS: dict[Lowering, Implementation] = {
    Lowering.DIRECT: direct.IMPLEMENTATION,
    Lowering.FOLD_TIME: fold_time.IMPLEMENTATION,
    Lowering.FOLD_SPACE: fold_space.IMPLEMENTATION,
    Lowering.TIME_TO_CHANNELS: time_to_channels.IMPLEMENTATION,
    Lowering.TIME_FROM_CHANNELS: time_from_channels.IMPLEMENTATION,
    Lowering.SPACE_TO_DEPTH: space_to_depth.IMPLEMENTATION,
    Lowering.WINOGRAD: winograd.IMPLEMENTATION,
    Lowering.MATMUL: matmul.IMPLEMENTATION,
    Lowering.UNFOLD: unfold.IMPLEMENTATION,
    Lowering.GROUP_BY_GROUP: group_by_group.implementation(compute),
    Lowering.SHIFT: shift.IMPLEMENTATION,
    Lowering.ONEDNN: onednn.implementation(compute),
}
