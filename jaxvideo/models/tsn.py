"""Temporal segment networks: one image network on a snippet of each of K segments of a video.

"Temporal Segment Networks: Towards Good Practices for Deep Action Recognition", Wang, Xiong, Wang,
Qiao, Lin, Tang, Van Gool, ECCV 2016 (arXiv 1608.00859). The scores of the segments are combined
before the softmax. Image networks are in `models.backbones2d`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.models.backbones2d import BACKBONES
from jaxvideo.models.contract import check_clip, prefixed
from jaxvideo.models.stacks import snippets, stack_snippets
from jaxvideo.types import ConfigError, Lowering

CONSENSUS = ("average", "max", "weighted")


class Consensus(nn.Module):
    """Segmental consensus (section 3.1): `[N, K, classes]` to `[N, classes]`.

    Attributes:
      kind: "average"; "max"; or "weighted", a sum with learned `weights [K]`, initially 1 / K.
    """

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
            raise ConfigError(
                f"consensus='weighted': the clip has {segments} segments, the parameters are for "
                f"{len(known)}"
            )
        equal = nn.initializers.constant(1 / segments)
        return jnp.einsum("nkc,k->nc", scores, self.param("weights", equal, (segments,)))


class TSN(nn.Module):
    """TSN (arXiv 1608.00859, section 3) on a clip `[N, T, H, W, C]` of K consecutive snippets.

    The frames of a snippet are stacked into the channels: 1 RGB frame; 5 flow fields, 10 channels;
    5 RGB differences, 15 channels. Returns logits `[N, classes]`, also in training. The endpoint
    `pool` and `pre_logits` are `[N, K, C]`, `fc` is `[N, K, classes]`, the scores before the
    consensus.

    Attributes:
      backbone: a key of `backbones2d.BACKBONES`.
      snippet: frames per snippet; K is T / snippet.
      consensus: see `Consensus`; "weighted" fixes K.
      partial_bn: see `backbones2d.BNInception`; `backbones2d.PARTIAL_BN` are the parameters that
        the optimizer must freeze as well.
      width: factor of all numbers of channels; 1.0 is the paper's.
      dropout_rate: dropout before the classifier; the paper has 0.8 for RGB and differences, 0.7
        for flow.
      bn_groups, bn_momentum, bn_epsilon: see `layers.norm`.
      dtype: compute dtype; parameters and statistics are f32.
      lowering: see `types.Lowering`.
    """

    head = "fc"

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
        check_clip(self, x, stem="net/conv1", stacked=self.snippet)
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
        x, ends = net(stack_snippets(snippets(x, self.snippet)), train=train)
        endpoints = prefixed("net", ends)
        endpoints["pool"] = features = x.astype(jnp.float32).mean((2, 3))
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(features)
        init = nn.initializers.normal(0.001)
        x = nn.Dense(self.num_classes, kernel_init=init, name="fc")(x)
        endpoints["fc"] = x  # [N, K, classes]
        logits = Consensus(self.consensus, name="consensus")(x)
        return logits, {**endpoints, "pre_logits": features, "logits": logits}
