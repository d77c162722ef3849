"""What at least two families of networks are built of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo.layers.geometry import Triple


def average_predictions(*logits: jax.Array) -> jax.Array:
    """Logits `[N, classes]` whose softmax is the mean of the softmaxes of all given ones."""
    together = jax.nn.log_softmax(jnp.stack(logits).astype(jnp.float32))
    return jax.nn.logsumexp(together, axis=0) - np.log(len(logits))


class Conv2Plus1D(nn.Module):
    """t x k x k as 1 x k x k to `mid` channels, BN, ReLU, t x 1 x 1.

    R(2+1)D's factorisation (arXiv 1711.11248, section 3.5), which chooses `mid` to keep the
    number of weights, and S3D's (arXiv 1712.04851, section 4.2), where `mid` is `features`.
    The second BN and ReLU are the caller's, as with any other convolution.

    `conv(features, kernel, strides, name=)` and `norm(name=)` make the layers.
    """

    features: int
    mid: int
    kernel: Triple
    strides: Triple
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        (t, *k), (st, *s) = self.kernel, self.strides
        x = self.conv(self.mid, (1, *k), (1, *s), name="spatial")(x)
        x = nn.relu(self.norm(name="bn")(x, train=train))
        return self.conv(self.features, (t, 1, 1), (st, 1, 1), name="temporal")(x)
