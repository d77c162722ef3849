"""Batch normalisation, with the differences between frameworks settled in one place.

    framework      momentum m means            usual m   eps    running variance   scale
    torch          run = (1-m) run + m batch   0.1       1e-5   unbiased           yes
    Caffe2         run = m run + (1-m) batch   0.9       1e-3   unbiased           yes
    TF / Sonnet    run = m run + (1-m) batch   0.999     1e-3   biased             I3D: no
    Flax, here     run = m run + (1-m) batch   0.9       1e-5   see `unbiased`     yes

So torch's 0.1 is 0.9 here. All of them normalise with the biased variance.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxvideo.types import ConfigError


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last; statistics are f32 in any dtype.

    Under `jit` with a sharded batch the mean is over the GLOBAL batch. The papers used the
    statistics of each GPU's share: `groups=g` normalises within g equal, contiguous groups of
    the global batch instead, so a result depends on the config, never on the number of
    devices. The running statistics then average over the groups.

    `frozen`: normalise by the running statistics in training too and leave them alone, as
    fine-tuning recipes do (TSN's partial BN); `optim.frozen` freezes scale and bias.

    Parameters `scale`, `bias` (if used), statistics `mean`, `var`, each `[C]`.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    groups: int = 1
    unbiased: bool = True
    frozen: bool = False
    dtype: Any = jnp.float32
    scale_init: Any = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", self.scale_init, (channels,)) if self.use_scale else 1.0
        bias = self.param("bias", nn.initializers.zeros, (channels,)) if self.use_bias else 0.0

        if not train or self.frozen:
            factor = scale * lax.rsqrt(running_var.value + self.epsilon)
            shift = bias - running_mean.value * factor
            return (x.astype(jnp.float32) * factor + shift).astype(self.dtype)

        if x.shape[0] % self.groups:
            raise ConfigError(
                f"BatchNorm groups={self.groups} must divide the batch of {x.shape[0]}"
            )
        grouped = x.astype(jnp.float32).reshape(self.groups, -1, *x.shape[1:])
        axes = tuple(range(1, grouped.ndim - 1))
        # One pass over the data, E[d^2] - E[d]^2, loses digits when the mean is far from
        # zero; taken about the running mean, d is centred as soon as training has begun.
        centre = lax.stop_gradient(running_mean.value)
        deviation = grouped - centre
        offset = deviation.mean(axes, keepdims=True)
        var = jnp.maximum(jnp.square(deviation).mean(axes, keepdims=True) - jnp.square(offset), 0.0)
        if not self.is_initializing():
            count = grouped.size // (self.groups * channels)
            correction = count / max(count - 1, 1) if self.unbiased else 1.0
            keep = self.momentum
            batch_mean = offset.reshape(self.groups, channels).mean(0) + centre
            batch_var = var.reshape(self.groups, channels).mean(0) * correction
            running_mean.value = keep * running_mean.value + (1 - keep) * batch_mean
            running_var.value = keep * running_var.value + (1 - keep) * batch_var
        factor = scale * lax.rsqrt(var + self.epsilon)
        y = (deviation - offset) * factor + bias
        return y.reshape(x.shape).astype(self.dtype)
