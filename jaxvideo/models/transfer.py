"""What T3D learns from besides labeled clips, by Diba et al., 2017 (arXiv 1711.08200).

Supervision transfer: a frozen image network, the teacher, sees frames, a video network, the
student, a clip. From the features of both, two hidden layers and a binary classifier tell whether
they show the same moment of the same video. The student learns what the teacher knows, and no
class labels are needed; afterwards it is fine-tuned on some. Frames and clips are paired within a
batch, each clip with its own frames and with those of another video. The paper does not say how
it pairs them, how many frames it takes, nor what comes between the layers: ReLU.

T3D + TSN: the network on a snippet of each of several segments, their scores joined
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
from jaxvideo.models.densenet3d import DenseBlock, DenseNet3D, Transition
from jaxvideo.models.two_stream import Consensus, snippets
from jaxvideo.types import ConfigError, Lowering


class SupervisionTransfer(nn.Module):
    """`(logits [2 N], endpoints)` of `frames [N, X, H, W, C]` and `clip [N, T, H, W, C]`.

    The logits belong to the `matched_pairs` of the batch's features, so that every network runs
    once: first the N that match, then the N that do not. The N videos must differ. In training
    their `matching_loss` is sown into the collection "losses".

    The teacher runs as at test and gets no gradient; an optimizer with weight decay must be told
    to leave `teacher` alone too. The variables under `student` are the video network's, and so
    are the endpoints that begin with `student/`.

    Attributes:
      teacher: answers `(features [N, X, ..., D], endpoints)`, as `backbones2d` and
        `inception.InceptionTrunk` do; they are averaged over all axes between N and D.
      student: any network of `models`; its classifier is not used.
      feature: the student's endpoint that is compared, averaged alike.
      hidden: widths of fc1 and fc2.
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
        own = {f"student/{name}": end for name, end in student.items()}
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
    """`(features [N, T, H/32, W/32, D], endpoints)` of every frame of `[N, T, H, W, C]` alone.

    DenseNet-BC of images (Huang et al., arXiv 1608.06993), the paper's teacher: D is 1024 for 121
    layers. Scopes are `densenet3d`'s.

    Attributes:
      blocks, width, bn_epsilon, dtype, lowering: see `densenet3d.DenseNet3D`.
    """

    blocks: Sequence[int]
    width: int = 64
    bn_epsilon: float = 1e-5
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        def conv(features, kernel, stride=1, *, name):
            # Of a layer's kernel in 3-D a frame has the part over space.
            shape, strides = (1, kernel[1], kernel[2]), (1, stride, stride)
            padding = (0, kernel[1] // 2, kernel[2] // 2)
            how = {"dtype": self.dtype, "lowering": self.lowering}
            return Conv3D(features, shape, strides, padding, **how, name=name)

        norm = functools.partial(BatchNorm, epsilon=self.bn_epsilon, dtype=self.dtype)
        clips = x.shape[:2]
        x = x.reshape(-1, 1, *x.shape[2:])  # transitions halve time, too, where there is any
        endpoints = {}
        conv0 = conv(self.width, (1, 7, 7), 2, name="conv0")
        x = conv_norm(conv0, norm(name="bn0"), x, train=train, activation="relu")
        endpoints["conv0"] = x
        endpoints["pool0"] = x = max_pool(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for index, layers in enumerate(self.blocks, 1):
            name = f"dense_{index}"
            block = DenseBlock(layers, self.width // 2, 0.0, conv, norm, name=name)
            endpoints[name] = x = block(x, train=train)
            if index < len(self.blocks):
                name = f"transition_{index}"
                x = Transition(x.shape[-1] // 2, conv, norm, name=name)(x, train=train)
                endpoints[name] = x
        endpoints["bn_last"] = nn.relu(norm(name="bn_last")(x, train=train))
        frames = {name: end.reshape(*clips, *end.shape[2:]) for name, end in endpoints.items()}
        return frames["bn_last"], frames


class TransferT3D(DenseNet3D):
    """Supervision transfer to a DenseNet3D or T3D, as `train.py` trains any network:
    `(logits [N, classes], endpoints)` of a clip `[N, T, H, W, C]`.

    The teacher, a DenseNet2D of as many layers and channels, sees frames of the clip itself. The
    matching loss is sown in training, and nothing learns from labels: logits give no gradient.
    (Where all videos have one class, the loss is the matching loss alone.) At test the student
    answers alone. `optim.frozen=("teacher/*", "student/fc/*")` keeps the teacher as it is, also
    from weight decay.

    Attributes:
      teacher_frames: X, from the centers of as many equal parts of the clip.
      hidden: see `SupervisionTransfer`.
      Others: the student's, see `densenet3d.DenseNet3D`.
    """

    teacher_frames: int = 8
    hidden: Sequence[int] = (512, 128)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        if self.teacher_frames < 1:
            raise ConfigError(f"teacher_frames={self.teacher_frames}: must be at least 1")
        student = DenseNet3D(**_fields(self), name="student")
        tested = None
        if not train:
            logits, endpoints = student(x, train=False)
            tested = logits, {f"student/{name}": end for name, end in endpoints.items()}
            if not self.is_initializing():
                return tested
            x = jnp.concatenate([x, x])  # a clip alone has no other to be paired with
        how = {"bn_epsilon": self.bn_epsilon, "dtype": self.dtype, "lowering": self.lowering}
        teacher = DenseNet2D(self.blocks, self.width, **how, name="teacher")
        matching = SupervisionTransfer(teacher, student, hidden=self.hidden, name="matching")
        count = self.teacher_frames
        picked = [(2 * i + 1) * x.shape[1] // (2 * count) for i in range(count)]
        _, endpoints = matching(jnp.stack([x[:, i] for i in picked], axis=1), x, train=train)
        return tested or (jax.lax.stop_gradient(endpoints["student/fc"]), endpoints)


class SegmentT3D(DenseNet3D):
    """T3D + TSN: `(logits [N, classes], endpoints)` of K snippets, one after the other along T.

    Scores are joined before the softmax; endpoints of the network, `net/...`, are those of all
    N K snippets.

    Attributes:
      snippet: frames per snippet; K is T / snippet.
      consensus: see `two_stream.TSN`.
      Others: see `densenet3d.DenseNet3D`.
    """

    snippet: int = 32
    consensus: str = "average"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        x = snippets(x, self.snippet)
        net = DenseNet3D(**_fields(self), name="net")
        scores, endpoints = net(x.reshape(-1, *x.shape[2:]), train=train)
        scores = scores.reshape(*x.shape[:2], -1)
        logits = Consensus(self.consensus, name="consensus")(scores)
        return logits, {f"net/{name}": end for name, end in endpoints.items()}


def _fields(net: DenseNet3D) -> dict[str, Any]:
    """The arguments of the DenseNet3D inside."""
    names = (field.name for field in dataclasses.fields(DenseNet3D))
    return {name: getattr(net, name) for name in names if name not in ("parent", "name")}


def matched_pairs(frames: jax.Array, clips: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(frames [2 N, ...], clips [2 N, ...], labels [2 N])` of N videos' frames and clips, or
    of their features: each clip with its own frames, label 1, then with those of the video
    before it in the batch, label 0."""
    if len(frames) != len(clips) or len(clips) < 2:
        raise ConfigError(
            f"frames of {len(frames)} videos, clips of {len(clips)}: pairs that do not match need "
            "both of the same two videos, or more"
        )
    labels = jnp.repeat(jnp.array([1.0, 0.0]), len(clips), total_repeat_length=2 * len(clips))
    return (
        jnp.concatenate([frames, jnp.roll(frames, 1, axis=0)]),
        jnp.concatenate([clips, clips]),
        labels,
    )


def matching_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean binary cross-entropy of `logits [M]` and `labels [M]`, 1 for a match and 0 for none."""
    return (jax.nn.softplus(logits) - labels * logits).mean()


def _pooled(x):
    return x.astype(jnp.float32).mean(tuple(range(1, x.ndim - 1)))
