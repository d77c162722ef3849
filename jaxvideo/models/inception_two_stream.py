"""Two-stream networks on Inception: Two-Stream I3D and the baselines of the I3D paper.

"Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset", Carreira, Zisserman, CVPR
2017 (arXiv 1705.07750), section 2. A clip is `[N, T, H, W, 5]`: RGB, then flow (x, y).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.layers import BatchNorm, Conv3D, average_predictions, conv_norm, max_pool
from jaxvideo.models.contract import check_clip, prefixed, scaled
from jaxvideo.models.inception import I3D, VARIANTS, InceptionTrunk
from jaxvideo.models.stacks import rgb_and_stacks
from jaxvideo.types import Lowering


class TwoStreamI3D(nn.Module):
    """Two-Stream I3D (section 2.4) on a clip `[N, T, H, W, 5]`, RGB before flow.

    Two I3Ds, in the scopes `rgb` and `flow`. Returns the sum of their logits `[N, classes]`, also
    in training, as the released code does; the paper averages the predictions. `pre_logits` is the
    concatenation of both average pools, `[N, T', 1, 1, 2048]`.

    Attributes: see `inception.I3D`.
    """

    head = ("rgb/logits", "flow/logits")

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
        check_clip(self, x, (5,))
        names = {f.name for f in dataclasses.fields(self)} - {"parent", "name"}
        stream = functools.partial(I3D, **{name: getattr(self, name) for name in names})
        endpoints, features = {}, []
        for name, channels in (("rgb", x[..., :3]), ("flow", x[..., 3:])):
            _, ends = stream(name=name)(channels, train=train)
            features.append(ends["pre_logits"])
            endpoints |= prefixed(name, ends)
        logits = endpoints["rgb/logits"] + endpoints["flow/logits"]
        features = jnp.concatenate(features, axis=-1)
        return logits, {**endpoints, "pre_logits": features, "logits": logits}


class TwoStreamInception(nn.Module):
    """Two-Stream of the I3D paper (section 2.3) on a clip `[N, T, H, W, 5]`, RGB before flow.

    One Inception-v1 sees the middle RGB frame of every snippet, another one its stacked flow.
    Returns logits `[N, classes]` whose softmax is the average of both predictions, also in
    training. Scopes and prefixes of the endpoints are "spatial" and "temporal". `pre_logits` is
    the concatenation of both average pools, `[N, K, 1, 1, 2048]`.

    Attributes:
      snippet: frames per snippet; the scores of K = T / snippet snippets are averaged.
      Others: see `inception.I3D`.
    """

    head = ("spatial/logits", "temporal/logits")

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
        check_clip(self, x, (5,))
        endpoints, heads, features = {}, [], []
        streams = zip(("spatial", "temporal"), rgb_and_stacks(x, self.snippet), strict=True)
        for name, frames in streams:
            stream = I3D(
                num_classes=self.num_classes,
                dropout_rate=self.dropout_rate,
                **_inception_fields(self),
                name=name,
            )
            logits, ends = stream(frames, train=train)
            heads.append(logits)
            features.append(ends["pre_logits"])
            endpoints |= prefixed(name, ends)
        logits = average_predictions(*heads)
        features = jnp.concatenate(features, axis=-1)
        return logits, {**endpoints, "pre_logits": features, "logits": logits}


class FusedTwoStreamInception(nn.Module):
    """3D-Fused Two-Stream of the I3D paper (section 2.3) on a clip `[N, T, H, W, 5]`.

    The clip has K = T / snippet snippets, 5 of 10 frames in the paper. Inception-v1 without its
    head sees the middle RGB frame of every snippet, another one its stacked flow. The maps are
    concatenated; then follow a 3 x 3 x 3 convolution to 512 channels with BN and ReLU (section
    2.5), a 3 x 3 x 3 max pool, an average over all positions and the classifier. The paper gives
    neither the stride of the max pool (here 2, padded like the trunk's) nor the average over
    positions; only the average yields the 39M parameters of Table 1.

    Returns logits `[N, classes]`, also in training; `pre_logits` is `[N, 512]`.

    Attributes: see `TwoStreamInception`.
    """

    head = "fc"

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
        check_clip(self, x, (5,))
        endpoints, maps = {}, []
        streams = zip(("spatial", "temporal"), rgb_and_stacks(x, self.snippet), strict=True)
        for name, frames in streams:
            trunk = InceptionTrunk(**_inception_fields(self), name=name)
            features, ends = trunk(frames, train=train)
            maps.append(features)
            endpoints |= prefixed(name, ends)
        conv = Conv3D(
            scaled(512, self.width),
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
        features = x.astype(jnp.float32).mean((1, 2, 3))
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(features)
        logits = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="fc")(x)
        endpoints["fc"] = logits
        return logits, {**endpoints, "pre_logits": features, "logits": logits}


def _inception_fields(model) -> dict[str, Any]:
    names = ("width", "bn_scale", "bn_groups", "bn_momentum", "bn_epsilon", "dtype", "lowering")
    return {**VARIANTS["inception_v1"], **{name: getattr(model, name) for name in names}}
