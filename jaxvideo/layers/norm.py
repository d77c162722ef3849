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

from jaxvideo.layers.space_to_depth import columns_together
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
        bias = jnp.zeros(channels)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (channels,))

        # As the convolutions around hold it (`layers.space_to_depth`): a view, nothing moves.
        shape = x.shape
        columns = columns_together(shape[-2], channels) if x.ndim > 3 else 1
        x = x.reshape(*shape[:-2], shape[-2] // columns, columns * channels).astype(jnp.float32)

        def tiled(per_channel):
            return jnp.tile(per_channel, columns)

        if not train or self.frozen:
            factor = scale * lax.rsqrt(running_var.value + self.epsilon)
            shift = bias - running_mean.value * factor
            return (x * tiled(factor) + tiled(shift)).reshape(shape).astype(self.dtype)

        if shape[0] % self.groups:
            raise ConfigError(f"BatchNorm groups={self.groups} must divide the batch of {shape[0]}")
        grouped = x.reshape(self.groups, -1, *x.shape[1:])

        def mean(values):
            """Over a group: `[groups, C]`."""
            per_lane = values.mean(tuple(range(1, values.ndim - 1)))
            return per_lane.reshape(self.groups, columns, channels).mean(1)

        def spread(per_group):
            return tiled(per_group).reshape(self.groups, *[1] * (x.ndim - 1), -1)

        # One pass over the data, E[d^2] - E[d]^2, loses digits when the mean is far from
        # zero; taken about the running mean, d is centred as soon as training has begun.
        centre = lax.stop_gradient(running_mean.value)
        deviation = grouped - tiled(centre)
        offset = mean(deviation)
        var = jnp.maximum(mean(jnp.square(deviation)) - jnp.square(offset), 0.0)
        if not self.is_initializing():
            count = x.size // (self.groups * channels)
            correction = count / max(count - 1, 1) if self.unbiased else 1.0
            keep = self.momentum
            batch_mean, batch_var = offset.mean(0) + centre, var.mean(0) * correction
            running_mean.value = keep * running_mean.value + (1 - keep) * batch_mean
            running_var.value = keep * running_var.value + (1 - keep) * batch_var
        factor = scale * lax.rsqrt(var + self.epsilon)
        y = (deviation - spread(offset)) * spread(factor) + tiled(bias)
        return y.reshape(shape).astype(self.dtype)
