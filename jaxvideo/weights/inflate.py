"""2-D weights for 3-D networks: functions over arrays, by name.

The I3D paper (arXiv 1705.07750, section 2.3) repeats a 2-D kernel along time and divides it by
the number of taps: a clip of one repeated picture, a "boring video", then gives the 2-D
network's activations, except where zero padding in time reaches. Center initialization puts
the 2-D kernel into the middle tap and zeros beside it: the 3-D network then starts as the 2-D
one, frame by frame, on any clip.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxvideo.types import CheckpointError, ConfigError

HOW = ("average", "center")


def inflate_kernel(kernel: np.ndarray, taps: int, how: str = "average") -> np.ndarray:
    """`[kh, kw, C, D]`, or `[1, kh, kw, C, D]`, to `[taps, kh, kw, C, D]`."""
    if how not in HOW:
        raise ConfigError(f"inflation {how!r}: allowed are {', '.join(HOW)}")
    flat = np.asarray(kernel)
    flat = flat[0] if flat.ndim == 5 else flat
    if how == "average":
        return np.repeat(flat[None], taps, axis=0) / np.asarray(taps, flat.dtype)
    inflated = np.zeros((taps, *flat.shape), flat.dtype)
    inflated[taps // 2] = flat
    return inflated


def average_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A first layer's kernel `[..., C, D]` for another number of input channels: each gets the
    mean over C (cross-modality initialization, TSN, arXiv 1608.00859, section 3.2)."""
    mean = np.asarray(kernel).mean(-2, keepdims=True)
    return np.repeat(mean, channels, axis=-2)


def inflate(
    flat: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], how: str = "average"
) -> dict[str, np.ndarray]:
    """A 2-D network's arrays, in the shapes of a 3-D network with the same names.

    Args:
      flat: name to array; kernels `[kh, kw, C, D]` or `[1, kh, kw, C, D]`.
      expected: name to shape; kernels `[t, kh, kw, C', D]`. The channels of a kernel that sees
        RGB are averaged if it is to see another number of channels.

    Returns:
      An array for every name that both have.

    Raises:
      CheckpointError: an array that does not become its shape so.
    """
    inflated = {}
    for name, shape in expected.items():
        if name not in flat:
            continue
        array = np.asarray(flat[name])
        if len(shape) == 5 and array.ndim in (4, 5):
            if array.shape[-2] == 3 != shape[-2]:
                array = average_channels(array, shape[-2])
            if array.ndim == 4 or (array.shape[0] == 1 and shape[0] > 1):
                array = inflate_kernel(array, shape[0], how)
        if array.shape != tuple(shape):
            raise CheckpointError(
                f"{name}: {tuple(np.shape(flat[name]))} cannot be inflated to {tuple(shape)}"
            )
        inflated[name] = array
    return inflated
