"""3D ResNets: "A Closer Look at Spatiotemporal Convolutions", and those of Hara et al.

The tables at the end of this file list all networks.

Tran, Wang, Torresani, Ray, LeCun, Paluri, CVPR 2018 (arXiv 1711.11248): R2D, f-R2D, MCx,
rMCx, R3D and R(2+1)D. For a clip of L frames of 112 x 112; basic blocks, no max pool:

    conv1    7x7, 64, stride (1,2,2)                       L   x 56 x 56
    conv2_x  [3x3, 64;  3x3, 64]  x 2                      L   x 56 x 56
    conv3_x  [3x3, 128; 3x3, 128] x 2, first stride 2      L/2 x 28 x 28
    conv4_x  [3x3, 256; 3x3, 256] x 2, first stride 2      L/4 x 14 x 14
    conv5_x  [3x3, 512; 3x3, 512] x 2, first stride 2      L/8 x 7 x 7
    pool, fc global average over space and time

The first block of a stage, and its projection shortcut, have a temporal stride only if the
convolutions of that stage have temporal kernels. BN's epsilon is 1e-3 in the authors' code (VMZ,
Caffe2) and 1e-5 in torchvision's networks of the same names. torchvision also computes R(2+1)D's
mid width once per block, which is a different network (31.5M instead of 33.4M parameters): see
`mid_channels`.

Hara, Kataoka, Satoh, ICCVW 2017 and CVPR 2018 (arXiv 1708.07632, 1711.09577): ResNet-10 to
-200 with a 7x7x7 stem and a 3x3x3 max pool of stride 2, so that conv2_x sees L/2 x 28 x 28;
shortcut A (a strided slice, zeros for the new channels) or B (projection); and its
pre-activation, wide (k = 2) and ResNeXt variants. The authors' code stops the gradient of shortcut
A; here it does not, as in the ResNet paper. Their R(2+1)D has the same layout; the mid width of its
stem is that of the formula (110).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.layers import BatchNorm, Conv2Plus1D, Conv3D, conv_norm, max_pool
from jaxvideo.models.contract import check_clip, free, scaled
from jaxvideo.types import ConfigError, Lowering

#: Kernels of the convolutions of a stage.
SPATIAL = "2D"  # 1 x k x k
FULL = "3D"  # t x k x k
FACTORIZED = "(2+1)D"  # 1 x k x k to a mid width, BN, ReLU, t x 1 x 1
ALL_FRAMES = "L"  # stem of R2D: one kernel over all frames; the output has one frame


def mid_width(in_channels: int, out_channels: int, t: int = 3, d: int = 3) -> int:
    """Returns M of the (2+1)D factorization, which keeps the number of weights (section 3.5)."""
    weights = t * d * d * in_channels * out_channels
    return weights // (d * d * in_channels + t * out_channels)


class ResidualBlock(nn.Module):
    """A residual block: convolutions with BN and ReLU, and a shortcut.

    Attributes:
      convs: (features, taps) of each convolution. The first one with more than one tap has the
        stride.
      preactivation: BN and ReLU precede the convolutions, and nothing follows the sum.
      Others: see `ResNet3D`.
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
        """The mid width of the given parameters if `mid_channels="auto"`, otherwise 0."""
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
        if self.shortcut == FACTORIZED:
            mid, one = mid_width(x.shape[-1], features, d=1), (1, 1, 1)
            projection = Conv2Plus1D(
                features, mid, one, self.strides, self.conv, self.norm, name="projection"
            )
        else:
            projection = self.conv(features, (1, 1, 1), self.strides, name="projection")
        return conv_norm(projection, self.norm(name="bn_projection"), x, train=train)


class Stage(nn.Module):
    """`blocks` residual blocks; the first one has the stride."""

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
    """3D ResNet (arXiv 1711.11248, Table 1; 1711.09577, Table 1) on a clip `[N, T, H, W, C]`.

    Returns logits `[N, classes]`, also in training; `pre_logits` is the global average pool,
    `[N, 512]` for basic blocks and `[N, 2048]` for bottlenecks.

    Attributes:
      kinds: kernels of stem, conv2_x, ..., conv5_x; see `KINDS`.
      blocks: blocks per stage.
      expansion: 0 for basic blocks; for bottlenecks, output channels over inner channels.
      width: factor of all numbers of channels; 1.0 is the papers'.
      widen: inner channels of conv2_x over those of the stem (Hara's k).
      groups: groups of the bottlenecks' 3x3x3 convolutions (ResNeXt's cardinality).
      shortcut: if shapes change, "A" (zero padding, no parameters), "B" (projection), or "(2+1)D"
        (a factorized projection, in mmaction2).
      preactivation: BN and ReLU before the convolutions; none follows the last block.
      hara: True: Hara's stem with 7 temporal taps and a max pool. False: Tran's with 3 and none.
      stem_mid: mid width of R(2+1)D's stem at 64 channels; 83 (by the formula) in mmaction2.
      stem_pool: True: a 1 x 3 x 3 max pool of stride 2 in space follows the stem.
      mid_channels: mid width of R(2+1)D: "per_conv" (paper, VMZ) or "per_block" (torchvision).
        "auto" (default) is "per_conv" for fresh parameters and otherwise that of the parameters.
      short_clips: "strided": time is halved in conv3_x, conv4_x and conv5_x for every clip
        (torchvision, VMZ's networks in torch, Hara). "kept": not in conv5_x for clips of less
        than 8 frames, nor in conv4_x for less than 4 (VMZ's Caffe2 code, `create_r3d`).
      dropout_rate: dropout before the classifier; 0 in the papers.
      bn_groups, bn_momentum, bn_epsilon: see `layers.norm`.
      dtype: compute dtype; parameters and statistics are f32.
      lowering: see `types.Lowering`.
    """

    head = "fc"

    kinds: Sequence[str]
    blocks: Sequence[int]
    expansion: int = 0
    num_classes: int = 400
    width: float = 1.0
    widen: int = 1
    groups: int = 1
    shortcut: str = "B"
    preactivation: bool = False
    hara: bool = False
    stem_mid: int = 45
    stem_pool: bool = False
    mid_channels: str = free("auto")
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
            ("shortcut", ("A", "B", FACTORIZED)),
            ("short_clips", ("strided", "kept")),
        ):
            if getattr(self, field) not in allowed:
                raise ConfigError(f"{field}={getattr(self, field)!r}: allowed are {allowed}")

        check_clip(self, x, stem="conv1")

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
        frames, width = x.shape[1], scaled(64, self.width)
        endpoints = {}
        x = self._stem(x, width, conv, norm, train)
        endpoints["conv1"] = x
        if self.hara:
            x = max_pool(x, (3, 3, 3), (2, 2, 2), 1)
            endpoints["pool1"] = x
        elif self.stem_pool:
            endpoints["pool1"] = x = max_pool(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for index, (kind, blocks) in enumerate(zip(self.kinds[1:], self.blocks, strict=True)):
            name = f"conv{index + 2}_x"
            features = width * self.widen * 2**index
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
        endpoints["pool"] = pool = x.astype(jnp.float32).mean((1, 2, 3))
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(pool)
        # torchvision's initializer; VMZ's is unknown.
        init = nn.initializers.normal(0.01)
        logits = nn.Dense(self.num_classes, kernel_init=init, name="fc")(x)
        endpoints["fc"] = logits
        return logits, {**endpoints, "pre_logits": pool, "logits": logits}

    def _stem(self, x, width, conv, norm, train):
        kind, t = self.kinds[0], 7 if self.hara else 3
        if kind == FACTORIZED:
            # Tran: 45 for 64 channels (appendix); the formula yields 83.
            tran = max(self.stem_mid * width // 64, 1)
            mid = mid_width(x.shape[-1], width, t, 7) if self.hara else tran
            conv1 = Conv2Plus1D(width, mid, (t, 7, 7), (1, 2, 2), conv, norm, name="conv1")
        else:
            t = {SPATIAL: 1, FULL: t, ALL_FRAMES: x.shape[1]}[kind]
            padding = (0 if kind == ALL_FRAMES else t // 2, 3, 3)
            conv1 = conv(width, (t, 7, 7), (1, 2, 2), padding, name="conv1")
        return conv_norm(conv1, norm(name="bn1"), x, train=train, activation="relu")


# Kernels of conv1, conv2_x, ..., conv5_x, one row per network. MCx is 3-D below stage x and 2-D
# from x on; rMCx is the reverse (conv1 is stage 1).
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

# Blocks per stage by number of layers; Hara's networks have bottlenecks from 50 on.
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
    """Returns the arguments of a network of arXiv 1711.11248; bottlenecks from 50 layers on."""
    deep = {"expansion": 4} if depth >= 50 else {}
    return {"kinds": KINDS[kind], "blocks": BLOCKS[depth], **deep}


def hara(depth: int, kind: str = "r3d", **form: Any) -> dict[str, Any]:
    """Returns the arguments of a network of arXiv 1711.09577; `form` holds further arguments."""
    return {"expansion": 0, **tran(kind, depth), "hara": True, **form}


#: R(2+1)D-34 of mmaction2: see the attributes of `ResNet3D`.
MMACTION2: dict[str, Any] = {
    **tran("r2plus1d", 34),
    "stem_mid": 83,
    "stem_pool": True,
    "shortcut": FACTORIZED,
}

#: Variants of `hara`: bottlenecks with twice the inner channels, and these in 32 groups.
WIDE: dict[str, Any] = {"widen": 2, "expansion": 2}
RESNEXT: dict[str, Any] = {**WIDE, "groups": 32}
