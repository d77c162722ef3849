"""Inflation of 2-D weights for 3-D networks.

The I3D paper (arXiv 1705.07750, section 2.3) repeats a 2-D kernel along time and divides it by the
number of taps. A clip of one repeated picture then has the activations of the 2-D network, except
within reach of zero padding in time. Center initialization puts the 2-D kernel into the middle tap
and zeros elsewhere. The 3-D network then starts as the 2-D one applied to each frame, for any clip.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxvideo.types import CheckpointError, UsageError

HOW = ("average", "center")


def inflate_kernel(kernel: np.ndarray, taps: int, how: str = "average") -> np.ndarray:
    """Inflates a 2-D kernel.

    Args:
      kernel: `[kh, kw, C, D]` or `[1, kh, kw, C, D]`.
      taps: number of taps in time.
      how: "average" (default) or "center".

    Returns:
      `[taps, kh, kw, C, D]`.

    Raises:
      ConfigError: `how` is another string.

    Example:
      >>> inflate_kernel(np.ones((3, 3, 64, 64)), 5).shape
      (5, 3, 3, 64, 64)
    """
    if how not in HOW:
        raise UsageError(f"inflation {how!r}: allowed are {', '.join(HOW)}")
    flat = np.asarray(kernel)
    flat = flat[0] if flat.ndim == 5 else flat
    if how == "average":
        return np.repeat(flat[None], taps, axis=0) / np.asarray(taps, flat.dtype)
    inflated = np.zeros((taps, *flat.shape), flat.dtype)
    inflated[taps // 2] = flat
    return inflated


def average_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Converts a first layer's kernel to another number of input channels.

    Each channel gets the mean over C (cross-modality initialization, TSN, arXiv 1608.00859, section
    3.2).

    Args:
      kernel: `[..., C, D]`.
      channels: new number of input channels.

    Returns:
      `[..., channels, D]`.
    """
    mean = np.asarray(kernel).mean(-2, keepdims=True)
    return np.repeat(mean, channels, axis=-2)


def inflate(
    flat: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], how: str = "average"
) -> dict[str, np.ndarray]:
    """Converts the arrays of a 2-D network to the shapes of a 3-D network with the same names.

    Args:
      flat: name to array; kernels `[kh, kw, C, D]` or `[1, kh, kw, C, D]`.
      expected: name to shape; kernels `[t, kh, kw, C', D]`. If C is 3 and C' differs, channels are
        averaged.
      how: see `inflate_kernel`.

    Returns:
      An array for every name in both.

    Raises:
      CheckpointError: an array cannot be converted to the expected shape.
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
