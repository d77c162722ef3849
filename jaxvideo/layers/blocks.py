"""Building blocks that several families of networks share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo.layers.conv import ACTIVATIONS, Conv3D
from jaxvideo.layers.geometry import Triple
from jaxvideo.layers.norm import BatchNorm


def average_predictions(*logits: jax.Array) -> jax.Array:
    """Returns logits `[N, classes]` whose softmax is the mean of the softmaxes of the arguments.

    Args:
      *logits: arrays `[N, classes]`.
    """
    together = jax.nn.log_softmax(jnp.stack(logits).astype(jnp.float32))
    return jax.nn.logsumexp(together, axis=0) - np.log(len(logits))


def conv_norm(
    conv: Conv3D | Conv2Plus1D,
    norm: BatchNorm | None,
    x: jax.Array,
    *,
    train: bool,
    activation: str = "",
    residual: jax.Array | None = None,
) -> jax.Array:
    """Computes `activation(norm(conv(x)) + residual)`: the building block of every network.

    In training these are separate operations. For inference, BatchNorm is folded into the kernel
    and the bias, and bias, residual and activation are part of the convolution. A lowering can
    then fuse them, and no platform reads the activations a second time for BatchNorm.

    Args:
      conv: a `Conv3D` or `Conv2Plus1D` in the caller's scope.
      norm: a `BatchNorm` in the caller's scope, or None.
      x: `[N, T, H, W, C]`.
      train: True for training.
      activation: a key of `layers.conv.ACTIVATIONS`, applied last; "" (default) for none.
      residual: array of the result's shape, added before the activation, or None (default).

    Example:
      x = conv_norm(Conv3D(64, (3, 3, 3), name="conv"), BatchNorm(name="bn"), x,
                    train=train, activation="relu", residual=x)
    """
    if train:
        x = conv(x)
        if norm is not None:
            x = norm(x, train=True)
        if residual is not None:
            x = x + residual
        return ACTIVATIONS[activation](x)

    affine = None
    if norm is not None:
        result = jax.ShapeDtypeStruct((1, conv.features), jnp.float32)
        affine = functools.partial(norm, result, train=False, as_affine=True)
    return conv(x, affine, residual=residual, activation=activation, inference=True)


class Conv2Plus1D(nn.Module):
    """Factorizes t x k x k into 1 x k x k to `mid` channels, BN, ReLU and t x 1 x 1.

    R(2+1)D (arXiv 1711.11248, section 3.5) chooses `mid` so that the number of weights stays the
    same. S3D (arXiv 1712.04851, section 4.2) uses `features`. The module is called like a `Conv3D`:
    BN and activation after the second convolution are part of the call, see `conv_norm`.

    Attributes:
      features: output channels.
      mid: channels between the two convolutions.
      kernel: (t, k, k).
      strides: (t, h, w).
      conv: `(features, kernel, strides, name=) -> Conv3D`.
      norm: `(name=) -> BatchNorm`.
    """

    features: int
    mid: int
    kernel: Triple
    strides: Triple
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        affine: Callable[[], tuple[jax.Array, jax.Array]] | None = None,
        *,
        residual: jax.Array | None = None,
        activation: str = "",
        inference: bool = False,
    ) -> jax.Array:
        (t, *k), (st, *s) = self.kernel, self.strides
        spatial = self.conv(self.mid, (1, *k), (1, *s), name="spatial")
        x = conv_norm(spatial, self.norm(name="bn"), x, train=not inference, activation="relu")
        temporal = self.conv(self.features, (t, 1, 1), (st, 1, 1), name="temporal")
        return temporal(x, affine, residual=residual, activation=activation, inference=inference)
