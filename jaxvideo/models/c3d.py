"""C3D: "Learning Spatiotemporal Features with 3D Convolutional Networks", and its variants.

Tran, Bourdev, Fergus, Torresani, Paluri, ICCV 2015 (arXiv 1412.0767): 3 x 3 x 3 convolutions
with bias and ReLU, max pools, two hidden layers with dropout. For 16 x 112 x 112:

    conv1a  64    16 x 112 x 112    pool1 (1,2,2)
    conv2a 128    16 x 56 x 56      pool2 to pool5 (2,2,2)
    conv3a, conv3b 256     8 x 28 x 28
    conv4a, conv4b 512     4 x 14 x 14
    conv5a, conv5b 512     2 x 7 x 7, pool5 1 x 4 x 4
    fc6 4096, fc7 4096, fc8 classes

Pools are Caffe's, which round up: the last window of pool5 has one row. Torch and Keras ports pad
that pool by one on both sides instead (`pools="symmetric"`); the shapes are equal, but the values
are not, so `pools` must match the weights. fc6 flattens its input in the order (T, H, W, C), Caffe
and torch in (C, T, H, W); importing weights reorders its kernel.

Section 3 of the paper compares temporal depths in a smaller network of five convolutions; the
appendix applies it to 56 and 224 pixels. There are three variants with BN: VMZ's, after the
convolutions, with pool5 rounded down; Hara's, after fc6 and fc7 too; Carreira and Zisserman's
(arXiv 1705.07750), like Hara's, with pool1 of stride 2 in time.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.layers import BatchNorm, Conv3D, conv_norm, max_pool
from jaxvideo.models.contract import check_clip, scaled
from jaxvideo.types import ConfigError, Lowering

# Padding of pool1 to pool4, and of pool5.
_POOLS = {"ceil": ("CEIL", "CEIL"), "symmetric": (0, (0, 1, 1)), "floor": (0, 0)}
_NORM = ("none", "conv", "all")


class C3D(nn.Module):
    """C3D (arXiv 1412.0767, sections 3 and 4) on a clip `[N, T, H, W, C]`.

    Returns logits `[N, classes]`, also in training; `pre_logits` is fc7, `[N, 4096]`. T, H and W
    fix the parameters of fc6: weights for one clip size do not fit another one.

    Attributes:
      stages: channels of the convolutions of each stage.
      depths: temporal size of the kernels of each stage.
      hidden: features of fc6 and fc7.
      norm: where BN is: "none", "conv" (after the convolutions), "all" (after fc6 and fc7 too).
      pool1_stride: stride of pool1 in time.
      pools: "ceil" (Caffe), "floor" (VMZ), or "symmetric" (ports: floor, with pool5 padded).
      width: factor of `stages` and `hidden`; 1.0 is the paper's.
      dropout_rate: dropout after fc6 and fc7.
      bn_groups, bn_momentum, bn_epsilon: see `layers.norm`.
      dtype: compute dtype; parameters and statistics are f32.
      lowering: see `types.Lowering`.
    """

    head = "fc8"
    #: Fully connected layers that flatten a map, and its endpoint; for imported weights.
    flattens: ClassVar[dict[str, str]] = {"fc6": "pool5"}

    stages: Sequence[Sequence[int]] = ((64,), (128,), (256, 256), (512, 512), (512, 512))
    depths: Sequence[int] = (3, 3, 3, 3, 3)
    hidden: int = 4096
    num_classes: int = 400
    norm: str = "none"
    pool1_stride: int = 1
    pools: str = "ceil"
    width: float = 1.0
    dropout_rate: float = 0.5
    bn_groups: int = 1
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-3
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        for field, value, allowed in (("pools", self.pools, _POOLS), ("norm", self.norm, _NORM)):
            if value not in allowed:
                raise ConfigError(f"{field}={value!r}: allowed are {list(allowed)}")
        check_clip(self, x, stem="conv1a")
        norm = functools.partial(
            BatchNorm,
            momentum=self.bn_momentum,
            epsilon=self.bn_epsilon,
            groups=self.bn_groups,
            dtype=self.dtype,
        )
        endpoints = {}
        # The authors' 0.01 and 0.005 are for their numbers of channels; fewer need larger values.
        spread = (1 / self.width) ** 0.5

        for stage, (depth, widths) in enumerate(zip(self.depths, self.stages, strict=True), 1):
            for letter, features in zip("ab", widths, strict=False):
                name = f"{stage}{letter}"
                conv = Conv3D(
                    scaled(features, self.width),
                    (depth, 3, 3),
                    padding=(depth // 2, 1, 1),
                    use_bias=True,
                    dtype=self.dtype,
                    lowering=self.lowering,
                    kernel_init=nn.initializers.normal(0.01 * (1 if stage == 1 else spread)),
                    bias_init=_bias(0 if name == "1a" else 1),
                    name=f"conv{name}",
                )
                bn = None if self.norm == "none" else norm(name=f"bn{name}")
                x = conv_norm(conv, bn, x, train=train, activation="relu")
                endpoints[f"conv{name}"] = x
            stride = self.pool1_stride if stage == 1 else 2
            # A map of one frame keeps it.
            window = (min(stride, x.shape[1]), 2, 2)
            x = max_pool(x, window, window, _POOLS[self.pools][stage == 5])
            endpoints[f"pool{stage}"] = x

        features = x = x.reshape(x.shape[0], -1)
        for name in ("6", "7"):
            x = nn.Dense(
                scaled(self.hidden, self.width),
                dtype=self.dtype,
                kernel_init=nn.initializers.normal(0.005 * spread),
                bias_init=_bias(1),
                name=f"fc{name}",
            )(x)
            if self.norm == "all":
                x = norm(name=f"bn{name}")(x, train=train)
            x = nn.relu(x)
            endpoints[f"fc{name}"] = features = x
            x = nn.Dropout(self.dropout_rate, deterministic=not train, name=f"dropout{name}")(x)
        init = nn.initializers.normal(0.01 * spread)
        logits = nn.Dense(self.num_classes, kernel_init=init, name="fc8")(x)
        endpoints["fc8"] = logits
        return logits, {**endpoints, "pre_logits": features, "logits": logits}


def _bias(value: int):
    return nn.initializers.constant(value)


_STUDY = ((64,), (128,), (256,), (256,), (256,))


def _study(*depths: int) -> dict[str, Any]:
    return {"stages": _STUDY, "depths": depths, "hidden": 2048}


#: Arguments by name: the paper's networks and the three variants with BN.
VARIANTS: dict[str, dict[str, Any]] = {
    "c3d": {},
    "c3d_bn": {"norm": "all"},
    "c3d_bn_vmz": {"norm": "conv", "pools": "floor"},
    "c3d_bn_i3d": {"norm": "all", "pool1_stride": 2},
    "c3d_depth1": _study(1, 1, 1, 1, 1),
    "c3d_depth3": _study(3, 3, 3, 3, 3),
    "c3d_depth5": _study(5, 5, 5, 5, 5),
    "c3d_depth7": _study(7, 7, 7, 7, 7),
    "c3d_increasing": _study(3, 3, 5, 5, 7),
    "c3d_decreasing": _study(7, 5, 5, 3, 3),
}
