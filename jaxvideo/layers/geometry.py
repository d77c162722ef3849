"""Sizes, strides and padding of a convolution, and its three passes."""

from __future__ import annotations

import dataclasses
import enum

import jax
import jax.numpy as jnp
from jax import lax

Triple = tuple[int, int, int]
Pads = tuple[tuple[int, int], ...]


class Pass(enum.Enum):
    """One of the three bilinear maps of a convolution."""

    FORWARD = "forward"
    INPUT_GRADIENT = "dx"
    WEIGHT_GRADIENT = "dw"


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Describes a convolution except for batch and channels; axes are (T, H, W).

    Attributes:
      kernel: taps per axis.
      in_size: size of the input.
      strides: strides per axis.
      pads: ((before, after), ...) per axis.
      groups: number of feature groups.
    """

    kernel: Triple
    in_size: Triple
    strides: Triple
    pads: Pads
    groups: int = 1

    @property
    def out_size(self) -> Triple:
        """Size of the result."""
        t, h, w = (
            (size + sum(pad) - k) // stride + 1
            for size, pad, k, stride in zip(
                self.in_size, self.pads, self.kernel, self.strides, strict=True
            )
        )
        return t, h, w


def x_like(g, w, geometry: Geometry) -> jax.ShapeDtypeStruct:
    """Returns the shape of the input, from the gradient `g` of the result and the kernel `w`."""
    channels = w.shape[3] * geometry.groups
    return jax.ShapeDtypeStruct((g.shape[0], *geometry.in_size, channels), g.dtype)


def w_like(x, g, geometry: Geometry) -> jax.ShapeDtypeStruct:
    """Returns the shape of the kernel, from the input `x` and the gradient `g` of the result."""
    channels = x.shape[-1] // geometry.groups
    return jax.ShapeDtypeStruct((*geometry.kernel, channels, g.shape[-1]), x.dtype)


def padded(x, pads):
    """Pads the axes of `x` from the second on with zeros; returns `x` if nothing is added."""
    widths = ((0, 0), *pads, *(((0, 0),) * (x.ndim - 1 - len(pads))))
    return jnp.pad(x, widths) if any(map(any, widths)) else x


def divisor(number: int, most: int) -> int:
    """Returns the largest divisor of `number` that is at most `most`, but at least 1."""
    return max(d for d in range(1, number + 1) if number % d == 0 and (d <= most or d == 1))


def turned(g, w, geometry: Geometry):
    """Returns (x, w, geometry) of the convolution that computes the input gradient.

    Strides must be 1 and there must be one group.
    """
    pads = [
        (k - 1 - before, k - 1 - after)
        for k, (before, after) in zip(geometry.kernel, geometry.pads, strict=True)
    ]
    crops = [(min(before, 0), min(after, 0)) for before, after in pads]
    if any(map(any, crops)):  # results in padding beyond the kernel's reach have no gradient
        widths = [(0, 0, 0), *[(*crop, 0) for crop in crops], (0, 0, 0)]
        g = lax.pad(g, jnp.zeros((), g.dtype), widths)
    t, height, width = g.shape[1:4]
    kept = tuple((max(before, 0), max(after, 0)) for before, after in pads)
    back = Geometry(geometry.kernel, (t, height, width), (1, 1, 1), kept)
    return g, w[::-1, ::-1, ::-1].swapaxes(3, 4), back
