"""3D ResNets: of "A Closer Look at Spatiotemporal Convolutions", and of Hara et al.

One table (the end of this file) tells them all apart.

Tran, Wang, Torresani, Ray, LeCun, Paluri, CVPR 2018 (arXiv 1711.11248): R2D, f-R2D, MCx,
rMCx, R3D and R(2+1)D. For a clip of L frames of 112 x 112; basic blocks, no max pool:

    conv1    7x7, 64, stride (1,2,2)                       L   x 56 x 56
    conv2_x  [3x3, 64;  3x3, 64]  x 2                      L   x 56 x 56
    conv3_x  [3x3, 128; 3x3, 128] x 2, first stride 2      L/2 x 28 x 28
    conv4_x  [3x3, 256; 3x3, 256] x 2, first stride 2      L/4 x 14 x 14
    conv5_x  [3x3, 512; 3x3, 512] x 2, first stride 2      L/8 x 7 x 7
    pool, fc global average over space and time

Time is strided at the first block of a stage only if that stage's convolutions have a
temporal extent; the projection shortcut follows. First-party code (VMZ, Caffe2) has a BN
epsilon of 1e-3, torchvision's nets of the same names 1e-5. torchvision also computes
R(2+1)D's mid width once per block, which makes another network (31.5M against 33.4M
parameters): see `mid_channels`.

Hara, Kataoka, Satoh, ICCVW 2017 and CVPR 2018 (arXiv 1708.07632, 1711.09577): ResNet-10 to
-200 with a 7x7x7 stem and a 3x3x3 max pool of stride 2, so that conv2_x sees L/2 x 28 x 28;
shortcut A (a strided slice, zeros for the new channels) or B (projection); and its
pre-activation, wide (k = 2) and ResNeXt forms. The authors' code detaches shortcut A from
the gradient; here the gradient flows, as in the paper that shortcut A is from. Their (2+1)D
form is of the same layout, its stem's mid width by the formula (110).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.layers import BatchNorm, Conv2Plus1D, Conv3D, conv_norm, max_pool
from jaxvideo.types import ConfigError, Lowering

#: How the convolutions of a stage see time.
SPATIAL = "2D"  # 1 x k x k
FULL = "3D"  # t x k x k
FACTORIZED = "(2+1)D"  # 1 x k x k to a mid width, BN, ReLU, t x 1 x 1
ALL_FRAMES = "L"  # stem of R2D: one kernel over all frames, which collapses time


def mid_width(in_channels: int, out_channels: int, t: int = 3, d: int = 3) -> int:
    """M of the (2+1)D factorization: as many weights as the t x d x d kernel (section 3.5)."""
    weights = t * d * d * in_channels * out_channels
    return weights // (d * d * in_channels + t * out_channels)


class ResidualBlock(nn.Module):
    """Convolutions with BN and ReLU, added to a shortcut.

    `convs` are (features, taps) of each; the stride is on the first one with more than one
    tap. With `preactivation` BN and ReLU stand before the convolutions, and nothing follows
    the sum.
    """

    convs: Sequence[tuple[int, int]]
    kind: str
    strides: tuple[int, int, int]
    mid_channels: str
    shortcut: str
    preactivation: bool
    groups: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shortcut, width = self._shortcut(x, train), x.shape[-1]
        strided = next(i for i, (_, taps) in enumerate(self.convs) if taps > 1)
        norms = [self.norm(name=f"bn_{number}") for number in range(1, len(self.convs) + 1)]
        if self.preactivation:
            x = nn.relu(norms.pop(0)(x, train=train))
            norms.append(None)
        for index, ((features, taps), norm) in enumerate(zip(self.convs, norms, strict=True)):
            strides = self.strides if index == strided else (1, 1, 1)
            inputs = width if self.mid_channels == "per_block" else x.shape[-1]
            x = conv_norm(
                self._conv(inputs, features, taps, strides, f"conv_{index + 1}"),
                norm,
                x,
                train=train,
                activation="relu" if norm else "",
                residual=shortcut if index == len(self.convs) - 1 else None,
            )
        return x

    def _conv(self, inputs, features, taps, strides, name):
        if taps > 1 and self.kind == FACTORIZED:
            mid = self._given_mid(name) or mid_width(inputs, features)
            kernel = (taps, taps, taps)
            return Conv2Plus1D(features, mid, kernel, strides, self.conv, self.norm, name=name)
        kernel = (taps if self.kind == FULL else 1, taps, taps)
        groups = self.groups if taps > 1 else 1
        return self.conv(features, kernel, strides, groups=groups, name=name)

    def _given_mid(self, name) -> int:
        """The mid width of the parameters that "auto" is applied with; 0 while there are none."""
        if self.mid_channels != "auto":
            return 0
        given = self.variables.get("params", {}).get(name, {})
        return given["spatial"]["kernel"].shape[-1] if given else 0

    def _shortcut(self, x, train):
        features = self.convs[-1][0]
        if self.strides == (1, 1, 1) and x.shape[-1] == features:
            return x
        if self.shortcut == "A":
            t, h, w = self.strides
            x = x[:, ::t, ::h, ::w]
            return jnp.pad(x, [(0, 0)] * 4 + [(0, features - x.shape[-1])])
        projection = self.conv(features, (1, 1, 1), self.strides, name="projection")
        return conv_norm(projection, self.norm(name="bn_projection"), x, train=train)


class Stage(nn.Module):
    """`blocks` residual blocks; the first one carries the stride."""

    blocks: int
    strides: tuple[int, int, int]
    block: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for index in range(self.blocks):
            strides = self.strides if index == 0 else (1, 1, 1)
            x = self.block(strides=strides, name=f"block_{index + 1}")(x, train=train)
        return x


class ResNet3D(nn.Module):
    """A row of the table: `(logits [N, classes], endpoints)` of a clip `[N, T, H, W, C]`.

    Attributes:
      kinds: how stem, conv2_x, ..., conv5_x see time.
      blocks: blocks per stage.
      expansion: 0 for basic blocks; for bottlenecks, output channels over inner ones.
      width: channels of the stem; 64 in the papers, all others follow.
      widen: inner channels of conv2_x over `width` (Hara's k).
      groups: of the bottlenecks' 3x3x3 convolutions (ResNeXt's cardinality).
      shortcut: "A" (zeros, no parameters) or "B" (projection) where shapes change.
      preactivation: BN and ReLU before the convolutions; none follows the last block.
      hara: his stem, with temporal extent 7 and a max pool; else Tran's, 3 and none.
      mid_channels: of R(2+1)D, "per_conv" (paper, VMZ) or "per_block" (torchvision). "auto"
        is the first for fresh parameters, and whatever given ones have.
      short_clips: "strided", time is halved in conv3_x, conv4_x and conv5_x whatever the clip
        (torchvision, VMZ's networks in torch, Hara); "kept", not in conv5_x if the clip has less
        than 8 frames, nor in conv4_x if it has less than 4 (VMZ's Caffe2 code, `create_r3d`).
      dropout_rate: before fc; the papers use none.
      bn_groups, bn_momentum, bn_epsilon: see `layers.norm`.
      dtype: compute dtype; parameters and statistics are f32.
    """

    kinds: Sequence[str]
    blocks: Sequence[int]
    expansion: int = 0
    num_classes: int = 400
    width: int = 64
    widen: int = 1
    groups: int = 1
    shortcut: str = "B"
    preactivation: bool = False
    hara: bool = False
    mid_channels: str = "auto"
    short_clips: str = "strided"
    dropout_rate: float = 0.0
    bn_groups: int = 1
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        for field, allowed in (
            ("mid_channels", ("auto", "per_conv", "per_block")),
            ("shortcut", ("A", "B")),
            ("short_clips", ("strided", "kept")),
        ):
            if getattr(self, field) not in allowed:
                raise ConfigError(f"{field}={getattr(self, field)!r}: allowed are {allowed}")

        def conv(features, kernel, strides=(1, 1, 1), padding=None, groups=1, *, name):
            padding = tuple(k // 2 for k in kernel) if padding is None else padding
            how = {"dtype": self.dtype, "lowering": self.lowering}
            return Conv3D(features, kernel, strides, padding, groups, **how, name=name)

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
        if self.hara:
            x = max_pool(x, (3, 3, 3), (2, 2, 2), 1)
            endpoints["pool1"] = x
        for index, (kind, blocks) in enumerate(zip(self.kinds[1:], self.blocks, strict=True)):
            name = f"conv{index + 2}_x"
            features = self.width * self.widen * 2**index
            convs = ((features, 3), (features, 3))
            if self.expansion:
                convs = ((features, 1), (features, 3), (features * self.expansion, 1))
            too_short = (frames < 8 and index == 3) or (frames < 4 and index == 2)
            kept = too_short and self.short_clips == "kept"
            temporal = 1 if kind == SPATIAL or kept else 2
            block = functools.partial(
                ResidualBlock,
                convs=convs,
                kind=kind,
                mid_channels=self.mid_channels,
                shortcut=self.shortcut,
                preactivation=self.preactivation,
                groups=self.groups,
                conv=conv,
                norm=norm,
            )
            strides = (1, 1, 1) if index == 0 else (temporal, 2, 2)
            x = Stage(blocks, strides, block, name=name)(x, train=train)
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
        kind, t = self.kinds[0], 7 if self.hara else 3
        if kind == FACTORIZED:
            # Tran: 45 at width 64 (appendix), where the formula would give 83.
            tran = max(45 * self.width // 64, 1)
            mid = mid_width(x.shape[-1], self.width, t, 7) if self.hara else tran
            conv1 = Conv2Plus1D(self.width, mid, (t, 7, 7), (1, 2, 2), conv, norm, name="conv1")
        else:
            t = {SPATIAL: 1, FULL: t, ALL_FRAMES: x.shape[1]}[kind]
            padding = (0 if kind == ALL_FRAMES else t // 2, 3, 3)
            conv1 = conv(self.width, (t, 7, 7), (1, 2, 2), padding, name="conv1")
        return conv_norm(conv1, norm(name="bn1"), x, train=train, activation="relu")


# How conv1, conv2_x, ..., conv5_x see time, one row per network. MCx is 3-D below stage x
# and 2-D from x on; rMCx the reverse (conv1 is stage 1).
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
    "r2plus1d": (FACTORIZED, FACTORIZED, FACTORIZED, FACTORIZED, FACTORIZED),
}

# Blocks per stage, by the number of layers; Hara's have bottlenecks from 50 on.
BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


def tran(kind: str, depth: int) -> dict[str, Any]:
    """Arguments of a net of arXiv 1711.11248."""
    return {"kinds": KINDS[kind], "blocks": BLOCKS[depth]}


def hara(depth: int, kind: str = "r3d", **form: Any) -> dict[str, Any]:
    """Arguments of a net of arXiv 1711.09577; `form` is what differs from the plain one."""
    expansion = 4 if depth >= 50 else 0
    return {**tran(kind, depth), "hara": True, "expansion": expansion, **form}


#: Forms of `hara`: bottlenecks twice as wide inside with the same output, and those in groups.
WIDE: dict[str, Any] = {"widen": 2, "expansion": 2}
RESNEXT: dict[str, Any] = {**WIDE, "groups": 32}
