"""Supervision transfer from images to videos, by Diba et al., 2017 (arXiv 1711.08200).

A frozen image network, the teacher, sees frames, a video network, the student, a clip. From the
features of both, two hidden layers and a binary classifier tell whether they show the same
moment of the same video. The student learns what the teacher knows, and no class labels are
needed; afterwards it is fine-tuned on some.

Frames and clips are paired within a batch, each clip with its own frames and with those of
another video. The paper does not say how it pairs them, nor what comes between the layers: ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.types import ConfigError


class SupervisionTransfer(nn.Module):
    """`(logits [2 N], endpoints)` of `frames [N, X, H, W, C]` and `clip [N, T, H, W, C]`.

    The logits belong to the `matched_pairs` of the batch's features, so that every network runs
    once: first the N that match, then the N that do not. The N videos must differ. In training
    their `matching_loss` is sown into the collection "losses".

    The teacher runs as at test and gets no gradient; an optimizer with weight decay must be told
    to leave `teacher` alone too. The variables under `student` are the video network's.

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
        *pair, labels = matched_pairs(endpoints["teacher"], endpoints["student"])
        x = jnp.concatenate(pair, axis=-1)
        for index, features in enumerate(self.hidden, 1):
            name = f"fc{index}"
            endpoints[name] = x = nn.relu(nn.Dense(features, name=name)(x))
        logits = nn.Dense(1, kernel_init=nn.initializers.normal(0.01), name="match")(x)[:, 0]
        endpoints["match"] = logits
        if train and not self.is_initializing() and self.is_mutable_collection("losses"):
            self.sow("losses", "matching", matching_loss(logits, labels))
        return logits, endpoints


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
