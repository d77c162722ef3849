"""DenseNet3D and T3D: "Temporal 3D ConvNets: New Architecture and Transfer Learning ...".

Diba, Fayyaz, Sharma, Karami, Arzani, Yousefzadeh, Van Gool, 2017 (arXiv 1711.08200): DenseNet-BC
(arXiv 1608.06993) with 3-D kernels (DenseNet3D), and with temporal transition layers (TTL), which
apply kernels of several temporal lengths to the same features (T3D). 121 layers, for
32 x 224 x 224:

    conv0         3 x 7 x 7, 64, stride 2        16 x 112 x 112
    pool0         3 x 3 x 3 max, stride 2         8 x 56 x 56
    dense_1       6 layers, growth 32     256     8 x 56 x 56
    (ttl_1        128 + 128 + 128         384     8 x 56 x 56)
    transition_1  1 x 1 x 1, 2^3 average  128     4 x 28 x 28
    dense_2       12 layers               512     4 x 28 x 28
    transition_2                          256     2 x 14 x 14
    dense_3       24 layers              1024     2 x 14 x 14
    transition_3                          512     1 x 7 x 7
    dense_4       16 layers              1024     1 x 7 x 7
    pool, fc      BN, ReLU, global average

BN and ReLU precede every convolution but the first. A transition halves the number of channels;
after a TTL it keeps it.

Differences between paper and code: in the paper a TTL replaces a transition, in the authors' code
it precedes one. The TTL of that code has no padding and cannot run; here padding is SAME. Its
longest kernel has 4 frames in every TTL; ports by others have 6 in the first. Supervision transfer
from images, of the same paper, is in `models.transfer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.layers import BatchNorm, Conv3D, avg_pool, conv_norm, max_pool
from jaxvideo.models.contract import check_clip, scaled
from jaxvideo.types import ConfigError, Lowering

TTL_PLACES = ("before", "instead")


class DenseLayer(nn.Module):
    """Concatenates `growth` new channels to the input: 1 x 1 x 1, 3 x 3 x 3, dropout."""

    growth: int
    dropout_rate: float
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = nn.relu(self.norm(name="bn_1")(x, train=train))
        conv = self.conv(4 * self.growth, (1, 1, 1), name="conv_1")
        y = conv_norm(conv, self.norm(name="bn_2"), y, train=train, activation="relu")
        y = conv_norm(self.conv(self.growth, (3, 3, 3), name="conv_2"), None, y, train=train)
        y = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(y)
        return jnp.concatenate([x, y], axis=-1)


class DenseBlock(nn.Module):
    """`layers` dense layers."""

    layers: int
    growth: int
    dropout_rate: float
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        fields = (self.growth, self.dropout_rate, self.conv, self.norm)
        for index in range(1, self.layers + 1):
            x = DenseLayer(*fields, name=f"layer_{index}")(x, train=train)
        return x


def _unit(module, x, features, kernel, number, train):
    """Applies BN, ReLU and a convolution, in the scope of `module`."""
    x = nn.relu(module.norm(name=f"bn_{number}")(x, train=train))
    return conv_norm(module.conv(features, kernel, name=f"conv_{number}"), None, x, train=train)


class TemporalTransition(nn.Module):
    """TTL: concatenates 1 x 1 x 1, 3 x 3 x 3 and `depth` x 3 x 3, `features` channels each."""

    features: int
    depth: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        kernels = ((1, 1, 1), (3, 3, 3), (self.depth, 3, 3))
        branches = [
            _unit(self, x, self.features, kernel, index, train)
            for index, kernel in enumerate(kernels, 1)
        ]
        return jnp.concatenate(branches, axis=-1)


class Transition(nn.Module):
    """1 x 1 x 1, then an average pool that halves T, H and W."""

    features: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return _halve(_unit(self, x, self.features, (1, 1, 1), 1, train))


class DenseNet3D(nn.Module):
    """DenseNet3D and T3D (arXiv 1711.08200, section 3) on a clip `[N, T, H, W, C]`.

    Returns logits `[N, classes]`, also in training; `pre_logits` is the global average pool after
    the last BN and ReLU, `[N, C]`; C is 1024 for DenseNet3D-121 and 896 for T3D-121.

    T is divided by 32, so the authors' code needs 29 frames or more. Here an axis of size 1 is not
    pooled, so that clips can be shorter: 16 frames become 8, 4, 2, 1 and 1.

    Attributes:
      blocks: layers per dense block.
      ttl_depths: frames of the longest kernel of the TTL after each dense block but the last;
        () (default) for DenseNet3D.
      ttl: "before" the transition (the authors' code) or "instead" of it (the paper).
      growth: new channels of a dense layer. conv0 has twice, each branch of a TTL four times as
        many.
      width: factor of all numbers of channels; 1.0 is the paper's.
      dropout_rate: for the new channels of every layer; the authors' code also lists 0.2.
      bn_groups, bn_momentum, bn_epsilon: see `layers.norm`.
      dtype: compute dtype; parameters and statistics are f32.
      lowering: see `types.Lowering`.
    """

    head = "fc"

    blocks: Sequence[int]
    ttl_depths: Sequence[int] = ()
    ttl: str = "before"
    growth: int = 32
    num_classes: int = 400
    width: float = 1.0
    dropout_rate: float = 0.0
    bn_groups: int = 1
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        self._check()
        check_clip(self, x, stem="conv0")

        def conv(features, kernel, strides=(1, 1, 1), padding: Any = "SAME", *, name):
            how = {"dtype": self.dtype, "lowering": self.lowering}
            return Conv3D(features, kernel, strides, padding, **how, name=name)

        def norm(*, name):
            return BatchNorm(
                momentum=self.bn_momentum,
                epsilon=self.bn_epsilon,
                groups=self.bn_groups,
                dtype=self.dtype,
                name=name,
            )

        parts, growth = (conv, norm), scaled(self.growth, self.width)
        endpoints = {}
        conv0 = conv(2 * growth, (3, 7, 7), (2, 2, 2), (1, 3, 3), name="conv0")
        x = conv_norm(conv0, norm(name="bn0"), x, train=train, activation="relu")
        endpoints["conv0"] = x
        endpoints["pool0"] = x = max_pool(x, (3, 3, 3), (2, 2, 2), 1)
        for index, layers in enumerate(self.blocks, 1):
            block = DenseBlock(layers, growth, self.dropout_rate, *parts, name=f"dense_{index}")
            endpoints[f"dense_{index}"] = x = block(x, train=train)
            if index == len(self.blocks):
                break
            features = x.shape[-1] // 2
            if self.ttl_depths:
                depth = self.ttl_depths[index - 1]
                ttl = TemporalTransition(4 * growth, depth, *parts, name=f"ttl_{index}")
                endpoints[f"ttl_{index}"] = x = ttl(x, train=train)
                features = x.shape[-1]
            name = f"transition_{index}"
            if self.ttl_depths and self.ttl == "instead":
                x = _halve(x)
            else:
                x = Transition(features, *parts, name=name)(x, train=train)
            endpoints[name] = x
        x = nn.relu(norm(name="bn_last")(x, train=train))
        endpoints["pool"] = x = features = x.astype(jnp.float32).mean((1, 2, 3))
        logits = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="fc")(x)
        endpoints["fc"] = logits
        return logits, {**endpoints, "pre_logits": features, "logits": logits}

    def _check(self):
        if self.ttl not in TTL_PLACES:
            raise ConfigError(f"ttl={self.ttl!r}: allowed are {TTL_PLACES}")
        depths, gaps = self.ttl_depths, len(self.blocks) - 1
        if depths and (len(depths) != gaps or min(depths) < 1):
            raise ConfigError(
                f"ttl_depths={tuple(depths)}: must be () or {gaps} positive numbers, one per TTL"
            )


def _halve(x):
    """Average pool of 2; an axis of size 1 is kept."""
    window = tuple(min(2, size) for size in x.shape[1:4])
    return avg_pool(x, window, window)


#: Layers per dense block by the number in the name.
BLOCKS = {
    121: (6, 12, 24, 16),
    161: (6, 12, 36, 24),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
}
_T3D = {"ttl_depths": (4, 4, 4)}

#: Arguments by name. The ports with kernels {1,3,6} in the first TTL: `ttl_depths=(6, 4, 4)`.
VARIANTS: dict[str, Mapping[str, Any]] = {
    "densenet3d_121": {"blocks": BLOCKS[121]},
    "densenet3d_161": {"blocks": BLOCKS[161], "growth": 48},
    "densenet3d_169": {"blocks": BLOCKS[169]},
    "densenet3d_201": {"blocks": BLOCKS[201]},
    "t3d_121": {"blocks": BLOCKS[121], **_T3D},
    "t3d_169": {"blocks": BLOCKS[169], **_T3D},
}
