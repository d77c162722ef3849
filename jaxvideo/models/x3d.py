"""X3D: "Expanding Architectures for Efficient Video Recognition".

Feichtenhofer, CVPR 2020 (arXiv 2004.04730): a small 2-D network, X2D, is expanded along one axis
at a time: frame rate, frames, resolution, width, bottleneck width, depth. X3D-M for
16 x 224 x 224:

    conv1    1 x 3 x 3, 24, stride (1,2,2), then 5 x 1 x 1 depthwise, BN, ReLU    112 x 112
    res2     [54, 54, 24]      x 3     first block stride (1,2,2)                 56 x 56
    res3     [108, 108, 48]    x 5     stride 2                                   28 x 28
    res4     [216, 216, 96]    x 11    stride 2                                   14 x 14
    res5     [432, 432, 192]   x 7     stride 2                                    7 x 7
    conv5    432, BN, ReLU; average pool; fc1 2048 without bias, ReLU; fc2

A block is 1 x 1 x 1, 3 x 3 x 3 depthwise with the stride, squeeze-and-excitation in the 1st, 3rd,
5th, ... block of a stage, swish, 1 x 1 x 1. Time is never strided.

The width factor of the released code is twice the paper's, with base channels of 12, 24, 48, 96:
24 channels in res2 are `widen=2.0`. The authors released neither code nor weights of X3D-XL. In
pytorchvideo the shortcut of res2 has no BN, in PySlowFast it has (`res2_shortcut_bn`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.layers import BatchNorm, Conv3D, conv_norm
from jaxvideo.models.contract import check_clip, check_width
from jaxvideo.models.heads import POSITIONS, joint_answer, window_means
from jaxvideo.types import ConfigError, Lowering

# Blocks and channels of res2 to res5, before the factors `depth` and `widen`.
BLOCKS = (1, 2, 5, 3)
CHANNELS = (12, 24, 48, 96)


def round_width(channels: float, factor: float, least: int = 8, divisor: int = 8) -> int:
    """Returns `channels * factor`, rounded to a multiple of `divisor` but not by more than 10 %."""
    width = channels * factor
    rounded = max(least, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation: x * sigmoid(fc2(relu(fc1(mean of x over T, H, W))))."""

    hidden: int
    conv: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        fc1 = self.conv(self.hidden, (1, 1, 1), use_bias=True, name="fc1")
        fc2 = self.conv(x.shape[-1], (1, 1, 1), use_bias=True, name="fc2")
        y = x.mean((1, 2, 3), keepdims=True)
        y = conv_norm(fc1, None, y, train=train, activation="relu")
        return x * conv_norm(fc2, None, y, train=train, activation="sigmoid")


class Block(nn.Module):
    """An inverted bottleneck; the scale of the last BN is initialized to zero."""

    inner: int
    features: int
    stride: int
    excite: bool
    shortcut_bn: bool
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv, norm, strides = self.conv, self.norm, (1, self.stride, self.stride)
        unit = functools.partial(conv_norm, train=train)
        shortcut = x
        if self.stride > 1 or x.shape[-1] != self.features:
            projection = conv(self.features, (1, 1, 1), strides, name="projection")
            bn = norm(name="bn_projection") if self.shortcut_bn else None
            shortcut = unit(projection, bn, x)
        conv_a = conv(self.inner, (1, 1, 1), name="conv_a")
        x = unit(conv_a, norm(name="bn_a"), x, activation="relu")
        conv_b = conv(self.inner, (3, 3, 3), strides, groups=self.inner, name="conv_b")
        x = unit(conv_b, norm(name="bn_b"), x, activation="" if self.excite else "swish")
        if self.excite:
            excite = SqueezeExcite(round_width(self.inner, 1 / 16), conv, name="se")
            x = nn.swish(excite(x, train=train))
        conv_c = conv(self.features, (1, 1, 1), name="conv_c")
        bn_c = norm(scale_init=nn.initializers.zeros, name="bn_c")
        return unit(conv_c, bn_c, x, activation="relu", residual=shortcut)


class Stage(nn.Module):
    """`blocks` blocks; the first one has the stride."""

    blocks: int
    inner: int
    features: int
    first_shortcut_bn: bool
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for index in range(self.blocks):
            x = Block(
                self.inner,
                self.features,
                2 if index == 0 else 1,
                index % 2 == 0,
                index > 0 or self.first_shortcut_bn,
                self.conv,
                self.norm,
                name=f"block_{index + 1}",
            )(x, train=train)
        return x


class X3D(nn.Module):
    """X3D (arXiv 2004.04730, Table 3) on a clip `[N, T, H, W, C]`.

    Returns logits `[N, classes]`, also in training. `pre_logits` is fc1, `[N, 1, H', W', 2048]` at
    test, with H' = W' = 1 for the training crop.

    Attributes:
      widen: factor of the channels of all stages, twice the paper's gamma_w.
      bottleneck: the paper's gamma_b, inner channels over output channels of a block.
      depth: the paper's gamma_d, factor of the number of blocks.
      width: further factor of the channels of all stages; 1.0 is the paper's network.
      head_features: features of fc1; like the paper's gamma_w, `width` does not scale them.
      dropout_rate: dropout before the classifier.
      res2_shortcut_bn: the shortcut of res2 has BN, see above.
      positions, pool: head at test, see `slowfast.SlowFast`.
      bn_groups, bn_momentum, bn_epsilon: see `layers.norm`.
      dtype: compute dtype; parameters and statistics are f32.
      lowering: see `types.Lowering`.
    """

    head = "fc2"

    widen: float = 2.0
    bottleneck: float = 2.25
    depth: float = 2.2
    num_classes: int = 400
    width: float = 1.0
    head_features: int = 2048
    dropout_rate: float = 0.5
    res2_shortcut_bn: bool = False
    positions: str = "softmax"
    pool: int = 7
    bn_groups: int = 1
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        if self.positions not in POSITIONS:
            raise ConfigError(f"positions={self.positions!r}: allowed are {POSITIONS}")
        check_clip(self, x, stem="conv1_spatial")

        def conv(features, kernel, strides=(1, 1, 1), groups=1, *, name, use_bias=False):
            return Conv3D(
                features,
                kernel,
                strides,
                tuple(k // 2 for k in kernel),
                groups,
                use_bias=use_bias,
                dtype=self.dtype,
                lowering=self.lowering,
                name=name,
            )

        def norm(*, name, **more):
            return BatchNorm(
                momentum=self.bn_momentum,
                epsilon=self.bn_epsilon,
                groups=self.bn_groups,
                dtype=self.dtype,
                name=name,
                **more,
            )

        check_width(self.width)
        endpoints = {}
        channels = [round_width(c, self.widen * self.width) for c in CHANNELS]
        unit = functools.partial(conv_norm, train=train)
        x = unit(conv(channels[0], (1, 3, 3), (1, 2, 2), name="conv1_spatial"), None, x)
        temporal = conv(channels[0], (5, 1, 1), groups=channels[0], name="conv1_temporal")
        endpoints["conv1"] = x = unit(temporal, norm(name="bn1"), x, activation="relu")
        inner = 0
        for index, features in enumerate(channels):
            name, inner = f"res{index + 2}", int(self.bottleneck * features)
            blocks = math.ceil(self.depth * BLOCKS[index])
            bn = index > 0 or self.res2_shortcut_bn
            x = Stage(blocks, inner, features, bn, conv, norm, name=name)(x, train=train)
            endpoints[name] = x
        conv5 = conv(inner, (1, 1, 1), name="conv5")
        endpoints["conv5"] = x = unit(conv5, norm(name="bn5"), x, activation="relu")
        x = x.astype(jnp.float32)
        if train or self.positions == "global":
            x = x.mean((1, 2, 3), keepdims=True)
        else:
            x = window_means(x, self.pool)
        endpoints["pool"] = x
        x = nn.Dense(self.head_features, use_bias=False, kernel_init=_HE, name="fc1")(x)
        endpoints["fc1"] = x = features = nn.relu(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="fc2")(x)
        endpoints["fc2"] = x
        logits = joint_answer(x, self.positions)
        return logits, {**endpoints, "pre_logits": features, "logits": logits}


_HE = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

#: Factors by name; XS, S and M differ only in their clips. `pool` is the side of the last map for
#: the training crop.
VARIANTS: dict[str, dict[str, Any]] = {
    "x2d": {"bottleneck": 1.0, "depth": 1.0, "pool": 4},
    "x3d_xs": {"pool": 5},
    "x3d_s": {"pool": 5},
    "x3d_m": {"pool": 7},
    "x3d_l": {"depth": 5.0, "pool": 10},
    "x3d_xl": {"widen": 2.9, "depth": 5.0, "pool": 10},
}
