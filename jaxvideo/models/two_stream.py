"""Two-stream networks: appearance in one network, motion in another.

    two streams   Simonyan, Zisserman, NIPS 2014 (arXiv 1406.2199): a CNN-M on one RGB frame,
                  another on 10 fields of optical flow as 20 channels; their scores are averaged
                  after testing (`evaluation.fusion`)
    fusion        Feichtenhofer, Pinz, Zisserman, CVPR 2016 (arXiv 1604.06573): the streams are
                  fused inside the network, in space and in time

A clip is `[N, T, H, W, C]` with 3 channels (RGB), 2 (flow: x, y) or 5 (RGB, then flow). See
`models.stacks` for snippets and stacked flow, `models.tsn` for temporal segment networks and
`models.inception_two_stream` for two-stream networks on Inception.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo.layers import Conv3D, average_predictions, conv_norm
from jaxvideo.models.backbones2d import CONVNETS, ConvNet, layers_up_to
from jaxvideo.models.contract import check_clip, prefixed
from jaxvideo.models.stacks import (
    rgb_and_stacks,
    stack_both_ways,
    stack_fields,
    stack_trajectories,
)
from jaxvideo.types import ConfigError, Lowering

STACKINGS = ("fields", "trajectories", "both_ways")

# --- The streams of 2014 --------------------------------------------------------------------


class SpatialStream(nn.Module):
    """Spatial stream (arXiv 1406.2199, section 2) on the middle frame of a clip `[N, T, H, W, 3]`.

    Returns logits `[N, classes]`, also in training. Endpoints have the prefix "spatial/";
    `pre_logits` is fc7, `[N, 1, 1, 1, C]`.

    Attributes:
      net: a key of `backbones2d.CONVNETS`.
      width: factor of all numbers of channels; 1.0 is the paper's.
      dropout_rate: dropout after fc6 and fc7; 0.9 in the paper if the whole network is fine-tuned.
      dtype: compute dtype; parameters are f32.
      lowering: see `types.Lowering`.
    """

    head = "spatial/fc8"

    net: str = "cnn_m"
    num_classes: int = 101
    width: float = 1.0
    dropout_rate: float = 0.5
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        check_clip(self, x, (3,))
        middle = x.shape[1] // 2
        tower = _tower(self, self.net, self.num_classes, "spatial")
        scores, endpoints = tower(x[:, middle : middle + 1], train=train)
        return _one_stream("spatial", scores, endpoints)


class TemporalStream(nn.Module):
    """Temporal stream (arXiv 1406.2199, section 3) on a clip of flow `[N, T, H, W, 2]`.

    The T fields, 10 in the paper, are one stack of 2 T channels. Returns logits `[N, classes]`,
    also in training. Endpoints have the prefix "temporal/"; `pre_logits` is fc7,
    `[N, 1, 1, 1, C]`.

    Attributes:
      stacking: "fields", "trajectories" or "both_ways" (4 channels), see `models.stacks`.
      subtract_mean: subtract from each field its mean over the frame, mostly camera motion.
        Trajectories follow the flow before the subtraction.
      pixels: displacement in pixels of a flow value of 1; used by "trajectories".
      Others: see `SpatialStream`.
    """

    head = "temporal/fc8"

    net: str = "cnn_m_temporal"
    stacking: str = "fields"
    subtract_mean: bool = True
    pixels: float = 20.0
    num_classes: int = 101
    width: float = 1.0
    dropout_rate: float = 0.9
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        if self.stacking not in STACKINGS:
            raise ConfigError(f"stacking={self.stacking!r}: allowed are {STACKINGS}")
        check_clip(self, x, (4,) if self.stacking == "both_ways" else (2,))
        stack = {
            "fields": stack_fields,
            "trajectories": functools.partial(stack_trajectories, pixels=self.pixels),
            "both_ways": stack_both_ways,
        }[self.stacking]
        stacked = stack(x)
        if self.subtract_mean:
            stacked = stacked - stack(x.mean((2, 3), keepdims=True))
        tower = _tower(self, self.net, self.num_classes, "temporal")
        scores, endpoints = tower(stacked, train=train)
        return _one_stream("temporal", scores, endpoints)


def _tower(model, net: str, num_classes: int, name: str, **fields) -> ConvNet:
    if net not in CONVNETS:
        raise ConfigError(f"net {net!r}: allowed are {list(CONVNETS)}")
    return ConvNet(
        CONVNETS[net],
        num_classes,
        model.width,
        dropout_rate=model.dropout_rate,
        dtype=model.dtype,
        lowering=model.lowering,
        name=name,
        **fields,
    )


def _scores(logits: jax.Array) -> jax.Array:
    """Averages `[N, T, 1, 1, classes]` over T, to f32 `[N, classes]`."""
    return logits.astype(jnp.float32).mean((1, 2, 3))


def _one_stream(name, scores, endpoints):
    logits = _scores(scores)
    features = endpoints["pre_logits"]
    return logits, {**prefixed(name, endpoints), "pre_logits": features, "logits": logits}


# --- Fusion inside the network --------------------------------------------------------------

FUSIONS = ("sum", "max", "concat", "conv", "conv3d", "bilinear")

#: Where streams can be fused: after the ReLU of a stage's last convolution or of a hidden layer,
#: or (fc8) by averaging their predictions.
POINTS = ("relu1", "relu2", "relu3", "relu4", "relu5", "fc6", "fc7", "fc8")


class Fusion(nn.Module):
    """Fuses two maps `[N, T, H, W, D]` into one (arXiv 1604.06573, section 3.1).

        sum, max   elementwise
        concat     2 D channels
        conv       concat, 1 x 1 convolution to D channels with bias, ReLU; initialized as "sum"
        conv3d     concat, 3 x 3 x 3 convolution to D channels with bias, ReLU; initialized as a
                   Gaussian times a quarter of the first and three quarters of the second map
                   (the authors' code; the paper gives a factor of 3)
        bilinear   sum of outer products over the frame, `[N, T, 1, 1, D^2]`, signed square root,
                   L2 normalization

    The smaller map is zero-padded at the bottom and right.
    """

    kind: str
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, a: jax.Array, b: jax.Array, *, train: bool) -> jax.Array:
        if self.kind not in FUSIONS:
            raise ConfigError(f"fusion={self.kind!r}: allowed are {FUSIONS}")
        if self.kind in ("sum", "max") and a.shape[-1] != b.shape[-1]:
            raise ConfigError(
                f"fusion={self.kind!r}: both streams must have the same number of channels, not "
                f"{a.shape[-1]} and {b.shape[-1]}"
            )
        h, w = (max(sizes) for sizes in zip(a.shape[2:4], b.shape[2:4], strict=True))
        a, b = _padded(a, h, w), _padded(b, h, w)
        if self.kind == "sum":
            return a + b
        if self.kind == "max":
            return jnp.maximum(a, b)
        if self.kind == "bilinear":
            return _bilinear(a, b)
        both = jnp.concatenate((a, b), axis=-1)
        if self.kind == "concat":
            return both
        taps = 3 if self.kind == "conv3d" else 1
        weights = (0.25, 0.75) if self.kind == "conv3d" else (1.0, 1.0)
        conv = Conv3D(
            a.shape[-1],
            (taps, taps, taps),
            padding=taps // 2,
            use_bias=True,
            dtype=self.dtype,
            lowering=self.lowering,
            kernel_init=_identities((a.shape[-1], b.shape[-1]), weights),
            name="conv",
        )
        return conv_norm(conv, None, both, train=train, activation="relu")


def _padded(x, h, w):
    return jnp.pad(x, [(0, 0), (0, 0), (0, h - x.shape[2]), (0, w - x.shape[3]), (0, 0)])


def _bilinear(a, b):
    n, t, *_ = a.shape
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    y = jnp.einsum("nthwc,nthwd->ntcd", a, b).reshape(n, t, 1, 1, -1)
    # The square root has no derivative at 0, and ReLU makes many products 0.
    size = jnp.abs(y)
    root = jnp.where(size > 0, jnp.sqrt(jnp.where(size > 0, size, 1.0)), 0.0)
    y = jnp.sign(y) * root
    return y * jax.lax.rsqrt(jnp.maximum(jnp.square(y).sum(-1, keepdims=True), 1e-12))


def _identities(channels: Sequence[int], weights: Sequence[float]):
    """Initializer: stacked identities of the streams times a Gaussian (sigma 1) in T, H, W."""

    def init(key, shape, dtype=jnp.float32):
        del key
        taps, features = shape[0], shape[-1]
        bell = np.exp(-np.square(np.arange(taps) - taps // 2) / 2)
        bell = np.einsum("t,h,w->thw", bell, bell, bell)
        eyes = [w * np.eye(c, features) for c, w in zip(channels, weights, strict=True)]
        kernel = (bell / bell.sum())[..., None, None] * np.concatenate(eyes)
        return jnp.asarray(kernel, dtype)

    return init


class TwoStreamFusion(nn.Module):
    """Two-stream fusion (arXiv 1604.06573) on a clip `[N, T, H, W, 5]`, RGB before flow.

    At every point of `where` the spatial tower continues with the fused map and the temporal
    tower with its own; after the last point only the spatial tower continues. ("relu5",) is the
    paper's single tower, ("relu5", "fc8") keeps both towers and averages their predictions,
    ("fc8",) is late fusion. The final network of the paper (section 3.4) is `FUSION_3D`.

    Returns logits `[N, classes]`. With "fc8" in `where`, training returns `[N, 2, classes]`, one
    prediction per tower; at test the softmax of the logits is the average of both predictions.

    Endpoints have the prefixes "spatial/" and "temporal/". These are also the scopes of the 2014
    streams, so their weights can be loaded together. `pre_logits` is `[N, K, 1, 1, C]`: the input
    of the spatial tower's fc8; with "fc8" in `where` the concatenation of both towers' inputs;
    for "bilinear" the fused map.

    Attributes:
      fusion: one of `FUSIONS`, used at all points except fc8.
      where: points of `POINTS`, in their order.
      time_pool: pool5 is also a maximum over all snippets; otherwise scores are averaged.
      spatial_net, temporal_net: keys of `backbones2d.CONVNETS`.
      snippet: frames per snippet; there are K = T / snippet snippets.
      Others: see `SpatialStream`.
    """

    fusion: str = "conv"
    where: Sequence[str] = ("relu5",)
    time_pool: bool = False
    spatial_net: str = "cnn_m"
    temporal_net: str = "cnn_m_temporal"
    snippet: int = 10
    num_classes: int = 101
    width: float = 1.0
    dropout_rate: float = 0.85
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @property
    def head(self) -> str | tuple[str, ...]:
        """Scope of the classifier; both if the streams are fused after them."""
        if "fc8" in self.where:
            return ("spatial/fc8", "temporal/fc8")
        return "fc8" if self.fusion == "bilinear" else "spatial/fc8"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        check_clip(self, x, (5,))
        where = tuple(self.where)
        if not where or list(where) != [point for point in POINTS if point in where]:
            raise ConfigError(f"where={where}: allowed are {POINTS}, in this order")
        if self.fusion == "bilinear" and len(where) > 1:
            raise ConfigError(f"fusion='bilinear' has no layers after it: where={where}")
        nets = {"spatial": self.spatial_net, "temporal": self.temporal_net}
        towers = {
            name: _tower(self, net, self.num_classes, name, time_pool=self.time_pool)
            for name, net in nets.items()
        }
        maps = dict(zip(nets, rgb_and_stacks(x, self.snippet), strict=True))
        done = dict.fromkeys(nets, 0)
        endpoints = {}

        def advance(name, stop):
            tower = towers[name]
            maps[name], ends = tower(maps[name], train=train, start=done[name], stop=stop)
            endpoints.update(prefixed(name, ends))
            done[name] = stop

        for point in where:
            if point == "fc8":
                continue
            for name, net in nets.items():
                advance(name, layers_up_to(CONVNETS[net], point))
            fusion = Fusion(self.fusion, self.dtype, self.lowering, name=f"fusion_{point}")
            maps["spatial"] = fusion(maps["spatial"], maps["temporal"], train=train)
            endpoints[f"fusion_{point}"] = maps["spatial"]
        if "fc8" in where:
            advance("spatial", None)
            advance("temporal", None)
            heads = _scores(maps["spatial"]), _scores(maps["temporal"])
            logits = jnp.stack(heads, axis=1) if train else average_predictions(*heads)
            features = [endpoints[f"{name}/pre_logits"] for name in nets]
        elif self.fusion == "bilinear":
            init = nn.initializers.normal(0.01)
            fc8 = nn.Dense(self.num_classes, kernel_init=init, name="fc8")
            logits = _scores(fc8(maps["spatial"]))
            features = [maps["spatial"]]
        else:
            advance("spatial", None)
            logits = _scores(maps["spatial"])
            features = [endpoints["spatial/pre_logits"]]
        features = jnp.concatenate(features, axis=-1)
        return logits, {**endpoints, "pre_logits": features, "logits": logits}


#: The final network of arXiv 1604.06573 (section 3.4): two VGG-16 towers, both kept.
FUSION_3D: dict[str, Any] = {
    "fusion": "conv3d",
    "where": ("relu5", "fc8"),
    "time_pool": True,
    "spatial_net": "vgg16",
    "temporal_net": "vgg16",
}
