"""I3D: "Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset", and S3D.

Carreira and Zisserman, CVPR 2017 (arXiv 1705.07750): Inception-v1 with batch normalisation,
every k x k filter inflated to k x k x k. As released (kinetics-i3d): TF's SAME padding
everywhere, BN without scale, epsilon 1e-3 and decay 0.999, dropout between the average pool
and the logits, and the logits averaged over time. A layer's name here and there:

    conv_1a, bn_1a       Conv3d_1a_7x7
    conv_2b, conv_2c     Conv3d_2b_1x1, Conv3d_2c_3x3
    pool_2a ... pool_5a  MaxPool3d_2a_3x3 ... MaxPool3d_5a_2x2
    mixed_4b/branch_1/{conv_a,conv_b}  Mixed_4b/Branch_1/{Conv3d_0a_1x1,Conv3d_0b_3x3}
    logits               Logits/Conv3d_0c_1x1

S3D: "Rethinking Spatiotemporal Feature Learning", Xie, Sun, Huang, Tu, Murphy, ECCV 2018 (arXiv
1712.04851): the same trunk with separable convolutions, `conv_2c/{spatial,temporal}`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.layers import BatchNorm, Conv2Plus1D, Conv3D, avg_pool, max_pool
from jaxvideo.types import Lowering


@dataclasses.dataclass(frozen=True)
class Parts:
    """How a network of this file convolves, normalises and pools."""

    conv: Callable[..., Any]
    norm: Callable[..., Any]
    pool: Callable[..., jax.Array]
    separable: bool

    def unit(self, x, suffix, features, kernel, strides=(1, 1, 1), *, train):
        """Convolution, BN, ReLU; called inside a compact module, whose scopes it fills."""
        name = f"conv_{suffix}"
        if self.separable and max(kernel) > 1:
            conv, norm = self.conv, self.norm
            x = Conv2Plus1D(features, features, kernel, strides, conv, norm, name=name)(
                x, train=train
            )
        else:
            x = self.conv(features, kernel, strides, name=name)(x)
        return nn.relu(self.norm(name=f"bn_{suffix}")(x, train=train))


class Branch(nn.Module):
    """Convolutions `(suffix, features, kernel size)` in a row, each with BN and ReLU."""

    convolutions: Sequence[tuple[str, int, int]]
    parts: Parts

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for suffix, features, k in self.convolutions:
            x = self.parts.unit(x, suffix, features, (k, k, k), train=train)
        return x


class Mixed(nn.Module):
    """The Inception block: four branches, concatenated on channels in their order."""

    features: Sequence[int]  # b0, b1 reduce, b1, b2 reduce, b2, b3
    parts: Parts

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        b0, b1r, b1, b2r, b2, b3 = self.features
        branches = (
            (x, [("a", b0, 1)]),
            (x, [("a", b1r, 1), ("b", b1, 3)]),
            (x, [("a", b2r, 1), ("b", b2, 3)]),
            (self.parts.pool(x, (3, 3, 3), (1, 1, 1)), [("b", b3, 1)]),
        )
        outputs = [
            Branch(layers, self.parts, name=f"branch_{index}")(source, train=train)
            for index, (source, layers) in enumerate(branches)
        ]
        return jnp.concatenate(outputs, axis=-1)


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


class I3D(nn.Module):
    """`(logits [N, classes], endpoints)` of a clip `[N, T, H, W, 3]`, or 2 channels of flow.

    At 64 x 224 x 224 the average pool is (2, 7, 7), as released; for other sizes it covers
    all of space, which is what a fully-convolutional test averages anyway.

    Attributes:
      width: multiplies every channel count; 1 is the paper's.
      separable: k x k x k as 1 x k x k and k x 1 x 1, see `layers.Conv2Plus1D`.
      symmetric: padding (k - 1) / 2 on both sides, as torch ports have it, not TF's SAME.
      bn_scale: False as released by its authors, True for the PyTorch ports' weights.
      dropout_rate: 0.5 in the paper's training.
      bn_groups, bn_momentum, bn_epsilon: see `layers.norm`.
      dtype: compute dtype; parameters and statistics are f32.
    """

    num_classes: int = 400
    width: float = 1.0
    dropout_rate: float = 0.5
    separable: bool = False
    symmetric: bool = False
    bn_scale: bool = False
    bn_unbiased: bool = False
    bn_groups: int = 1
    bn_momentum: float = 0.999
    bn_epsilon: float = 1e-3
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        def padding(kernel):
            return tuple((k - 1) // 2 for k in kernel) if self.symmetric else "SAME"

        def conv(features, kernel, strides=(1, 1, 1), *, name):
            return Conv3D(
                features,
                kernel,
                strides,
                padding(kernel),
                dtype=self.dtype,
                lowering=self.lowering,
                kernel_init=nn.initializers.lecun_normal(),
                name=name,
            )

        def pool(x, kernel, strides):
            return max_pool(x, kernel, strides, padding(kernel))

        norm = functools.partial(
            BatchNorm,
            momentum=self.bn_momentum,
            epsilon=self.bn_epsilon,
            use_scale=self.bn_scale,
            groups=self.bn_groups,
            unbiased=self.bn_unbiased,
            dtype=self.dtype,
        )
        parts = Parts(conv, norm, pool, self.separable)

        def wide(features):
            return max(round(features * self.width), 1)

        endpoints = {}
        for row in TRUNK:
            if isinstance(row, str):
                features = tuple(wide(f) for f in MIXED[row])
                x = Mixed(features, parts, name=row)(x, train=train)
                endpoints[row] = x
                continue
            name, features, kernel, strides = row
            if features is None:
                x = pool(x, kernel, strides)
                endpoints[name] = x
            else:
                x = parts.unit(x, name, wide(features), kernel, strides, train=train)
                endpoints[f"conv_{name}"] = x
        x = avg_pool(x, (min(2, x.shape[1]), *x.shape[2:4]), (1, 1, 1))
        endpoints["avg_pool"] = x
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        x = Conv3D(
            self.num_classes,
            (1, 1, 1),
            use_bias=True,
            lowering=self.lowering,
            kernel_init=nn.initializers.lecun_normal(),
            name="logits",
        )(x)
        logits = x.mean((1, 2, 3))
        endpoints["logits"] = logits
        return logits, endpoints


class S3D(I3D):
    """S3D as torchvision and kylemin/S3D build it, whose weights exist.

    Every k x k x k convolution is separable, the first one too, with BN after the temporal
    half; symmetric padding; BN with scale.
    """

    dropout_rate: float = 0.2
    separable: bool = True
    symmetric: bool = True
    bn_scale: bool = True
    bn_unbiased: bool = True
