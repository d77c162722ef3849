"""CSN: "Video Classification with Channel-Separated Convolutional Networks".

Tran, Wang, Torresani, Feiszli, ICCV 2019 (arXiv 1904.02811): 3D ResNets whose 3 x 3 x 3 is
depthwise. It mixes space and time; the 1 x 1 x 1 convolutions around it mix channels:

    conv1   3 x 7 x 7, 64, stride (1,2,2)   32 x 112 x 112
    pool1   1 x 3 x 3, stride (1,2,2)       32 x 56 x 56
    res2    256                             32 x 56 x 56
    res3    512, stride 2                   16 x 28 x 28
    res4    1024, stride 2                   8 x 14 x 14
    res5    2048, stride 2                   4 x 7 x 7

ir-CSN (interaction-reduced) has only the depthwise convolution; ip-CSN (interaction-preserved) has
another 1 x 1 x 1 and BN before it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.layers import BatchNorm, Conv3D, conv_norm, max_pool
from jaxvideo.models.contract import check_clip, scaled
from jaxvideo.models.heads import POSITIONS, joint_answer, window_means
from jaxvideo.types import ConfigError, Lowering


class Block(nn.Module):
    """A bottleneck with a depthwise 3 x 3 x 3; the scale of the last BN is initialized to zero."""

    inner: int
    strides: tuple[int, int, int]
    preserved: bool
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv, norm, features = self.conv, self.norm, 4 * self.inner
        unit = functools.partial(conv_norm, train=train, activation="relu")
        shortcut = x
        if self.strides != (1, 1, 1) or x.shape[-1] != features:
            projection = conv(features, (1, 1, 1), self.strides, name="projection")
            shortcut = conv_norm(projection, norm(name="bn_projection"), x, train=train)
        x = unit(conv(self.inner, (1, 1, 1), name="conv_a"), norm(name="bn_a"), x)
        if self.preserved:
            conv_i = conv(self.inner, (1, 1, 1), name="conv_i")
            x = conv_norm(conv_i, norm(name="bn_i"), x, train=train)
        depthwise = conv(self.inner, (3, 3, 3), self.strides, groups=self.inner, name="conv_b")
        x = unit(depthwise, norm(name="bn_b"), x)
        bn_c = norm(scale_init=nn.initializers.zeros, name="bn_c")
        return unit(conv(features, (1, 1, 1), name="conv_c"), bn_c, x, residual=shortcut)


class Stage(nn.Module):
    """`blocks` blocks; the first one has the stride."""

    blocks: int
    inner: int
    strides: tuple[int, int, int]
    preserved: bool
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for index in range(self.blocks):
            strides = self.strides if index == 0 else (1, 1, 1)
            block = Block(
                self.inner,
                strides,
                self.preserved,
                self.conv,
                self.norm,
                name=f"block_{index + 1}",
            )
            x = block(x, train=train)
        return x


class CSN(nn.Module):
    """CSN (arXiv 1904.02811, Table 1) on a clip `[N, T, H, W, C]`.

    Returns logits `[N, classes]`, also in training. `pre_logits` is the pool,
    `[N, 1, H', W', 2048]` at test, with H' = W' = 1 for the training crop.

    Attributes:
      blocks: blocks per stage.
      preserved: True for ip-CSN, False (default) for ir-CSN.
      width: factor of all numbers of channels; 1.0 is the paper's.
      dropout_rate: dropout before the classifier.
      positions, pool: head at test, see `slowfast.SlowFast`.
      bn_groups, bn_momentum, bn_epsilon: see `layers.norm`.
      dtype: compute dtype; parameters and statistics are f32.
      lowering: see `types.Lowering`.
    """

    head = "fc"

    blocks: Sequence[int]
    preserved: bool = False
    num_classes: int = 400
    width: float = 1.0
    dropout_rate: float = 0.5
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
        check_clip(self, x, stem="conv1")

        def conv(features, kernel, strides=(1, 1, 1), groups=1, *, name):
            padding = tuple(k // 2 for k in kernel)
            how = {"dtype": self.dtype, "lowering": self.lowering}
            return Conv3D(features, kernel, strides, padding, groups, **how, name=name)

        def norm(*, name, **more):
            return BatchNorm(
                momentum=self.bn_momentum,
                epsilon=self.bn_epsilon,
                groups=self.bn_groups,
                dtype=self.dtype,
                name=name,
                **more,
            )

        endpoints = {}
        width = scaled(64, self.width)
        conv1, bn1 = conv(width, (3, 7, 7), (1, 2, 2), name="conv1"), norm(name="bn1")
        endpoints["conv1"] = x = conv_norm(conv1, bn1, x, train=train, activation="relu")
        endpoints["pool1"] = x = max_pool(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for index, blocks in enumerate(self.blocks):
            name, strides = f"res{index + 2}", (2, 2, 2) if index else (1, 1, 1)
            inner = width * 2**index
            stage = Stage(blocks, inner, strides, self.preserved, conv, norm, name=name)
            endpoints[name] = x = stage(x, train=train)
        x = x.astype(jnp.float32)
        if train or self.positions == "global":
            x = x.mean((1, 2, 3), keepdims=True)
        else:
            x = window_means(x, self.pool)
        endpoints["pool"] = features = x
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="fc")(x)
        endpoints["fc"] = x
        logits = joint_answer(x, self.positions)
        return logits, {**endpoints, "pre_logits": features, "logits": logits}


#: Blocks per stage by the number in the name.
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
