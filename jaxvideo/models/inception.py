"""I3D: "Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset", and S3D.

Carreira and Zisserman, CVPR 2017 (arXiv 1705.07750): Inception-v1 with batch normalization,
every k x k filter inflated to k x k x k. As released (kinetics-i3d): TF's SAME padding
everywhere, BN without scale, epsilon 1e-3 and decay 0.999, dropout between the average pool
and the logits, and the logits averaged over time. Names of the layers here and in that code:

    conv_1a, bn_1a       Conv3d_1a_7x7
    conv_2b, conv_2c     Conv3d_2b_1x1, Conv3d_2c_3x3
    pool_2a ... pool_5a  MaxPool3d_2a_3x3 ... MaxPool3d_5a_2x2
    mixed_4b/branch_1/{conv_a,conv_b}  Mixed_4b/Branch_1/{Conv3d_0a_1x1,Conv3d_0b_3x3}
    logits               Logits/Conv3d_0c_1x1

"Rethinking Spatiotemporal Feature Learning", Xie, Sun, Huang, Tu, Murphy, ECCV 2018 (arXiv
1712.04851): the same trunk with temporal kernels in some layers only, with separable kernels
(`conv_2c/{spatial,temporal}`) and with feature gating (section 4.4). `VARIANTS` at the end of this
file lists all networks.

There are three forms of S3D-G. In the authors' code (tensorflow/models, slim) the first kernel is
3 x 7 x 7 and not separable; temporal kernels have a bias instead of BN and start as the identity;
gates have no bias and follow 2c and every branch of a block. In the paper, BN follows both halves,
and gates with bias follow the temporal convolutions. In torchvision's and kylemin's S3D, for which
weights exist, the first layer is separable too and padding is symmetric.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.layers import BatchNorm, Conv2Plus1D, Conv3D, avg_pool, conv_norm, max_pool
from jaxvideo.models.contract import check_clip, scaled
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

#: The layers that can have temporal kernels, in order.
LAYERS = ("1a", "2c", "3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")

_GATES = ("", "temporal", "all")


class InceptionTrunk(nn.Module):
    """Inception without its head: `(features [N, T', H', W', 1024], endpoints)`.

    Attributes:
      width: factor of all numbers of channels; 1.0 is the paper's.
      temporal: the `LAYERS` with k x k x k kernels; the others have 1 x k x k kernels.
      per_frame: no pool and no stride over time: Inception-v1 on every frame.
      stem_taps: temporal size of 1a's kernel if 1a is temporal.
      separable: k x k x k kernels become 1 x k x k and k x 1 x 1, see `layers.Conv2Plus1D`.
      separable_stem: also those of 1a.
      temporal_bn: True: BN follows the temporal convolutions. False: they have a bias instead, and
        are initialized as the identity.
      gates: "temporal": a gate after every temporal convolution except 1a; "all": after 2c and
        every branch; "" (default): none.
      gate_bias: gates have a bias.
      symmetric: padding (k - 1) / 2 on both sides, as in the PyTorch ports, instead of TF's SAME.
      kernel_std: standard deviation of the truncated normal initializer; 0 (default): LeCun's.
      bn_scale: False for the authors' release, True for the weights of PyTorch ports.
      bn_unbiased, bn_groups, bn_momentum, bn_epsilon: see `layers.norm`.
      dtype: compute dtype; parameters and statistics are f32.
      lowering: see `types.Lowering`.
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
        """Computes the trunk in the scope of the compact method that calls it."""
        if set(self.temporal) - set(LAYERS):
            raise ConfigError(f"temporal={self.temporal!r}: allowed are {LAYERS}")
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
        """An unbound copy, so that blocks can hold it as an attribute and use its methods."""
        return self.clone(parent=None, name=None)

    @nn.nowrap
    def wide(self, features: int) -> int:
        """Returns a number of channels, scaled by `width`."""
        return scaled(features, self.width)

    @nn.nowrap
    def padding(self, kernel):
        """Returns the padding of a kernel: symmetric, or "SAME" of TensorFlow."""
        return tuple((k - 1) // 2 for k in kernel) if self.symmetric else "SAME"

    @nn.nowrap
    def pool(self, x, kernel, strides):
        """Applies a max pool, per frame if the network is 2-D."""
        kernel = (1, *kernel[1:]) if self.per_frame else kernel
        return max_pool(x, kernel, strides, self.padding(kernel))

    @nn.nowrap
    def conv(self, features, kernel, strides=(1, 1, 1), *, name, **more):
        """Returns a convolution with the options of the network."""
        init = nn.initializers.lecun_normal()
        if self.kernel_std:
            # As in TF, the standard deviation before truncation.
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
        """Returns a BatchNorm with the options of the network."""
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
        """Convolution, BN, ReLU and optionally a gate, in the scope of the caller."""
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
    """An Inception block: four branches, concatenated over the channels."""

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
    """A sequence of convolutions `(suffix, features, kernel)`, each with BN and ReLU."""

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
    """I3D and S3D (see above) on a clip `[N, T, H, W, 3]`, or 2 channels of flow.

    Returns logits `[N, classes]`, the mean over time, also in training. `pre_logits` is the
    average pool, `[N, T', 1, 1, 1024]`: (2, 7, 7) at 64 x 224 x 224, as released. For other sizes
    it covers all of H and W, which is equal to averaging the logits of a fully convolutional test.

    Attributes:
      dropout_rate: dropout before the classifier; 0.5 in I3D's training.
      Others: see `InceptionTrunk`.
    """

    head = "logits"

    num_classes: int = 400
    dropout_rate: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        check_clip(self, x, stem="conv_1a")
        x, endpoints = self.trunk(x, train)
        taps = 1 if self.per_frame else min(2, x.shape[1])
        x = avg_pool(x, (taps, *x.shape[2:4]), (1, 1, 1))
        endpoints["avg_pool"] = features = x
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        head = self.clone(parent=None, name=None, dtype=jnp.float32)
        conv = head.conv(self.num_classes, (1, 1, 1), use_bias=True, name="logits")
        logits = conv_norm(conv, None, x, train=train).mean((1, 2, 3))
        return logits, {**endpoints, "pre_logits": features, "logits": logits}


def _identity(key, shape, dtype=jnp.float32):
    """Initializer: the identity as a kernel `[t, 1, 1, C, C]`; the block starts as a 2-D one."""
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

#: Arguments of `I3D` for the networks of both papers.
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
