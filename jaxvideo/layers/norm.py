"""Batch normalization, and the differences between frameworks.

    framework      momentum m means            usual m   eps    running variance   scale
    torch          run = (1-m) run + m batch   0.1       1e-5   unbiased           yes
    Caffe2         run = m run + (1-m) batch   0.9       1e-3   unbiased           yes
    TF / Sonnet    run = m run + (1-m) batch   0.999     1e-3   biased             I3D: no
    Flax, here     run = m run + (1-m) batch   0.9       1e-5   see `unbiased`     yes

Thus 0.1 in torch is 0.9 here. All frameworks normalize with the biased variance.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxvideo.layers.lowerings.space_to_depth import columns_together
from jaxvideo.layers.parameters import parameter
from jaxvideo.types import ConfigError


class BatchNorm(nn.Module):
    """Normalizes over all axes but the last; statistics are at least f32 for any dtype.

    Under `jit` with a sharded batch, statistics are those of the GLOBAL batch. The papers used the
    statistics of each GPU's part of the batch. `groups=g` normalizes within g equal, contiguous
    groups of the global batch instead, so that a result depends on the config and not on the
    number of devices. Running statistics are then averages over the groups.

    Parameters: `scale` and `bias` (if used); statistics: `mean` and `var`; each `[C]`.

    Attributes:
      momentum: weight of the old running statistics, see the table above.
      epsilon: added to the variance.
      use_scale: True (default) for a parameter `scale`.
      use_bias: True (default) for a parameter `bias`.
      groups: number of groups of the global batch; it must divide the batch.
      unbiased: True (default) for an unbiased running variance.
      frozen: True to normalize by the running statistics in training too, and not to update them
        (partial BN of TSN); `optim.frozen` freezes scale and bias.
      dtype: dtype of the result.
      scale_init: initializer of `scale`.
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
    def __call__(
        self, x: jax.Array | jax.ShapeDtypeStruct, *, train: bool, as_affine: bool = False
    ) -> Any:
        """Normalizes `x [N, ..., C]`.

        Args:
          x: the input; with `as_affine` only its shape is used.
          train: True to use the statistics of the batch and to update the running ones.
          as_affine: True to return (factor, shift), each f32 `[C]`, such that the normalized x is
            `x * factor + shift` in inference.
        """
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = parameter(self, "scale", self.scale_init, (channels,)) if self.use_scale else 1.0
        bias = jnp.zeros(channels)
        if self.use_bias:
            bias = parameter(self, "bias", nn.initializers.zeros, (channels,))

        if not train or self.frozen or as_affine:
            factor = scale * lax.rsqrt(running_var.value + self.epsilon)
            shift = bias - running_mean.value * factor
            if as_affine:
                return factor, shift
        columns = columns_together(x.shape[-2], channels) if x.ndim > 3 else 1
        if not train or self.frozen:
            return _scaled(x, factor, shift, columns, self.dtype)

        if x.shape[0] % self.groups:
            raise ConfigError(
                f"BatchNorm: groups={self.groups} does not divide the batch of {x.shape[0]} clips; "
                "change bn_groups or the batch size"
            )
        center = lax.stop_gradient(running_mean.value)
        y, offset, var = _normalized(
            x, center, scale, bias, self.groups, columns, self.epsilon, self.dtype
        )
        if not self.is_initializing():
            count = x.size // (self.groups * channels)
            correction = count / max(count - 1, 1) if self.unbiased else 1.0
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * (offset + center)
            running_var.value = keep * running_var.value + (1 - keep) * (var * correction)
        return y


# `_scaled` and `_normalized` use the layout of the surrounding convolutions (see
# `layers.lowerings.space_to_depth`), a view without data movement. Neither may be jitted, because
# XLA for TPUs does not move such views across the call.


def _side_by_side(x, columns):
    shape = (*x.shape[:-2], x.shape[-2] // columns, columns * x.shape[-1])
    return x.reshape(shape).astype(jnp.promote_types(x.dtype, jnp.float32))


def _tiled(per_channel, columns):
    """`[..., C]` repeated `columns` times."""
    *rest, channels = per_channel.shape
    repeated = jnp.broadcast_to(per_channel[..., None, :], (*rest, columns, channels))
    return repeated.reshape(*rest, columns * channels)


def _scaled(x, factor, shift, columns, dtype):
    y = _side_by_side(x, columns) * _tiled(factor, columns) + _tiled(shift, columns)
    return y.reshape(x.shape).astype(dtype)


def _normalized(x, center, scale, bias, groups, columns, epsilon, dtype):
    """Returns y, the mean offset from `center` and the mean variance, both over groups, `[C]`."""
    view = _side_by_side(x, columns)
    view = view.reshape(groups, -1, *view.shape[1:])
    middle = [1] * (view.ndim - 2)

    def mean(values):
        per_lane = values.mean(tuple(range(1, values.ndim - 1)))
        return per_lane.reshape(groups, columns, -1).mean(1)

    def spread(per_group):
        return _tiled(per_group, columns).reshape(groups, *middle, -1)

    # E[d^2] - E[d]^2 needs one pass over the data but loses digits if the mean is far from zero.
    # Relative to the running mean, d is nearly centered after the first steps of training.
    deviation = view - _tiled(center, columns)
    offset = mean(deviation)
    var = jnp.maximum(mean(jnp.square(deviation)) - jnp.square(offset), 0.0)
    # With one factor and one shift, the gradient also consists of sums over g and g * deviation,
    # and nothing else of the size of x is written.
    factor = scale * lax.rsqrt(var + epsilon)
    y = deviation * spread(factor) + spread(bias - offset * factor)
    return y.reshape(x.shape).astype(dtype), offset.mean(0), var.mean(0)
