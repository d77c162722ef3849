"""Two-stream networks: appearance in one network, motion in another.

    two streams   Simonyan, Zisserman, NIPS 2014 (arXiv 1406.2199): a CNN-M for a frame, another
                  for 10 fields of optical flow as 20 channels; scores averaged outside
    fusion        Feichtenhofer, Pinz, Zisserman, CVPR 2016 (arXiv 1604.06573): the streams
                  meet inside, position by position, in space and in time
    TSN           Wang et al., ECCV 2016 (arXiv 1608.00859): one network on a snippet of each
                  of K segments, their scores joined before the softmax
    I3D's rivals  Carreira, Zisserman, CVPR 2017 (arXiv 1705.07750, section 2): Two-Stream and
                  3D-fused Two-Stream on Inception-v1

A clip is `[N, T, H, W, C]`: 3 channels of RGB, 2 of flow (x, y), or 5, RGB first. Networks of
stacks of flow take T frames as T / `snippet` snippets, one after the other, each laid into the
channels: x and y of its first field, of its second, and so on. The frame that goes with a
snippet is its middle one.

Where training has a loss for each of several predictions, `train=True` gives logits
`[N, predictions, classes]`, whose cross-entropies are averaged, and `train=False` the joint one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from jaxvideo.layers import BatchNorm, Conv3D, average_predictions, conv_norm, max_pool
from jaxvideo.models.backbones2d import BACKBONES, CONVNETS, ConvNet, layers_up_to
from jaxvideo.models.inception import I3D, VARIANTS, InceptionTrunk
from jaxvideo.types import ConfigError, Lowering

# --- Snippets and stacks of flow ------------------------------------------------------------


def snippets(x: jax.Array, frames: int) -> jax.Array:
    """`[N, T, H, W, C]` to `[N, K, frames, H, W, C]`, K = T / frames."""
    n, t, *rest = x.shape
    if t % frames:
        raise ConfigError(f"a clip of {t} frames is not one of snippets of {frames}")
    return x.reshape(n, t // frames, frames, *rest)


def stack_fields(flow: jax.Array) -> jax.Array:
    """Flow stacking: `[N, L, H, W, C]` to `[N, 1, H, W, L C]`, the channels of a field together.

    arXiv 1406.2199, equation 1: channel 2k is x and 2k + 1 is y of field k.
    """
    n, _, h, w, _ = flow.shape
    return jnp.moveaxis(flow, 1, 3).reshape(n, 1, h, w, -1)


def stack_trajectories(flow: jax.Array, pixels: float) -> jax.Array:
    """Trajectory stacking: as `stack_fields`, but each field is read where the motion has led.

    arXiv 1406.2199, equation 2: p_1 = (u, v), p_k = p_(k-1) + d_(k-1)(p_(k-1)). Between pixels
    fields are read bilinearly, outside the frame at its border.

    Args:
      flow: `[N, L, H, W, 2]`.
      pixels: how many pixels a flow of 1 is.
    """
    _, fields, h, w, _ = flow.shape

    def read(field, rows, columns):  # [H, W, 2]
        one = functools.partial(
            map_coordinates, coordinates=[rows, columns], order=1, mode="nearest"
        )
        return jax.vmap(one, in_axes=-1, out_axes=-1)(field)

    def along(flow):  # [L, H, W, 2]
        rows, columns = jnp.mgrid[:h, :w].astype(jnp.float32)
        seen = []
        for k in range(fields):
            seen.append(read(flow[k].astype(jnp.float32), rows, columns))
            columns = columns + pixels * seen[-1][..., 0]
            rows = rows + pixels * seen[-1][..., 1]
        return jnp.stack(seen)

    return stack_fields(jax.vmap(along)(flow).astype(flow.dtype))


def stack_both_ways(flow: jax.Array) -> jax.Array:
    """Bi-directional stacking about the middle frame: `[N, L, H, W, 4]` to `[N, 1, H, W, 2L]`.

    arXiv 1406.2199, section 3.1. Channels 0 and 1 are the flow from a frame to the next, 2 and
    3 that from the next one back; L is even. The first L channels are the forward fields from
    the middle frame on, the others the backward fields from there, so both lead away from it.
    """
    fields = flow.shape[1]
    if flow.shape[-1] != 4 or fields % 2:
        raise ConfigError(
            f"bi-directional stacking wants an even number of fields, of 4 channels (forward x, y,"
            f" backward x, y): {fields} of {flow.shape[-1]}"
        )
    half = fields // 2
    ahead, back = flow[:, half:, ..., :2], flow[:, half - 1 :: -1, ..., 2:]
    return stack_fields(jnp.concatenate((ahead, back), axis=1))


STACKINGS = ("fields", "trajectories", "both_ways")


# --- The streams of 2014 --------------------------------------------------------------------


class SpatialStream(nn.Module):
    """`(logits [N, classes], endpoints)` of the middle frame of a clip `[N, T, H, W, 3]`.

    Attributes:
      net: a row of `CONVNETS`.
      width: multiplies every channel count; 1 is the paper's.
      dropout_rate: 0.9 in the paper where the whole net is fine-tuned.
      dtype: compute dtype; parameters are f32.
    """

    net: str = "cnn_m"
    num_classes: int = 101
    width: float = 1.0
    dropout_rate: float = 0.5
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        middle = x.shape[1] // 2
        tower = _tower(self, self.net, self.num_classes, "spatial")
        logits, endpoints = tower(x[:, middle : middle + 1], train=train)
        return _scores(logits), _prefixed("spatial", endpoints)


class TemporalStream(nn.Module):
    """`(logits [N, classes], endpoints)` of a clip of flow `[N, T, H, W, 2]`, its T fields in
    one stack; 10 in the paper.

    Attributes:
      stacking: "fields"; "trajectories"; or "both_ways", of 4 channels, see above.
      subtract_mean: from each field its mean over the frame, which camera motion dominates.
        Trajectories follow the motion as it is.
      pixels: how many pixels a flow of 1 is; trajectories need it.
      Others: see `SpatialStream`.
    """

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
        stack = {
            "fields": stack_fields,
            "trajectories": functools.partial(stack_trajectories, pixels=self.pixels),
            "both_ways": stack_both_ways,
        }[self.stacking]
        stacked = stack(x)
        if self.subtract_mean:
            stacked = stacked - stack(x.mean((2, 3), keepdims=True))
        tower = _tower(self, self.net, self.num_classes, "temporal")
        logits, endpoints = tower(stacked, train=train)
        return _scores(logits), _prefixed("temporal", endpoints)


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
    """`[N, T, 1, 1, classes]` to f32 `[N, classes]`, the mean over T."""
    return logits.astype(jnp.float32).mean((1, 2, 3))


def _prefixed(name: str, endpoints: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {f"{name}/{end}": value for end, value in endpoints.items()}


# --- Fusion inside the network --------------------------------------------------------------

FUSIONS = ("sum", "max", "concat", "conv", "conv3d", "bilinear")

#: Where streams may meet: after the ReLU of a stage's last convolution, of a hidden layer, and
#: (fc8) in their predictions.
POINTS = ("relu1", "relu2", "relu3", "relu4", "relu5", "fc6", "fc7", "fc8")


class Fusion(nn.Module):
    """Two maps `[N, T, H, W, D]` into one (arXiv 1604.06573, section 3.1).

    "sum" and "max" by element; "concat" to 2D channels; "conv", 1 x 1 of these to D with a
    bias, starting as "sum"; "conv3d", 3 x 3 x 3 to D, starting as a Gaussian of a quarter of
    the first and three quarters of the second (the paper says a factor of 3, the code this);
    "bilinear", the outer products summed over the frame to `[N, T, 1, 1, D^2]`, signed square
    roots, L2. Both convolutions have a ReLU. A smaller map is padded with zeros, after.
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
                f"fusion={self.kind!r} wants as many channels of both streams: "
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
    # The square root has no derivative at 0, where a ReLU leaves many products.
    size = jnp.abs(y)
    root = jnp.where(size > 0, jnp.sqrt(jnp.where(size > 0, size, 1.0)), 0.0)
    y = jnp.sign(y) * root
    return y * jax.lax.rsqrt(jnp.maximum(jnp.square(y).sum(-1, keepdims=True), 1e-12))


def _identities(channels: Sequence[int], weights: Sequence[float]):
    """Identity matrices of the streams stacked, spread over the taps by a Gaussian, sigma 1."""

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
    """Both streams of a clip `[N, T, H, W, 5]` in one network, fused at the points `where`.

    At every point the spatial tower goes on with the fused map and the temporal one with its
    own; after the last point only the spatial one is left. So ("relu5",) is the paper's single
    tower, ("relu5", "fc8") keeps both and averages their predictions, and ("fc8",) is late
    fusion. `TwoStreamFusion(fusion="conv3d", time_pool=True, where=("relu5", "fc8"))` on
    several snippets is the final network of the paper (section 3.4).

    Endpoints carry "spatial/" and "temporal/" before the names of the towers' scopes, which are
    those of the 2014 streams: weights of both may be loaded together. Logits are `[N, classes]`;
    with fc8 in `where`, `train=True` gives `[N, 2, classes]`, a loss for each tower, and
    `train=False` logits whose softmax is the average of both predictions.

    Attributes:
      fusion: a row of `FUSIONS`, at all points but fc8.
      where: points out of `POINTS`, in their order.
      time_pool: pool5 takes the maximum over all snippets too; else scores are averaged.
      spatial_net, temporal_net: rows of `CONVNETS`.
      snippet: frames of flow per stack; T / snippet snippets.
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

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        where = tuple(self.where)
        if not where or list(where) != [point for point in POINTS if point in where]:
            raise ConfigError(f"where={where}: points out of {POINTS}, in this order")
        if self.fusion == "bilinear" and len(where) > 1:
            raise ConfigError(f"fusion='bilinear' has no layers after it: where={where}")
        nets = {"spatial": self.spatial_net, "temporal": self.temporal_net}
        towers = {
            name: _tower(self, net, self.num_classes, name, time_pool=self.time_pool)
            for name, net in nets.items()
        }
        maps = dict(zip(nets, _rgb_and_stacks(x, self.snippet), strict=True))
        done = dict.fromkeys(nets, 0)
        endpoints = {}

        def advance(name, stop):
            tower = towers[name]
            maps[name], ends = tower(maps[name], train=train, start=done[name], stop=stop)
            endpoints.update(_prefixed(name, ends))
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
        elif self.fusion == "bilinear":
            init = nn.initializers.normal(0.01)
            fc8 = nn.Dense(self.num_classes, kernel_init=init, name="fc8")
            logits = _scores(fc8(maps["spatial"]))
        else:
            advance("spatial", None)
            logits = _scores(maps["spatial"])
        endpoints["logits"] = logits
        return logits, endpoints


def _rgb_and_stacks(x, frames):
    """RGB `[N, K, H, W, 3]` and flow `[N, K, H, W, 2 frames]` of a clip with both."""
    if x.shape[-1] != 5:
        raise ConfigError(f"a clip of {x.shape[-1]} channels: RGB and flow are 5")
    parts = snippets(x, frames)
    return parts[:, :, frames // 2, ..., :3], _stacks(parts[..., 3:])


def _stacks(parts):
    """`[N, K, L, H, W, C]` to `[N, K, H, W, L C]`."""
    n, k, *rest = parts.shape
    stacked = stack_fields(parts.reshape(n * k, *rest))
    return stacked.reshape(n, k, *stacked.shape[2:])


# --- Temporal segment networks --------------------------------------------------------------

CONSENSUS = ("average", "max", "weighted")


class Consensus(nn.Module):
    """Scores of segments `[N, K, classes]` to `[N, classes]`: their "average", their "max", or
    their sum "weighted" by `weights [K]`, which are learned from 1 / K on."""

    kind: str

    @nn.compact
    def __call__(self, scores: jax.Array) -> jax.Array:
        if self.kind not in CONSENSUS:
            raise ConfigError(f"consensus={self.kind!r}: allowed are {CONSENSUS}")
        if self.kind == "average":
            return scores.mean(1)
        if self.kind == "max":
            return scores.max(1)
        segments = scores.shape[1]
        known = self.variables.get("params", {}).get("weights")
        if known is not None and len(known) != segments:
            raise ConfigError(f"weights for {len(known)} segments, a clip of {segments}")
        equal = nn.initializers.constant(1 / segments)
        return jnp.einsum("nkc,k->nc", scores, self.param("weights", equal, (segments,)))


class TSN(nn.Module):
    """`(logits [N, classes], endpoints)` of K snippets, one after the other along T.

    The snippets' frames are laid into the channels: 1 of RGB; 5 of flow, 10 channels; 5
    differences of RGB, 15 channels. Scores are joined before the softmax.

    Attributes:
      backbone: a row of `BACKBONES`.
      snippet: frames per snippet; K is T / snippet.
      consensus: "average", "max", or "weighted", with a learned weight per segment, which
        fixes K.
      partial_bn: see `backbones2d.BNInception`; `backbones2d.PARTIAL_BN` names what the
        optimizer is to freeze as well.
      dropout_rate: 0.8 for RGB and differences, 0.7 for flow in the paper.
      width: multiplies every channel count; 1 is the paper's.
      bn_groups, bn_momentum, bn_epsilon: see `layers.norm`.
      dtype: compute dtype; parameters and statistics are f32.
    """

    backbone: str = "bn_inception"
    snippet: int = 1
    consensus: str = "average"
    partial_bn: bool = False
    num_classes: int = 101
    width: float = 1.0
    dropout_rate: float = 0.8
    bn_groups: int = 1
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        if self.backbone not in BACKBONES:
            raise ConfigError(f"backbone={self.backbone!r}: allowed are {list(BACKBONES)}")
        net = BACKBONES[self.backbone](
            width=self.width,
            partial_bn=self.partial_bn,
            bn_groups=self.bn_groups,
            bn_momentum=self.bn_momentum,
            bn_epsilon=self.bn_epsilon,
            dtype=self.dtype,
            lowering=self.lowering,
            name="net",
        )
        x, endpoints = net(_stacks(snippets(x, self.snippet)), train=train)
        endpoints = _prefixed("net", endpoints)
        x = x.astype(jnp.float32).mean((2, 3))
        endpoints["pool"] = x
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.001), name="fc")(x)
        endpoints["fc"] = x  # [N, K, classes]
        logits = Consensus(self.consensus, name="consensus")(x)
        endpoints["logits"] = logits
        return logits, endpoints


# --- Inception-v1 with two streams, of the I3D paper ----------------------------------------


class TwoStreamInception(nn.Module):
    """Two-Stream of the I3D paper, of a clip `[N, T, H, W, 5]`: the predictions of Inception-v1
    on a frame and of another one on a stack of flow, averaged in training as well.

    Scopes are `spatial` and `temporal`, and inside those of "inception_v1".

    Attributes:
      snippet: frames of flow per stack; the scores of T / snippet snippets are averaged.
      Others: see `inception.InceptionTrunk`.
    """

    snippet: int = 10
    num_classes: int = 400
    width: float = 1.0
    dropout_rate: float = 0.5
    bn_scale: bool = False
    bn_groups: int = 1
    bn_momentum: float = 0.999
    bn_epsilon: float = 1e-3
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        endpoints, heads = {}, []
        streams = zip(("spatial", "temporal"), _rgb_and_stacks(x, self.snippet), strict=True)
        for name, frames in streams:
            stream = I3D(
                num_classes=self.num_classes,
                dropout_rate=self.dropout_rate,
                **_inception_fields(self),
                name=name,
            )
            logits, ends = stream(frames, train=train)
            heads.append(logits)
            endpoints |= _prefixed(name, ends)
        logits = average_predictions(*heads)
        endpoints["logits"] = logits
        return logits, endpoints


class FusedTwoStreamInception(nn.Module):
    """3D-fused Two-Stream of the I3D paper: `(logits [N, classes], endpoints)` of a clip
    `[N, T, H, W, 5]` of T / snippet snippets; 5 of 10 frames in the paper.

    Inception-v1 without its head on each snippet's frame and on its stack of flow; both maps
    concatenated, a 3 x 3 x 3 convolution to 512 channels with BN and ReLU, as the paper's section
    2.5 has after every convolution, a 3 x 3 x 3 max pool and the classifier. The paper does
    not say how the pool strides (here by 2, padded like the trunk's) nor what is left of the
    positions: only their mean gives the 39M parameters of its table.

    Attributes: see `TwoStreamInception`.
    """

    snippet: int = 10
    num_classes: int = 400
    width: float = 1.0
    dropout_rate: float = 0.5
    bn_scale: bool = False
    bn_groups: int = 1
    bn_momentum: float = 0.999
    bn_epsilon: float = 1e-3
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        endpoints, maps = {}, []
        streams = zip(("spatial", "temporal"), _rgb_and_stacks(x, self.snippet), strict=True)
        for name, frames in streams:
            trunk = InceptionTrunk(**_inception_fields(self), name=name)
            features, ends = trunk(frames, train=train)
            maps.append(features)
            endpoints |= _prefixed(name, ends)
        conv = Conv3D(
            max(round(512 * self.width), 1),
            (3, 3, 3),
            padding=1,
            dtype=self.dtype,
            lowering=self.lowering,
            name="fusion",
        )
        norm = BatchNorm(
            momentum=self.bn_momentum,
            epsilon=self.bn_epsilon,
            use_scale=self.bn_scale,
            groups=self.bn_groups,
            unbiased=False,
            dtype=self.dtype,
            name="bn_fusion",
        )
        both = jnp.concatenate(maps, axis=-1)
        endpoints["fusion"] = x = conv_norm(conv, norm, both, train=train, activation="relu")
        endpoints["pool"] = x = max_pool(x, (3, 3, 3), (2, 2, 2), "SAME")
        x = x.astype(jnp.float32).mean((1, 2, 3))
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        logits = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="fc")(x)
        endpoints["fc"] = logits
        return logits, endpoints


def _inception_fields(model) -> dict[str, Any]:
    names = ("width", "bn_scale", "bn_groups", "bn_momentum", "bn_epsilon", "dtype", "lowering")
    return {**VARIANTS["inception_v1"], **{name: getattr(model, name) for name in names}}


#: The final network of arXiv 1604.06573 (section 3.4): VGG-16 twice, both towers kept.
FUSION_3D: dict[str, Any] = {
    "fusion": "conv3d",
    "where": ("relu5", "fc8"),
    "time_pool": True,
    "spatial_net": "vgg16",
    "temporal_net": "vgg16",
}
