"""Transposed convolution ("deconvolution") over `[N, T, H, W, C]`.

It is the transpose of `layers.conv3d` and is computed as the input gradient of a convolution. Its
gradients are that convolution and its weight gradient, so all lowerings apply. Strides need neither
dilated inputs (a stride of 2 is four small, interleaved convolutions) nor XLA's gradient of
`conv_transpose`, which takes 10 to 35 times as long on a CPU (kernel 4, stride 2, 14 x 14 to
56 x 56).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.layers.conv import conv3d, explicit_padding
from jaxvideo.layers.geometry import Triple
from jaxvideo.layers.parameters import parameter
from jaxvideo.types import ConfigError, Lowering

Pads = int | Sequence[int] | Sequence[tuple[int, int]]


def deconv3d(
    x: jax.Array,
    w: jax.Array,
    strides: Sequence[int] = (1, 1, 1),
    padding: Pads = 0,
    lowering: Lowering = Lowering.AUTO,
) -> jax.Array:
    """Computes a transposed convolution, as torch and Caffe define it.

    Args:
      x: `[N, T, H, W, C]`.
      w: `[kt, kh, kw, C, D]`: input position i adds `x[i] w[k]` to output position
        `strides i + k - padding`.
      strides: (st, sh, sw), the factors by which sizes grow.
      padding: ints or pairs, the padding of the transposed convolution; it is removed from the
        result.
      lowering: lowering of the input gradient of that convolution.

    Returns:
      `[N, T', H', W', D]` with `T' = (T - 1) st + kt - padding before - padding after`.

    Raises:
      ConfigError: the padding is a string, or the result would be empty.

    Example:
      >>> deconv3d(jnp.ones((1, 2, 4, 4, 3)), jnp.ones((1, 4, 4, 3, 5)), (1, 2, 2), (0, 1, 1)).shape
      (1, 2, 8, 8, 5)
    """
    if isinstance(padding, str):
        raise ConfigError(
            f"padding={padding!r}: a transposed convolution needs ints or pairs of ints"
        )
    kernel, sizes = w.shape[:3], x.shape[1:4]
    pads = explicit_padding(padding, sizes, kernel, strides)
    out = [
        (size - 1) * s + k - sum(pad)
        for size, s, k, pad in zip(sizes, strides, kernel, pads, strict=True)
    ]
    if min(out) < 1:
        raise ConfigError(
            f"deconv3d: with padding {pads} the result has size {tuple(out)} (T, H, W); each must "
            "be at least 1"
        )
    back = w.swapaxes(3, 4)

    def convolution(y):
        return conv3d(y, back, strides, pads, lowering=lowering)

    y = jax.ShapeDtypeStruct((x.shape[0], *out, w.shape[4]), x.dtype)
    return jax.linear_transpose(convolution, y)(x)[0]


#: Caffe's "msra" for its deconvolution layer: normal, scaled by the number of output features.
msra = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Deconv3D(nn.Module):
    """Transposed convolution over `[N, T, H, W, C]`, see `deconv3d`.

    Parameters: `kernel [kt, kh, kw, C, features]` and, with `use_bias`, `bias [features]`, both f32
    for any compute `dtype`.
    """

    features: int
    kernel: Triple
    strides: Triple = (1, 1, 1)
    padding: Pads = 0
    use_bias: bool = False
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO
    kernel_init: Callable[..., Any] = msra
    bias_init: Callable[..., Any] = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.kernel, x.shape[-1], self.features)
        kernel = parameter(self, "kernel", self.kernel_init, shape)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        y = deconv3d(x, kernel, self.strides, self.padding, self.lowering)
        if self.use_bias:
            bias = parameter(self, "bias", self.bias_init, (self.features,))
            y = y + bias.astype(self.dtype)
        return y
