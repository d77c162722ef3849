"""SlowFast networks, and ResNets with one pathway: Slow, Fast, C2D and I3D.

"SlowFast Networks for Video Recognition", Feichtenhofer, Fan, Malik, He, ICCV 2019 (arXiv
1812.03982): a Slow pathway on T frames and a Fast pathway on alpha T frames with a fraction beta of
the channels. Lateral connections lead from the Fast to the Slow pathway after conv1, res2, res3 and
res4. Time is never strided. R50, for T x 224 x 224 and alpha T x 224 x 224:

    conv1   1 x 7 x 7, 64    5 x 7 x 7, 8      112 x 112, then 1 x 3 x 3 max pool
    res2    [1, 64; 256]     [3, 8; 32]    x 3   56 x 56
    res3    [1, 128; 512]    [3, 16; 64]   x 4   28 x 28
    res4    [3, 256; 1024]   [3, 32; 128]  x 6   14 x 14
    res5    [3, 512; 2048]   [3, 64; 256]  x 3    7 x 7

A block is t x 1 x 1 with the t of the table, 1 x 3 x 3 with the stride, 1 x 1 x 1. The clip holds
the frames of the Fast pathway; those of the Slow pathway are a subset.

C2D and I3D-ResNet50 of "Non-local Neural Networks", Wang, Girshick, Gupta, He, CVPR 2018 (arXiv
1711.07971) are rows of the same table, with a pool of 2 in time after res2.

Differences between paper and code: the lateral kernel has 5 taps in the paper, 7 in the released
8 x 8 R50 and in the paper's GFLOPs. The Slow frames are every alpha-th in the paper, and
`linspace` truncated to integers in the code, for which weights exist. R101 has temporal kernels in
6 of the 23 blocks of res4 (the paper's GFLOPs) or in all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo.layers import BatchNorm, Conv3D, conv_norm, max_pool
from jaxvideo.models.contract import check_clip, scaled
from jaxvideo.models.heads import POSITIONS, joint_answer, window_means
from jaxvideo.types import ConfigError, Lowering

#: Temporal kernel size of a stage: one for all blocks, or one per block.
Taps = int | Sequence[int]

STAGES = ("res2", "res3", "res4", "res5")
LATERALS = ("time_conv", "time_to_channel", "time_to_channel_sum", "time_sample", "none")
SAMPLINGS = ("linspace", "stride")
KINDS = ("softmax", "dot_product", "gaussian")


class Bottleneck(nn.Module):
    """t x 1 x 1, 1 x 3 x 3 with the stride, 1 x 1 x 1, and the shortcut.

    The scale of the last BN is initialized to zero, so that a block starts as its shortcut.
    """

    inner: int
    features: int
    taps: int
    stride: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv, norm, strides = self.conv, self.norm, (1, self.stride, self.stride)
        unit = functools.partial(conv_norm, train=train, activation="relu")
        shortcut = x
        if self.stride > 1 or x.shape[-1] != self.features:
            projection = conv(self.features, (1, 1, 1), strides, name="projection")
            shortcut = conv_norm(projection, norm(name="bn_projection"), x, train=train)
        x = unit(conv(self.inner, (self.taps, 1, 1), name="conv_a"), norm(name="bn_a"), x)
        x = unit(conv(self.inner, (1, 3, 3), strides, name="conv_b"), norm(name="bn_b"), x)
        bn_c = norm(scale_init=nn.initializers.zeros, name="bn_c")
        return unit(conv(self.features, (1, 1, 1), name="conv_c"), bn_c, x, residual=shortcut)


class NonLocal(nn.Module):
    """A non-local block (arXiv 1711.07971, section 3.3); keys and values have half the resolution.

    Attributes:
      kind, pool, scaled: see `non_local_kind` and others of `SlowFast`.
    """

    kind: str
    conv: Callable[..., Any]
    norm: Callable[..., Any]
    pool: str = "first"
    scaled: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.kind not in KINDS:
            raise ConfigError(f"non_local_kind={self.kind!r}: allowed are {KINDS}")
        if self.pool not in ("first", "last", "none"):
            raise ConfigError(f"non_local_pool={self.pool!r}: allowed are first, last, none")
        inner = x.shape[-1] // 2

        def embedded(x, name, pool):
            if pool == "first":
                x = max_pool(x, (1, 2, 2), (1, 2, 2))
            if name == "g" or self.kind != "gaussian":
                conv = self.conv(inner, (1, 1, 1), use_bias=True, name=name)
                x = conv_norm(conv, None, x, train=train)
            if pool == "last":
                x = max_pool(x, (1, 2, 2), (1, 2, 2))
            return x.reshape(len(x), -1, x.shape[-1])

        theta = embedded(x, "theta", "none")
        phi, g = embedded(x, "phi", self.pool), embedded(x, "g", self.pool)
        affinity = jnp.einsum("nqc,nkc->nqk", theta, phi).astype(jnp.float32)
        if self.kind == "dot_product":
            affinity = affinity / affinity.shape[-1]
        else:
            scale = theta.shape[-1] ** -0.5 if self.scaled else 1.0
            affinity = jax.nn.softmax(affinity * scale)
        y = jnp.einsum("nqk,nkc->nqc", affinity.astype(g.dtype), g)
        y = y.reshape(*x.shape[:-1], inner)
        out = self.conv(x.shape[-1], (1, 1, 1), use_bias=True, name="out")
        norm = self.norm(scale_init=nn.initializers.zeros, name="bn")
        return conv_norm(out, norm, y, residual=x, train=train)


class Stage(nn.Module):
    """One block per entry of `taps`; the first one has the stride.

    Attributes:
      non_local: indices, from 0, of the blocks that a non-local block follows.
      non_local_form: kind, pool and scaled of `NonLocal`.
    """

    inner: int
    features: int
    taps: Sequence[int]
    stride: int
    non_local: Sequence[int]
    non_local_form: tuple[str, str, bool]
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for index, taps in enumerate(self.taps):
            x = Bottleneck(
                self.inner,
                self.features,
                taps,
                self.stride if index == 0 else 1,
                self.conv,
                self.norm,
                name=f"block_{index + 1}",
            )(x, train=train)
            if index in self.non_local:
                name = f"non_local_{index + 1}"
                kind, pool, scaled = self.non_local_form
                block = NonLocal(kind, self.conv, self.norm, pool, scaled, name=name)
                x = block(x, train=train)
        return x


class SlowFast(nn.Module):
    """SlowFast (arXiv 1812.03982, Table 1) on the Fast pathway's clip `[N, alpha T, H, W, C]`.

    Returns logits `[N, classes]`, also in training. `pre_logits` is the pool of both pathways,
    `[N, 1, H', W', 2304]` at test, with H' = W' = 1 for the training crop. Endpoints have the
    prefixes "slow_" and "fast_" if there are two pathways.

    Attributes:
      blocks: blocks per stage.
      slow_taps, fast_taps: temporal kernel sizes of conv1 and of res2 to res5. If one of them is
        (), the network has one pathway: Slow-only, Fast-only, C2D, I3D.
      alpha: frames of the Fast pathway per frame of the Slow one.
      beta: channels of the Slow pathway per channel of the Fast one (the paper's 1 / beta).
      lateral: lateral connections (section 3.4): "time_conv", a convolution of stride alpha with BN
        and ReLU; "time_to_channel", alpha frames reshaped into channels; "time_to_channel_sum", the
        same, added instead of concatenated (requires alpha = beta); "time_sample", every alpha-th
        frame; "none".
      lateral_taps: temporal kernel size of "time_conv".
      lateral_norm: False: "time_conv" has neither BN nor ReLU (mmaction2).
      sampling: choice of the Slow frames: "linspace" (the released code) or "stride" (the paper).
      time_pool: size of the max pool in time after res2 (C2D, I3D).
      stem_stride: stride in time of conv1, and also of the pool after it; 2 in I3D of mmaction2
        and GluonCV.
      stem_padding: padding of that pool in space; 0 in the code of arXiv 1711.07971.
      non_local: (stage, block indices from 0) of the non-local blocks, in the Slow pathway.
      non_local_kind: "softmax" and "dot_product" are the normalizations of affinities of
        embeddings. "gaussian": the softmax of affinities of the input itself.
      non_local_pool: max pool of keys and values: "first", before their convolutions (PySlowFast);
        "last", after them (mmaction2); "none" (GluonCV).
      non_local_scaled: the softmax divides by the square root of the channels; False in I3D of
        mmaction2.
      width: factor of all numbers of channels; 1.0 is the paper's.
      dropout_rate: dropout before the classifier.
      positions: head at test if the last map is larger than `pool`. "softmax", "sigmoid"
        (multi-label) and "logits" classify every position and average these predictions; "global"
        averages the whole map first, as in training.
      pool: side of the window that the head averages at test: the side of the last map for the
        training crop.
      bn_groups, bn_momentum, bn_epsilon: see `layers.norm`.
      dtype: compute dtype; parameters and statistics are f32.
      lowering: see `types.Lowering`.
    """

    head = "fc"

    blocks: Sequence[int] = (3, 4, 6, 3)
    slow_taps: Sequence[Taps] = (1, 1, 1, 3, 3)
    fast_taps: Sequence[Taps] = (5, 3, 3, 3, 3)
    alpha: int = 8
    beta: int = 8
    lateral: str = "time_conv"
    lateral_taps: int = 5
    lateral_norm: bool = True
    sampling: str = "linspace"
    time_pool: int = 1
    stem_stride: int = 1
    stem_padding: int = 1
    non_local: Sequence[tuple[str, Sequence[int]]] = ()
    non_local_kind: str = "softmax"
    non_local_pool: str = "first"
    non_local_scaled: bool = True
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
        self._check()
        both = bool(self.slow_taps) and bool(self.fast_taps)
        check_clip(self, x, stem="slow_conv1" if both else "conv1")
        width = scaled(64, self.width)
        slow = slow_frames(x, self.alpha, self.sampling) if both else x
        paths = {}
        if self.slow_taps:
            paths["slow" if both else ""] = (slow, self.slow_taps, width)
        if self.fast_taps:
            paths["fast" if both else ""] = (x, self.fast_taps, max(width // self.beta, 1))
        maps = {name: clip for name, (clip, _, _) in paths.items()}
        endpoints = {}

        def each(layer, function):
            for path, (_, taps, width) in paths.items():
                name = f"{path}_{layer}" if path else layer
                maps[path] = function(path, name, maps[path], taps, width)
                endpoints[name] = maps[path]
            if both and layer != "res5":
                maps["slow"] = self._joined(maps["slow"], maps["fast"], layer, train)

        each("conv1", functools.partial(self._stem, train))
        for index, stage in enumerate(STAGES):
            each(stage, functools.partial(self._stage, train, index))
            if index == 0 and self.time_pool > 1:
                t = self.time_pool
                maps = {path: max_pool(y, (t, 1, 1), (t, 1, 1)) for path, y in maps.items()}
        return self._classified(list(maps.values()), endpoints, train)

    def _check(self):
        for field, allowed in (
            ("lateral", LATERALS),
            ("sampling", SAMPLINGS),
            ("positions", POSITIONS),
        ):
            if getattr(self, field) not in allowed:
                raise ConfigError(f"{field}={getattr(self, field)!r}: allowed are {allowed}")
        if not self.slow_taps and not self.fast_taps:
            raise ConfigError("slow_taps=(), fast_taps=(): at least one pathway must have taps")
        if set(dict(self.non_local)) - set(STAGES):
            raise ConfigError(f"non_local={self.non_local}: allowed stages are {STAGES}")

    @nn.nowrap
    def _conv(self, features, kernel, strides=(1, 1, 1), *, name, use_bias=False):
        return Conv3D(
            features,
            kernel,
            strides,
            tuple(k // 2 for k in kernel),
            use_bias=use_bias,
            dtype=self.dtype,
            lowering=self.lowering,
            name=name,
        )

    @nn.nowrap
    def _norm(self, *, name, **more):
        return BatchNorm(
            momentum=self.bn_momentum,
            epsilon=self.bn_epsilon,
            groups=self.bn_groups,
            dtype=self.dtype,
            name=name,
            **more,
        )

    @nn.nowrap
    def _stem(self, train, path, name, x, taps, width):
        del path
        stride, pad = self.stem_stride, self.stem_padding
        conv = self._conv(width, (taps[0], 7, 7), (stride, 2, 2), name=name)
        norm = self._norm(name=name.replace("conv1", "bn1"))
        x = conv_norm(conv, norm, x, train=train, activation="relu")
        return max_pool(x, (1, 3, 3), (stride, 2, 2), (0, pad, pad))

    @nn.nowrap
    def _stage(self, train, index, path, name, x, taps, width):
        blocks, stage = self.blocks[index], STAGES[index]
        inner, given = width * 2**index, taps[index + 1]
        parts = self.clone(parent=None, name=None)
        return Stage(
            inner,
            4 * inner,
            (given,) * blocks if isinstance(given, int) else tuple(given),
            1 if index == 0 else 2,
            () if path == "fast" else tuple(dict(self.non_local).get(stage, ())),
            (self.non_local_kind, self.non_local_pool, self.non_local_scaled),
            parts._conv,
            parts._norm,
            name=name,
        )(x, train=train)

    @nn.nowrap
    def _joined(self, slow, fast, layer, train):
        """Joins the Fast features to the Slow ones (section 3.4)."""
        alpha, (n, t, h, w, c) = self.alpha, fast.shape
        if self.lateral == "none":
            return slow
        if self.lateral == "time_conv":
            kernel, strides = (self.lateral_taps, 1, 1), (alpha, 1, 1)
            conv = self._conv(2 * c, kernel, strides, name=f"lateral_{layer}")
            norm = self._norm(name=f"lateral_bn_{layer}") if self.lateral_norm else None
            y = conv_norm(conv, norm, fast, train=train, activation="relu" if norm else "")
        elif self.lateral == "time_sample":
            y = fast[:, ::alpha]
        else:
            y = jnp.moveaxis(fast.reshape(n, t // alpha, alpha, h, w, c), 2, 4)
            y = y.reshape(n, t // alpha, h, w, alpha * c)
        if self.lateral != "time_to_channel_sum":
            return jnp.concatenate([slow, y], axis=-1)
        if y.shape[-1] != slow.shape[-1]:
            raise ConfigError(
                f"lateral={self.lateral!r}: alpha={alpha} and beta={self.beta} must be equal"
            )
        return slow + y

    @nn.nowrap
    def _classified(self, maps, endpoints, train):
        maps = [x.astype(jnp.float32) for x in maps]
        if train or self.positions == "global":
            maps = [x.mean((1, 2, 3), keepdims=True) for x in maps]
        else:
            maps = [window_means(x, self.pool) for x in maps]
        endpoints["pool"] = features = x = jnp.concatenate(maps, axis=-1)
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        init = nn.initializers.normal(0.01)
        x = nn.Dense(self.num_classes, kernel_init=init, name="fc")(x)
        endpoints["fc"] = x
        logits = joint_answer(x, self.positions)
        return logits, {**endpoints, "pre_logits": features, "logits": logits}


def slow_frames(x: jax.Array, alpha: int, sampling: str) -> jax.Array:
    """Selects the T / alpha frames of the Slow pathway of a clip `[N, T, H, W, C]`.

    Args:
      x: the clip.
      alpha: must divide T.
      sampling: "stride": frames 0, alpha, 2 alpha, ...; "linspace": equal steps from the first to
        the last frame, truncated to integers (of 32 frames 0 4 8 13 17 22 26 31).

    Raises:
      ConfigError: alpha does not divide T.
    """
    frames = x.shape[1]
    if frames % alpha:
        raise ConfigError(f"a clip of {frames} frames: alpha={alpha} must divide it")
    if sampling == "stride":
        return x[:, ::alpha]
    return x[:, np.linspace(0, frames - 1, frames // alpha).astype(int)]


def leading(temporal: int, blocks: int, taps: int = 3) -> tuple[int, ...]:
    """Returns the taps of a stage in which only the first `temporal` blocks are temporal."""
    return (taps,) * temporal + (1,) * (blocks - temporal)


_R101: dict[str, Any] = {"blocks": (3, 4, 23, 3)}
_SIX = leading(6, 23)
_NL_R50 = (("res3", (1, 3)), ("res4", (1, 3, 5)))
_SLOW: dict[str, Any] = {"fast_taps": ()}
_I3D = (5, 3, (3, 1, 3, 1), (3, 1, 3, 1, 3, 1), (1, 3, 1))
_8X8: dict[str, Any] = {"alpha": 4}

#: Arguments by name: the released networks; see above for the differences from the paper.
VARIANTS: dict[str, Mapping[str, Any]] = {
    "slow_r50": _SLOW,
    "slow_r101": {**_SLOW, **_R101},
    "fast_r50": {"slow_taps": ()},
    "slow_r50_nl": {**_SLOW, "non_local": _NL_R50},
    "slowfast_4x16_r50": {},
    "slowfast_8x8_r50": {**_8X8, "lateral_taps": 7},
    "slowfast_8x8_r101": {**_8X8, **_R101},
    "slowfast_8x8_r101_50_50": {
        **_8X8,
        **_R101,
        "slow_taps": (1, 1, 1, _SIX, 3),
        "fast_taps": (5, 3, 3, _SIX, 3),
    },
    "slowfast_16x8_r101_50_50": {
        **_8X8,
        **_R101,
        "slow_taps": (1, 1, 1, _SIX, 3),
        "fast_taps": (5, 3, 3, _SIX, 3),
    },
    "slowfast_16x8_r101_nl": {
        **_8X8,
        **_R101,
        "slow_taps": (1, 1, 1, _SIX, 3),
        "fast_taps": (5, 3, 3, _SIX, 3),
        "non_local": (("res4", (6, 13, 20)),),
        "non_local_kind": "dot_product",
    },
    "c2d_r50": {**_SLOW, "slow_taps": (1, 1, 1, 1, 1), "time_pool": 2},
    "i3d_r50": {**_SLOW, "slow_taps": _I3D, "time_pool": 2},
    "c2d_r50_nl": {
        **_SLOW,
        "slow_taps": (1, 1, 1, 1, 1),
        "time_pool": 2,
        "non_local": _NL_R50,
    },
    "i3d_r50_nl": {**_SLOW, "slow_taps": _I3D, "time_pool": 2, "non_local": _NL_R50},
}
