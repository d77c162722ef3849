"""I3D: "Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset", and S3D.

Carreira and Zisserman, CVPR 2017 (arXiv 1705.07750): Inception-v1 with batch normalization,
every k x k filter inflated to k x k x k. As released (kinetics-i3d): TF's SAME padding
everywhere, BN without scale, epsilon 1e-3 and decay 0.999, dropout between the average pool
and the logits, and the logits averaged over time. A layer's name here and there:

    conv_1a, bn_1a       Conv3d_1a_7x7
    conv_2b, conv_2c     Conv3d_2b_1x1, Conv3d_2c_3x3
    pool_2a ... pool_5a  MaxPool3d_2a_3x3 ... MaxPool3d_5a_2x2
    mixed_4b/branch_1/{conv_a,conv_b}  Mixed_4b/Branch_1/{Conv3d_0a_1x1,Conv3d_0b_3x3}
    logits               Logits/Conv3d_0c_1x1

"Rethinking Spatiotemporal Feature Learning", Xie, Sun, Huang, Tu, Murphy, ECCV 2018 (arXiv
1712.04851): the same trunk, with kernels that reach over time in some layers only, separable
ones, `conv_2c/{spatial,temporal}`, and gates (section 4.4). The table at the bottom holds all.

S3D-G exists in three forms. The authors' code (tensorflow/models, slim) has a first kernel of
3 x 7 x 7 that is not separable; a bias instead of BN after the temporal kernels, which start as
the identity; gates without bias, on 2c and on every branch of a block. The paper has BN after
both halves and gates with bias after the temporal convolutions. torchvision's and kylemin's
S3D, whose weights exist, has a separable first layer too and symmetric padding.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.layers import BatchNorm, Conv2Plus1D, Conv3D, avg_pool, conv_norm, max_pool
from jaxvideo.types import ConfigError, Lowering

# b0, b1 reduce, b1, b2 reduce, b2, b3 (Inception-v1; paper, Figure 3).
MIXED = {
    "mixed_3b": (64, 96, 128, 16, 32, 32),
    "mixed_3c": (128, 128, 192, 32, 96, 64),
    "mixed_4b": (192, 96, 208, 16, 48, 64),
    "mixed_4c": (160, 112, 224, 24, 64, 64),
    "mixed_4d": (128, 128, 256, 24, 64, 64),
    "mixed_4e": (112, 144, 288, 32, 64, 64),
    "mixed_4f": (256, 160, 320, 32, 128, 128),
    "mixed_5b": (256, 160, 320, 32, 128, 128),
    "mixed_5c": (384, 192, 384, 48, 128, 128),
}

# The trunk in order: (name, features, kernel, strides) of a convolution,
# (name, None, kernel, strides) of a max pool, or a row of MIXED.
TRUNK = (
    ("1a", 64, (7, 7, 7), (2, 2, 2)),
    ("pool_2a", None, (1, 3, 3), (1, 2, 2)),
    ("2b", 64, (1, 1, 1), (1, 1, 1)),
    ("2c", 192, (3, 3, 3), (1, 1, 1)),
    ("pool_3a", None, (1, 3, 3), (1, 2, 2)),
    "mixed_3b",
    "mixed_3c",
    ("pool_4a", None, (3, 3, 3), (2, 2, 2)),
    "mixed_4b",
    "mixed_4c",
    "mixed_4d",
    "mixed_4e",
    "mixed_4f",
    ("pool_5a", None, (2, 2, 2), (2, 2, 2)),
    "mixed_5b",
    "mixed_5c",
)

#: The layers whose kernels may reach over time, in order.
LAYERS = ("1a", "2c", "3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")

_GATES = ("", "temporal", "all")


class InceptionTrunk(nn.Module):
    """`(features [N, T', H', W', 1024], endpoints)` of a clip `[N, T, H, W, C]`: Inception
    without its head, and how its convolutions are made.

    Attributes:
      width: multiplies every channel count; 1 is the paper's.
      temporal: the `LAYERS` whose kernels are k x k x k; the others' are 1 x k x k.
      per_frame: no pool or stride over time either: Inception-v1 on every frame.
      stem_taps: 1a's kernel over time, where it has one.
      separable: k x k x k as 1 x k x k and k x 1 x 1, see `layers.Conv2Plus1D`.
      separable_stem: 1a too.
      temporal_bn: BN after the temporal halves; else a bias, and they start as the identity.
      gates: "temporal", a gate after every temporal convolution but 1a's; "all", after 2c and
        every branch; "", none.
      gate_bias: with a bias.
      symmetric: padding (k - 1) / 2 on both sides, as torch ports have it, not TF's SAME.
      kernel_std: of the truncated normal that kernels start from; 0 is 1 / sqrt(inputs).
      bn_scale: False as released by its authors, True for the PyTorch ports' weights.
      bn_unbiased, bn_groups, bn_momentum, bn_epsilon: see `layers.norm`.
      dtype: compute dtype; parameters and statistics are f32.
    """

    width: float = 1.0
    temporal: Sequence[str] = LAYERS
    per_frame: bool = False
    stem_taps: int = 7
    separable: bool = False
    separable_stem: bool = True
    temporal_bn: bool = True
    gates: str = ""
    gate_bias: bool = True
    symmetric: bool = False
    kernel_std: float = 0.0
    bn_scale: bool = False
    bn_unbiased: bool = False
    bn_groups: int = 1
    bn_momentum: float = 0.999
    bn_epsilon: float = 1e-3
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        return self.trunk(x, train)

    def trunk(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """For the compact `__call__` of a network, whose scope it fills."""
        if set(self.temporal) - set(LAYERS):
            raise ConfigError(f"temporal={self.temporal!r}: names out of {LAYERS}")
        if self.gates not in _GATES:
            raise ConfigError(f"gates={self.gates!r}: allowed are {_GATES}")
        endpoints = {}
        for row in TRUNK:
            if isinstance(row, str):
                features = tuple(self.wide(f) for f in MIXED[row])
                taps = 3 if row.removeprefix("mixed_") in self.temporal else 1
                x = Mixed(features, taps, self.parts, name=row)(x, train=train)
                endpoints[row] = x
                continue
            name, features, (t, *k), (stride, *s) = row
            strides = (1, *s) if self.per_frame else (stride, *s)
            if features is None:
                x = self.pool(x, (t, *k), strides)
                endpoints[name] = x
                continue
            taps = self.stem_taps if name == "1a" else t
            kernel = (taps if name in self.temporal else 1, *k)
            gated = self.gates == "all" and name == "2c"
            x = self.parts.unit(
                x, name, self.wide(features), kernel, strides, gated=gated, train=train
            )
            endpoints[f"conv_{name}"] = x
        return x, endpoints

    @property
    def parts(self) -> InceptionTrunk:
        """A copy that belongs to no scope, so blocks may hold it and use its functions."""
        return self.clone(parent=None, name=None)

    @nn.nowrap
    def wide(self, features: int) -> int:
        return max(round(features * self.width), 1)

    @nn.nowrap
    def padding(self, kernel):
        return tuple((k - 1) // 2 for k in kernel) if self.symmetric else "SAME"

    @nn.nowrap
    def pool(self, x, kernel, strides):
        kernel = (1, *kernel[1:]) if self.per_frame else kernel
        return max_pool(x, kernel, strides, self.padding(kernel))

    @nn.nowrap
    def conv(self, features, kernel, strides=(1, 1, 1), *, name, **more):
        init = nn.initializers.lecun_normal()
        if self.kernel_std:
            # The truncated distribution is narrower than the number says, as TF's is.
            init = nn.initializers.truncated_normal(self.kernel_std)
        return Conv3D(
            features,
            kernel,
            strides,
            self.padding(kernel),
            dtype=self.dtype,
            lowering=self.lowering,
            name=name,
            **{"kernel_init": init, **more},
        )

    @nn.nowrap
    def norm(self, *, name):
        return BatchNorm(
            momentum=self.bn_momentum,
            epsilon=self.bn_epsilon,
            use_scale=self.bn_scale,
            groups=self.bn_groups,
            unbiased=self.bn_unbiased,
            dtype=self.dtype,
            name=name,
        )

    @nn.nowrap
    def unit(self, x, suffix, features, kernel, strides=(1, 1, 1), *, gated=False, train):
        """Convolution, BN, ReLU and perhaps a gate; fills the scope of its caller."""
        name, (t, *_) = f"conv_{suffix}", kernel
        halves = self.separable and t > 1 and (self.separable_stem or suffix != "1a")
        if halves:
            part = self.conv if self.temporal_bn else self._conv_of_slim
            conv = Conv2Plus1D(features, features, kernel, strides, part, self.norm, name=name)
        else:
            conv = self.conv(features, kernel, strides, name=name)
        norm = self.norm(name=f"bn_{suffix}") if self.temporal_bn or not halves else None
        x = conv_norm(conv, norm, x, train=train, activation="relu")
        if gated or (self.gates == "temporal" and t > 1 and suffix != "1a"):
            x = self.gate(x, f"gate_{suffix}", train=train)
        return x

    @nn.nowrap
    def gate(self, x, name, *, train):
        """Feature gating (S3D paper, section 4.4): x * sigmoid(W mean over T, H, W of x + b)."""
        summary = x.mean((1, 2, 3), keepdims=True)
        conv = self.conv(x.shape[-1], (1, 1, 1), use_bias=self.gate_bias, name=name)
        return x * conv_norm(conv, None, summary, train=train, activation="sigmoid")

    @nn.nowrap
    def _conv_of_slim(self, features, kernel, strides=(1, 1, 1), *, name):
        if name == "spatial":
            return self.conv(features, kernel, strides, name=name)
        more = {"use_bias": True, "kernel_init": _identity}
        return self.conv(features, kernel, strides, name=name, **more)


class Mixed(nn.Module):
    """The Inception block: four branches, concatenated on channels in their order."""

    features: Sequence[int]  # b0, b1 reduce, b1, b2 reduce, b2, b3
    taps: int
    parts: InceptionTrunk

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        b0, b1r, b1, b2r, b2, b3 = self.features
        kernel = (self.taps, 3, 3)
        branches = (
            (x, [("a", b0, (1, 1, 1))]),
            (x, [("a", b1r, (1, 1, 1)), ("b", b1, kernel)]),
            (x, [("a", b2r, (1, 1, 1)), ("b", b2, kernel)]),
            (self.parts.pool(x, (3, 3, 3), (1, 1, 1)), [("b", b3, (1, 1, 1))]),
        )
        outputs = [
            Branch(layers, self.parts, name=f"branch_{index}")(source, train=train)
            for index, (source, layers) in enumerate(branches)
        ]
        return jnp.concatenate(outputs, axis=-1)


class Branch(nn.Module):
    """Convolutions `(suffix, features, kernel)` in a row, each with BN and ReLU."""

    convolutions: Sequence[tuple[str, int, tuple[int, int, int]]]
    parts: InceptionTrunk

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for suffix, features, kernel in self.convolutions:
            x = self.parts.unit(x, suffix, features, kernel, train=train)
        if self.parts.gates == "all":
            x = self.parts.gate(x, "gate", train=train)
        return x


class I3D(InceptionTrunk):
    """`(logits [N, classes], endpoints)` of a clip `[N, T, H, W, 3]`, or 2 channels of flow.

    At 64 x 224 x 224 the average pool is (2, 7, 7), as released; for other sizes it covers
    all of space, which is what a fully-convolutional test averages anyway.

    Attributes:
      dropout_rate: 0.5 in I3D's training.
      Others: see `InceptionTrunk`.
    """

    num_classes: int = 400
    dropout_rate: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        x, endpoints = self.trunk(x, train)
        taps = 1 if self.per_frame else min(2, x.shape[1])
        x = avg_pool(x, (taps, *x.shape[2:4]), (1, 1, 1))
        endpoints["avg_pool"] = x
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        head = self.clone(parent=None, name=None, dtype=jnp.float32)
        conv = head.conv(self.num_classes, (1, 1, 1), use_bias=True, name="logits")
        logits = conv_norm(conv, None, x, train=train).mean((1, 2, 3))
        endpoints["logits"] = logits
        return logits, endpoints


class TwoStreamI3D(nn.Module):
    """Two I3Ds, `rgb` and `flow`, whose logits are added, as the released code does (the paper
    speaks of averaged predictions); of a clip `[N, T, H, W, 5]`, RGB before flow.

    Attributes: see `I3D`.
    """

    num_classes: int = 400
    width: float = 1.0
    dropout_rate: float = 0.5
    symmetric: bool = False
    bn_scale: bool = False
    bn_groups: int = 1
    bn_momentum: float = 0.999
    bn_epsilon: float = 1e-3
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        if x.shape[-1] != 5:
            raise ConfigError(f"a clip of {x.shape[-1]} channels: RGB and flow are 5")
        names = {f.name for f in dataclasses.fields(self)} - {"parent", "name"}
        stream = functools.partial(I3D, **{name: getattr(self, name) for name in names})
        endpoints = {}
        for name, channels in (("rgb", x[..., :3]), ("flow", x[..., 3:])):
            _, ends = stream(name=name)(channels, train=train)
            endpoints |= {f"{name}/{end}": value for end, value in ends.items()}
        logits = endpoints["rgb/logits"] + endpoints["flow/logits"]
        endpoints["logits"] = logits
        return logits, endpoints


def _identity(key, shape, dtype=jnp.float32):
    """A kernel `[t, 1, 1, C, C]` that changes nothing: the block starts as the 2-D one."""
    del key
    taps, *_, inputs, outputs = shape
    return jnp.zeros(shape, dtype).at[taps // 2, 0, 0].set(jnp.eye(inputs, outputs, dtype=dtype))


def _from(layer: str) -> tuple[str, ...]:
    return LAYERS[LAYERS.index(layer) :]


def _up_to(layer: str) -> tuple[str, ...]:
    return LAYERS[: LAYERS.index(layer) + 1]


_SLIM = {"separable": True, "separable_stem": False, "stem_taps": 3, "temporal_bn": False}
_PORT = {"separable": True, "symmetric": True, "bn_scale": True, "bn_unbiased": True}
_PAPER = {"separable": True}

#: Arguments of `I3D` that make the networks of both papers.
VARIANTS: dict[str, dict[str, Any]] = {
    "i3d": {},
    "i2d": {"temporal": ()},
    "inception_v1": {"temporal": (), "per_frame": True},
    **{f"i3d_top_heavy_{k}": {"temporal": _from(k)} for k in ("2c", "3b", "4b", "4e", "5b")},
    **{f"i3d_bottom_heavy_{k}": {"temporal": _up_to(k)} for k in ("2c", "3c", "4d", "4f")},
    "s3d": _PORT,
    "s3d_paper": _PAPER,
    "s3d_slim": {**_SLIM, "kernel_std": 0.01},
    **{f"s3d_top_heavy_{k}": {**_PAPER, "temporal": _from(k)} for k in ("3b", "4b", "5b")},
    "s3dg": {**_SLIM, "kernel_std": 0.01, "gates": "all", "gate_bias": False},
    "s3dg_paper": {**_PAPER, "gates": "temporal"},
}
