"""The networks of "A Closer Look at Spatiotemporal Convolutions for Action Recognition".

Tran, Wang, Torresani, Ray, LeCun, Paluri, CVPR 2018 (arXiv 1711.11248): R2D, f-R2D, MCx,
rMCx, R3D and R(2+1)D, all from the one table at the end of this file.

Layout (paper, Table 1), for a clip of L frames of 112 x 112; basic blocks, no max pool:

    conv1    7x7, 64, stride (1,2,2)                       L   x 56 x 56
    conv2_x  [3x3, 64;  3x3, 64]  x 2                      L   x 56 x 56
    conv3_x  [3x3, 128; 3x3, 128] x 2, first stride 2      L/2 x 28 x 28
    conv4_x  [3x3, 256; 3x3, 256] x 2, first stride 2      L/4 x 14 x 14
    conv5_x  [3x3, 512; 3x3, 512] x 2, first stride 2      L/8 x 7 x 7
    pool, fc global average over space and time

Time is strided at the first block of a stage only if that stage's convolutions have a
temporal extent; the projection shortcut follows. BN has the first-party (VMZ, Caffe2)
epsilon, 1e-3. Where paper and code differ from torchvision's nets of the same names:
torchvision uses epsilon 1e-5, and computes R(2+1)D's mid width once per block
(`mid_channels="per_block"`), which makes another network (31.5M against 33.4M parameters).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.layers import BatchNorm, Conv2Plus1D, Conv3D
from jaxvideo.types import ConfigError, Lowering

#: How the convolutions of a stage see time.
SPATIAL = "2D"  # 1 x k x k
FULL = "3D"  # t x k x k
FACTORISED = "(2+1)D"  # 1 x k x k to a mid width, BN, ReLU, t x 1 x 1
ALL_FRAMES = "L"  # stem of R2D: one kernel over all frames, which collapses time


def mid_width(in_channels: int, out_channels: int, t: int = 3, d: int = 3) -> int:
    """M of the (2+1)D factorisation: as many weights as the t x d x d kernel (section 3.5)."""
    weights = t * d * d * in_channels * out_channels
    return weights // (d * d * in_channels + t * out_channels)


class BasicBlock(nn.Module):
    """conv, BN, ReLU, conv, BN, add the shortcut, ReLU; the stride is on the first conv."""

    features: int
    kind: str
    strides: tuple[int, int, int]
    mid_channels: str
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def convolve(x, strides, block_input, name):
            if self.kind != FACTORISED:
                t = 3 if self.kind == FULL else 1
                return self.conv(self.features, (t, 3, 3), strides, name=name)(x)
            in_channels = x.shape[-1] if self.mid_channels == "per_conv" else block_input
            mid = mid_width(in_channels, self.features)
            return Conv2Plus1D(
                self.features, mid, (3, 3, 3), strides, self.conv, self.norm, name=name
            )(x, train=train)

        shortcut, width = x, x.shape[-1]
        x = convolve(x, self.strides, width, "conv_1")
        x = nn.relu(self.norm(name="bn_1")(x, train=train))
        x = convolve(x, (1, 1, 1), width, "conv_2")
        x = self.norm(name="bn_2")(x, train=train)
        if self.strides != (1, 1, 1) or width != self.features:
            shortcut = self.conv(self.features, (1, 1, 1), self.strides, name="projection")(
                shortcut
            )
            shortcut = self.norm(name="bn_projection")(shortcut, train=train)
        return nn.relu(x + shortcut)


class Stage(nn.Module):
    """`blocks` basic blocks; the first one carries the stride."""

    blocks: int
    features: int
    kind: str
    strides: tuple[int, int, int]
    mid_channels: str
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for index in range(self.blocks):
            x = BasicBlock(
                self.features,
                self.kind,
                self.strides if index == 0 else (1, 1, 1),
                self.mid_channels,
                self.conv,
                self.norm,
                name=f"block_{index + 1}",
            )(x, train=train)
        return x


class ResNet3D(nn.Module):
    """A row of the table: `(logits [N, classes], endpoints)` of a clip `[N, T, H, W, C]`.

    Attributes:
      kinds: how stem, conv2_x, ..., conv5_x see time.
      blocks: blocks per stage.
      width: channels of conv2_x; 64 in the paper, the other stages follow.
      mid_channels: "per_conv" (paper, VMZ) or "per_block" (torchvision).
      dropout_rate: before fc; the paper uses none.
      bn_groups, bn_momentum, bn_epsilon: see `layers.norm`.
      dtype: compute dtype; parameters and statistics are f32.
    """

    kinds: Sequence[str]
    blocks: Sequence[int]
    num_classes: int = 400
    width: int = 64
    mid_channels: str = "per_conv"
    dropout_rate: float = 0.0
    bn_groups: int = 1
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-3
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        if self.mid_channels not in ("per_conv", "per_block"):
            raise ConfigError(
                f"mid_channels={self.mid_channels!r}: allowed are 'per_conv' and 'per_block'"
            )

        def conv(features, kernel, strides=(1, 1, 1), padding=None, *, name):
            padding = tuple(k // 2 for k in kernel) if padding is None else padding
            how = {"dtype": self.dtype, "lowering": self.lowering}
            return Conv3D(features, kernel, strides, padding, **how, name=name)

        norm = functools.partial(
            BatchNorm,
            momentum=self.bn_momentum,
            epsilon=self.bn_epsilon,
            groups=self.bn_groups,
            dtype=self.dtype,
        )
        frames = x.shape[1]
        endpoints = {}
        x = self._stem(x, conv, norm, train)
        endpoints["conv1"] = x
        for index, (kind, blocks) in enumerate(zip(self.kinds[1:], self.blocks, strict=True)):
            name = f"conv{index + 2}_x"
            # Very short clips are not strided to nothing (VMZ, video_model.py).
            too_short = (frames < 8 and index == 3) or (frames < 4 and index == 2)
            temporal = 1 if kind == SPATIAL or too_short else 2
            strides = (1, 1, 1) if index == 0 else (temporal, 2, 2)
            x = Stage(
                blocks,
                self.width * 2**index,
                kind,
                strides,
                self.mid_channels,
                conv,
                norm,
                name=name,
            )(x, train=train)
            endpoints[name] = x
        x = x.astype(jnp.float32).mean((1, 2, 3))
        endpoints["pool"] = x
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        # As torchvision's; VMZ's own filler is not known.
        init = nn.initializers.normal(0.01)
        logits = nn.Dense(self.num_classes, kernel_init=init, name="fc")(x)
        endpoints["fc"] = logits
        return logits, endpoints

    def _stem(self, x, conv, norm, train):
        kind = self.kinds[0]
        if kind == FACTORISED:
            # 45 at width 64: paper, appendix; the formula would give 83.
            mid = max(45 * self.width // 64, 1)
            x = Conv2Plus1D(self.width, mid, (3, 7, 7), (1, 2, 2), conv, norm, name="conv1")(
                x, train=train
            )
        else:
            t = {SPATIAL: 1, FULL: 3, ALL_FRAMES: x.shape[1]}[kind]
            padding = (0 if kind == ALL_FRAMES else t // 2, 3, 3)
            x = conv(self.width, (t, 7, 7), (1, 2, 2), padding, name="conv1")(x)
        return nn.relu(norm(name="bn1")(x, train=train))


# The paper's table, one row per network: how conv1, conv2_x, ..., conv5_x see time.
# MCx is 3-D below stage x and 2-D from x on; rMCx the reverse (conv1 is stage 1).
KINDS = {
    "r2d": (ALL_FRAMES, SPATIAL, SPATIAL, SPATIAL, SPATIAL),
    "f_r2d": (SPATIAL, SPATIAL, SPATIAL, SPATIAL, SPATIAL),
    "mc2": (FULL, SPATIAL, SPATIAL, SPATIAL, SPATIAL),
    "mc3": (FULL, FULL, SPATIAL, SPATIAL, SPATIAL),
    "mc4": (FULL, FULL, FULL, SPATIAL, SPATIAL),
    "mc5": (FULL, FULL, FULL, FULL, SPATIAL),
    "r3d": (FULL, FULL, FULL, FULL, FULL),
    "rmc2": (SPATIAL, FULL, FULL, FULL, FULL),
    "rmc3": (SPATIAL, SPATIAL, FULL, FULL, FULL),
    "rmc4": (SPATIAL, SPATIAL, SPATIAL, FULL, FULL),
    "rmc5": (SPATIAL, SPATIAL, SPATIAL, SPATIAL, FULL),
    "r2plus1d": (FACTORISED, FACTORISED, FACTORISED, FACTORISED, FACTORISED),
}

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
