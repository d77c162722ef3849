"""P3D: "Learning Spatio-Temporal Representation with Pseudo-3D Residual Networks".

Qiu, Yao, Mei, ICCV 2017 (arXiv 1711.10305): ResNet bottlenecks whose 3 x 3 is split into S,
1 x 3 x 3, and T, 3 x 1 x 1, combined in three ways that alternate over the whole depth:

    A   T(S(x))            B   S(x) + T(x)            C   S(x) + T(S(x))

For 16 x 160 x 160; a max pool of 2 in time follows each stage but the last, so the input of
conv5_x, which is purely 2-D, has one frame:

    conv1    1 x 7 x 7, 64, stride (1,2,2)     16 x 80 x 80
    pool1    2 x 3 x 3, stride 2                8 x 40 x 40
    conv2_x  256                                8 x 40 x 40
    conv3_x  512, first block (1,2,2)           4 x 20 x 20
    conv4_x  1024, first block (1,2,2)          2 x 10 x 10
    conv5_x  2048, first block (1,2,2)          1 x 5 x 5
    pool, fc global average, dropout

The stride is on a block's first 1 x 1 x 1. P3D-63, -131 and -199 have the blocks of
ResNet-50, -101 and -152.

In the authors' Caffe networks pool1 rounds up, and the last ReLU of B and C follows the sum. In
the PyTorch port, for which weights exist, pool1 is padded by one, each branch has a ReLU and the
sum has none (`form="port"`); `form` must match the weights.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.layers import BatchNorm, Conv3D, conv_norm, max_pool
from jaxvideo.models.contract import check_clip, scaled
from jaxvideo.types import ConfigError, Lowering

_EXPANSION = 4
_FORMS = ("official", "port")


class Bottleneck(nn.Module):
    """1 x 1 x 1, S and T combined by `wiring` ("A", "B", "C"; "2D": S only), 1 x 1 x 1."""

    features: int
    wiring: str
    strides: tuple[int, int, int]
    form: str
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def unit(x, features, kernel, name, strides=(1, 1, 1), activation="relu", residual=None):
            conv = self.conv(features, kernel, strides, name=name)
            norm = self.norm(name=f"bn_{name.removeprefix('conv_')}")
            return conv_norm(conv, norm, x, train=train, activation=activation, residual=residual)

        wide = self.features * _EXPANSION
        shortcut = x
        if self.strides != (1, 1, 1) or x.shape[-1] != wide:
            shortcut = unit(x, wide, (1, 1, 1), "projection", self.strides, activation="")
        x = unit(x, self.features, (1, 1, 1), "conv_1", self.strides)
        s = unit(x, self.features, (1, 3, 3), "spatial")
        temporal = (x if self.wiring == "B" else s, self.features, (3, 1, 1), "temporal")
        if self.wiring == "2D":
            x = s
        elif self.wiring == "A":
            x = unit(*temporal)
        elif self.form == "port":
            x = s + unit(*temporal)
        else:
            x = unit(*temporal, residual=s)
        return unit(x, wide, (1, 1, 1), "conv_2", residual=shortcut)


class Stage(nn.Module):
    """One block per wiring; the first one has the stride."""

    features: int
    wirings: Sequence[str]
    strides: tuple[int, int, int]
    form: str
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for index, wiring in enumerate(self.wirings):
            x = Bottleneck(
                self.features,
                wiring,
                self.strides if index == 0 else (1, 1, 1),
                self.form,
                self.conv,
                self.norm,
                name=f"block_{index + 1}",
            )(x, train=train)
        return x


class P3D(nn.Module):
    """P3D ResNet (arXiv 1711.10305, section 3) on a clip `[N, T, H, W, C]`.

    Returns logits `[N, classes]`, also in training; `pre_logits` is the global average pool,
    `[N, 2048]`.

    Attributes:
      blocks: blocks per stage.
      wirings: the wirings that alternate; "A", "B" or "C" alone is P3D-A, -B or -C.
      form: "official" or "port", see above.
      width: factor of all numbers of channels; 1.0 is the paper's.
      dropout_rate: dropout before the classifier.
      bn_groups, bn_momentum, bn_epsilon: see `layers.norm`.
      dtype: compute dtype; parameters and statistics are f32.
      lowering: see `types.Lowering`.
    """

    head = "fc"

    blocks: Sequence[int]
    wirings: str = "ABC"
    form: str = "official"
    num_classes: int = 400
    width: float = 1.0
    dropout_rate: float = 0.5
    bn_groups: int = 1
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        if self.form not in _FORMS:
            raise ConfigError(f"form={self.form!r}: allowed are {_FORMS}")
        if not self.wirings or set(self.wirings) - set("ABC"):
            raise ConfigError(f"wirings={self.wirings!r}: must consist of the letters A, B and C")
        check_clip(self, x, stem="conv1")

        def conv(features, kernel, strides=(1, 1, 1), *, name):
            padding = tuple(k // 2 for k in kernel)
            how = {"dtype": self.dtype, "lowering": self.lowering}
            return Conv3D(features, kernel, strides, padding, **how, name=name)

        norm = functools.partial(
            BatchNorm,
            momentum=self.bn_momentum,
            epsilon=self.bn_epsilon,
            groups=self.bn_groups,
            dtype=self.dtype,
        )
        endpoints = {}
        width = scaled(64, self.width)
        conv1 = conv(width, (1, 7, 7), (1, 2, 2), name="conv1")
        x = conv_norm(conv1, norm(name="bn1"), x, train=train, activation="relu")
        endpoints["conv1"] = x
        pad = "CEIL" if self.form == "official" else (0, 1, 1)
        x = _halve(x, (3, 3), (2, 2), pad)
        endpoints["pool1"] = x
        turns = itertools.cycle(self.wirings)
        for stage, blocks in enumerate(self.blocks):
            wirings = tuple("2D" if stage == 3 else next(turns) for _ in range(blocks))
            strides = (1, 2, 2) if stage else (1, 1, 1)
            x = Stage(
                width * 2**stage,
                wirings,
                strides,
                self.form,
                conv,
                norm,
                name=f"conv{stage + 2}_x",
            )(x, train=train)
            endpoints[f"conv{stage + 2}_x"] = x
            if stage < 3:
                x = _halve(x)
        endpoints["pool"] = features = x.astype(jnp.float32).mean((1, 2, 3))
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(features)
        logits = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="fc")(x)
        endpoints["fc"] = logits
        return logits, {**endpoints, "pre_logits": features, "logits": logits}


def _halve(x, kernel=(1, 1), strides=(1, 1), padding: Any = 0):
    """Max pool of 2 in time; a map of one frame keeps it."""
    t = min(2, x.shape[1])
    return max_pool(x, (t, *kernel), (t, *strides), padding)


#: Blocks per stage by the number in the name.
BLOCKS = {63: (3, 4, 6, 3), 131: (3, 4, 23, 3), 199: (3, 8, 36, 3)}
