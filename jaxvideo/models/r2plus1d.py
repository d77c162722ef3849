"""R(2+1)D-50 of pytorchvideo: bottlenecks with a temporal and then a spatial convolution.

It is named after "A Closer Look at Spatiotemporal Convolutions for Action Recognition", Tran, Wang,
Torresani, Ray, LeCun, Paluri, CVPR 2018 (arXiv 1711.11248), and has the following differences to
R(2+1)D of that paper, see `models.resnet3d`: the 3 x 1 x 1 precedes the 1 x 3 x 3, between them the
number of channels is that of the bottleneck, the stem is 1 x 7 x 7, and every stage has a stride
in space. For a clip of 16 frames of 224 x 224:

    conv1   1 x 7 x 7, 64, stride (1,2,2)   16 x 112 x 112
    res2    256, stride (1,2,2)             16 x 56 x 56
    res3    512, stride (1,2,2)             16 x 28 x 28
    res4    1024, stride (2,2,2)             8 x 14 x 14
    res5    2048, stride (2,2,2)             4 x 7 x 7
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.layers import BatchNorm, Conv3D, conv_norm
from jaxvideo.models.contract import check_clip, scaled
from jaxvideo.models.heads import POSITIONS, joint_answer, window_means
from jaxvideo.types import ConfigError, Lowering


class Block(nn.Module):
    """1 x 1 x 1, 3 x 1 x 1, 1 x 3 x 3, 1 x 1 x 1, and the shortcut; BN follows each of them."""

    inner: int
    strides: tuple[int, int, int]
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv, norm, features = self.conv, self.norm, 4 * self.inner
        unit = functools.partial(conv_norm, train=train, activation="relu")
        t, *space = self.strides
        shortcut = x
        if self.strides != (1, 1, 1) or x.shape[-1] != features:
            projection = conv(features, (1, 1, 1), self.strides, name="projection")
            shortcut = conv_norm(projection, norm(name="bn_projection"), x, train=train)
        x = unit(conv(self.inner, (1, 1, 1), name="conv_a"), norm(name="bn_a"), x)
        temporal = conv(self.inner, (3, 1, 1), (t, 1, 1), name="conv_t")
        x = unit(temporal, norm(name="bn_t"), x)
        x = unit(conv(self.inner, (1, 3, 3), (1, *space), name="conv_b"), norm(name="bn_b"), x)
        bn_c = norm(scale_init=nn.initializers.zeros, name="bn_c")
        return unit(conv(features, (1, 1, 1), name="conv_c"), bn_c, x, residual=shortcut)


class Stage(nn.Module):
    """`blocks` blocks; the first one has the stride."""

    blocks: int
    inner: int
    strides: tuple[int, int, int]
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for index in range(self.blocks):
            strides = self.strides if index == 0 else (1, 1, 1)
            block = Block(self.inner, strides, self.conv, self.norm, name=f"block_{index + 1}")
            x = block(x, train=train)
        return x


class R2Plus1D(nn.Module):
    """R(2+1)D-50 of pytorchvideo on a clip `[N, T, H, W, C]`.

    Returns logits `[N, classes]`, also in training. `pre_logits` is the pool,
    `[N, 1, H', W', 2048]` at test, with H' = W' = 1 for the training crop.

    Attributes:
      blocks: blocks per stage.
      temporal_strides: strides in time of the stages.
      width: factor of all numbers of channels; 1.0 is pytorchvideo's.
      dropout_rate: dropout before the classifier.
      positions, pool: head at test, see `slowfast.SlowFast`.
      bn_groups, bn_momentum, bn_epsilon: see `layers.norm`.
      dtype: compute dtype; parameters and statistics are f32.
      lowering: see `types.Lowering`.
    """

    head = "fc"

    blocks: Sequence[int] = (3, 4, 6, 3)
    temporal_strides: Sequence[int] = (1, 1, 2, 2)
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

        def conv(features, kernel, strides=(1, 1, 1), *, name):
            padding = tuple(k // 2 for k in kernel)
            how = {"dtype": self.dtype, "lowering": self.lowering}
            return Conv3D(features, kernel, strides, padding, **how, name=name)

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
        conv1, bn1 = conv(width, (1, 7, 7), (1, 2, 2), name="conv1"), norm(name="bn1")
        endpoints["conv1"] = x = conv_norm(conv1, bn1, x, train=train, activation="relu")
        for index, blocks in enumerate(self.blocks):
            name, strides = f"res{index + 2}", (self.temporal_strides[index], 2, 2)
            stage = Stage(blocks, width * 2**index, strides, conv, norm, name=name)
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
