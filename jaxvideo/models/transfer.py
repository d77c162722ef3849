"""Supervision transfer and segments for T3D, by Diba et al., 2017 (arXiv 1711.08200).

Supervision transfer (section 3.3): a frozen image network, the teacher, sees frames; a video
network, the student, sees a clip. From the features of both, two hidden layers and a binary
classifier predict whether frames and clip are from the same video. This trains the student without
class labels; afterwards it is fine-tuned with labels. The paper does not specify the pairs, the
activation of the hidden layers and the number of frames. Here pairs are formed within a batch, each
clip with its own frames and with those of another video, and the activation is ReLU.

T3D + TSN: the network is applied to one snippet per segment, and the scores are combined
(arXiv 1608.00859).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.layers import BatchNorm, Conv3D, conv_norm, max_pool
from jaxvideo.models.contract import check_clip, prefixed, scaled
from jaxvideo.models.densenet3d import DenseBlock, DenseNet3D, Transition
from jaxvideo.models.stacks import snippets
from jaxvideo.models.tsn import Consensus
from jaxvideo.types import ConfigError, Lowering


class SupervisionTransfer(nn.Module):
    """Matches `frames [N, X, H, W, C]` with `clip [N, T, H, W, C]`: `(logits [2 N], endpoints)`.

    Pairs are formed from the features of the batch (`matched_pairs`), so every network runs once:
    logits of the N matching pairs, then of N pairs that do not match. The N videos must be
    different. In training the `matching_loss` is sown into the collection "losses".

    The teacher runs in test mode and without gradient; exclude `teacher` from weight decay. The
    student's variables are in the scope `student`, its endpoints have the prefix "student/". This
    is not a classifier of videos and does not satisfy `types.Model`; `TransferT3D` does.

    Attributes:
      teacher: returns `(features [N, X, ..., D], endpoints)`, e.g. a network of `backbones2d` or
        `inception.InceptionTrunk`. Features are averaged over all axes between N and D.
      student: a network of `models`; its classifier is not used.
      feature: endpoint of the student that is compared, averaged in the same way.
      hidden: features of fc1 and fc2.
    """

    teacher: nn.Module
    student: nn.Module
    feature: str = "pool"
    hidden: Sequence[int] = (512, 128)

    @nn.compact
    def __call__(
        self, frames: jax.Array, clip: jax.Array, *, train: bool
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        taught, _ = self.teacher(frames, train=False)
        _, student = self.student(clip, train=train)
        if self.feature not in student:
            raise ConfigError(f"feature={self.feature!r}: allowed are {', '.join(student)}")
        endpoints = {
            "teacher": _pooled(jax.lax.stop_gradient(taught)),
            "student": _pooled(student[self.feature]),
        }
        own = prefixed("student", student)
        *pair, labels = matched_pairs(endpoints["teacher"], endpoints["student"])
        x = jnp.concatenate(pair, axis=-1)
        for index, features in enumerate(self.hidden, 1):
            name = f"fc{index}"
            endpoints[name] = x = nn.relu(nn.Dense(features, name=name)(x))
        logits = nn.Dense(1, kernel_init=nn.initializers.normal(0.01), name="match")(x)[:, 0]
        endpoints["match"] = logits
        if train and not self.is_initializing() and self.is_mutable_collection("losses"):
            self.sow("losses", "matching", matching_loss(logits, labels))
        return logits, {**endpoints, **own}


class DenseNet2D(nn.Module):
    """DenseNet-BC (arXiv 1608.06993) on every frame of `[N, T, H, W, C]`; the paper's teacher.

    Returns `(features [N, T, H/32, W/32, D], endpoints)`; D is 1024 for 121 layers. Scopes are
    those of `densenet3d`.

    Attributes:
      blocks, growth, width, bn_epsilon, dtype, lowering: see `densenet3d.DenseNet3D`.
    """

    blocks: Sequence[int]
    growth: int = 32
    width: float = 1.0
    bn_epsilon: float = 1e-5
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        def conv(features, kernel, stride=1, *, name):
            # The shared blocks ask for 3-D kernels; only the spatial part applies to a frame.
            shape, strides = (1, kernel[1], kernel[2]), (1, stride, stride)
            padding = (0, kernel[1] // 2, kernel[2] // 2)
            how = {"dtype": self.dtype, "lowering": self.lowering}
            return Conv3D(features, shape, strides, padding, **how, name=name)

        norm = functools.partial(BatchNorm, epsilon=self.bn_epsilon, dtype=self.dtype)
        clips = x.shape[:2]
        x = x.reshape(-1, 1, *x.shape[2:])  # else transitions would pool over frames
        endpoints, growth = {}, scaled(self.growth, self.width)
        conv0 = conv(2 * growth, (1, 7, 7), 2, name="conv0")
        x = conv_norm(conv0, norm(name="bn0"), x, train=train, activation="relu")
        endpoints["conv0"] = x
        endpoints["pool0"] = x = max_pool(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for index, layers in enumerate(self.blocks, 1):
            name = f"dense_{index}"
            block = DenseBlock(layers, growth, 0.0, conv, norm, name=name)
            endpoints[name] = x = block(x, train=train)
            if index < len(self.blocks):
                name = f"transition_{index}"
                x = Transition(x.shape[-1] // 2, conv, norm, name=name)(x, train=train)
                endpoints[name] = x
        endpoints["bn_last"] = nn.relu(norm(name="bn_last")(x, train=train))
        frames = {name: end.reshape(*clips, *end.shape[2:]) for name, end in endpoints.items()}
        return frames["bn_last"], frames


class TransferT3D(DenseNet3D):
    """Supervision transfer to a DenseNet3D or T3D, on a clip `[N, T, H, W, C]`.

    `train.py` trains it like any other network. The teacher, a DenseNet2D with the same numbers of
    layers and channels, sees frames of the clip itself. Training sows the matching loss; nothing
    learns from labels, because the logits have no gradient. (If all videos have the same class,
    the loss is the matching loss alone.) At test only the student runs. Train it with
    `optim.frozen=("teacher/*", "student/fc/*")`, which excludes the teacher from weight decay too.

    Returns logits `[N, classes]` of the student, also in training. The student's endpoints have the
    prefix "student/"; `pre_logits` is its pool, `[N, C]`.

    Attributes:
      teacher_frames: X, number of frames for the teacher; taken at the centers of X equal parts.
      hidden: see `SupervisionTransfer`.
      Others: fields of the student, see `densenet3d.DenseNet3D`.
    """

    head = "student/fc"

    teacher_frames: int = 8
    hidden: Sequence[int] = (512, 128)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        if self.teacher_frames < 1:
            raise ConfigError(f"teacher_frames={self.teacher_frames}: must be at least 1")
        check_clip(self, x, stem="student/conv0")
        student = DenseNet3D(**_fields(self), name="student")
        tested = None
        if not train:
            logits, ends = student(x, train=False)
            tested = logits, _ending(prefixed("student", ends), logits)
            if not self.is_initializing():
                return tested
            x = jnp.concatenate([x, x])  # a pair that does not match needs a second clip
        names = ("blocks", "growth", "width", "bn_epsilon", "dtype", "lowering")
        teacher = DenseNet2D(**{name: getattr(self, name) for name in names}, name="teacher")
        matching = SupervisionTransfer(teacher, student, hidden=self.hidden, name="matching")
        count = self.teacher_frames
        picked = [(2 * i + 1) * x.shape[1] // (2 * count) for i in range(count)]
        _, endpoints = matching(jnp.stack([x[:, i] for i in picked], axis=1), x, train=train)
        if tested:
            return tested
        logits = jax.lax.stop_gradient(endpoints["student/fc"])
        return logits, _ending(endpoints, logits)


def _ending(endpoints, logits):
    return {**endpoints, "pre_logits": endpoints["student/pre_logits"], "logits": logits}


class SegmentT3D(DenseNet3D):
    """T3D + TSN on a clip `[N, T, H, W, C]` of K consecutive snippets.

    The scores of the snippets are combined before the softmax. Returns logits `[N, classes]`, also
    in training. Endpoints of the network have the prefix "net/" and the shape `[N, K, ...]`;
    `pre_logits` is the pool, `[N, K, C]`.

    Attributes:
      snippet: frames per snippet; K is T / snippet.
      consensus: see `tsn.Consensus`.
      Others: see `densenet3d.DenseNet3D`.
    """

    head = "net/fc"

    snippet: int = 32
    consensus: str = "average"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        check_clip(self, x, stem="net/conv0")
        x = snippets(x, self.snippet)
        net = DenseNet3D(**_fields(self), name="net")
        _, ends = net(x.reshape(-1, *x.shape[2:]), train=train)
        ends = {name: end.reshape(*x.shape[:2], *end.shape[1:]) for name, end in ends.items()}
        logits = Consensus(self.consensus, name="consensus")(ends["logits"])
        features = ends["pre_logits"]
        return logits, {**prefixed("net", ends), "pre_logits": features, "logits": logits}


def _fields(net: DenseNet3D) -> dict[str, Any]:
    """Returns the fields of the DenseNet3D inside."""
    names = (field.name for field in dataclasses.fields(DenseNet3D))
    return {name: getattr(net, name) for name in names if name not in ("parent", "name")}


def matched_pairs(frames: jax.Array, clips: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Pairs the frames and clips of N videos, or their features.

    Args:
      frames: `[N, ...]`.
      clips: `[N, ...]`.

    Returns:
      `(frames [2 N, ...], clips [2 N, ...], labels [2 N])`: each clip with its own frames, label 1,
      then with those of the previous video in the batch, label 0.

    Raises:
      ConfigError: the numbers of videos differ, or there is only one.
    """
    if len(frames) != len(clips) or len(clips) < 2:
        raise ConfigError(
            f"matched_pairs: frames of {len(frames)} videos and clips of {len(clips)}; both must "
            "be of the same videos, at least 2"
        )
    labels = jnp.repeat(jnp.array([1.0, 0.0]), len(clips), total_repeat_length=2 * len(clips))
    return (
        jnp.concatenate([frames, jnp.roll(frames, 1, axis=0)]),
        jnp.concatenate([clips, clips]),
        labels,
    )


def matching_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean binary cross-entropy of `logits [M]`; `labels [M]` are 1 for a match."""
    return (jax.nn.softplus(logits) - labels * logits).mean()


def _pooled(x):
    return x.astype(jnp.float32).mean(tuple(range(1, x.ndim - 1)))
