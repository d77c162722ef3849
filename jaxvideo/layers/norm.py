"""Batch normalization, with the differences between frameworks settled in one place.

    framework      momentum m means            usual m   eps    running variance   scale
    torch          run = (1-m) run + m batch   0.1       1e-5   unbiased           yes
    Caffe2         run = m run + (1-m) batch   0.9       1e-3   unbiased           yes
    TF / Sonnet    run = m run + (1-m) batch   0.999     1e-3   biased             I3D: no
    Flax, here     run = m run + (1-m) batch   0.9       1e-5   see `unbiased`     yes

So torch's 0.1 is 0.9 here. All of them normalize with the biased variance.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxvideo.layers.parameters import parameter
from jaxvideo.layers.lowerings.space_to_depth import columns_together
from jaxvideo.types import ConfigError


class BatchNorm(nn.Module):
    """Batch normalization over all axes but the last; statistics are at least f32 in any dtype.

    Under `jit` with a sharded batch the mean is over the GLOBAL batch. The papers used the
    statistics of each GPU's share: `groups=g` normalizes within g equal, contiguous groups of
    the global batch instead, so a result depends on the config, never on the number of
    devices. The running statistics then average over the groups.

    `frozen`: normalize by the running statistics in training too and leave them alone, as
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
    def __call__(
        self, x: jax.Array | jax.ShapeDtypeStruct, *, train: bool, as_affine: bool = False
    ) -> Any:
        """Normalizes `x [N, ..., C]`.

        With `as_affine` only the shape of x is read, which may be a `ShapeDtypeStruct`; the
        result is (factor, shift), each f32 `[C]`: for inference, the normalized x is
        `x * factor + shift`.
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
                f"BatchNorm groups={self.groups} must divide the batch of {x.shape[0]}"
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


# Both look at x as the convolutions around hold it (`layers.lowerings.space_to_depth`): a view, nothing
# moves. Neither may be jitted: the call keeps XLA from moving those views on a TPU.


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
    """y, and over the groups the mean offset from `center` and the mean variance, `[C]`."""
    view = _side_by_side(x, columns)
    view = view.reshape(groups, -1, *view.shape[1:])
    middle = [1] * (view.ndim - 2)

    def mean(values):
        per_lane = values.mean(tuple(range(1, values.ndim - 1)))
        return per_lane.reshape(groups, columns, -1).mean(1)

    def spread(per_group):
        return _tiled(per_group, columns).reshape(groups, *middle, -1)

    # One pass over the data, E[d^2] - E[d]^2, loses digits when the mean is far from zero;
    # taken about the running mean, d is centered as soon as training has begun.
    deviation = view - _tiled(center, columns)
    offset = mean(deviation)
    var = jnp.maximum(mean(jnp.square(deviation)) - jnp.square(offset), 0.0)
    # A multiple of the deviation and a shift, so that the gradient, too, is made of sums over
    # g and g * deviation: nothing else of x's size is written.
    factor = scale * lax.rsqrt(var + epsilon)
    y = deviation * spread(factor) + spread(bias - offset * factor)
    return y.reshape(x.shape).astype(dtype), offset.mean(0), var.mean(0)
