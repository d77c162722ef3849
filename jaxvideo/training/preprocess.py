"""From uint8 on the host to a normalized clip, as the first lines of the compiled step.

The host ships bytes: one quarter of the memory traffic of floats, at no cost on the device.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo.layers.tvl1 import flow_of_video
from jaxvideo.types import Preprocessing


def prepare(video: jax.Array, preprocessing: Preprocessing, dtype: Any) -> jax.Array:
    """uint8 `[N, *video_shape]`, as the host ships it, to a clip `[N, T, H, W, C]` in `dtype`."""
    p = preprocessing
    if p.modality == "rgb" or p.host_flow:
        return normalize(video, p, dtype)
    n = len(video)
    snippets = video.reshape(n * p.segments, p.snippet, *video.shape[2:])
    if p.modality == "rgb_diff":
        frames = normalize(snippets, p, jnp.float32)
        clip = (frames[:, 1:] - frames[:, :-1]).astype(dtype)
    else:
        values = flow_of_video(snippets, iterations=10)
        if p.modality == "rgb_flow":
            values = jnp.concatenate([snippets[:, :-1], values], -1)
        clip = normalize(values, p, dtype)
    return clip.reshape(n, -1, *clip.shape[2:])


def normalize(video: jax.Array, preprocessing: Preprocessing, dtype: Any) -> jax.Array:
    """uint8 `[N, T, H, W, C]` to a clip in `dtype`: ((v / 255) scaled to range - mean) / std."""
    if preprocessing.order == "BGR" and video.shape[-1] > 2:
        video = jnp.concatenate([video[..., 2::-1], video[..., 3:]], -1)
    low, high = preprocessing.range
    std = np.asarray(preprocessing.std, np.float32)
    factor = (high - low) / (255.0 * std)
    shift = (low - np.asarray(preprocessing.mean, np.float32)) / std
    return (video.astype(jnp.float32) * factor + shift).astype(dtype)


def sample_keys(key: jax.Array, samples: jax.Array) -> jax.Array:
    """One key per sample from its (epoch, video, view): `[N, 3]` integers to `[N]` keys.

    They do not depend on the sample's place in the batch, so neither the number of workers,
    hosts nor devices changes what is trained on.
    """

    def one(ids):
        sample_key = key
        for position in range(3):
            sample_key = jax.random.fold_in(sample_key, ids[position])
        return sample_key

    return jax.vmap(one)(samples)


def random_flip(video: jax.Array, keys: jax.Array) -> jax.Array:
    """Each video mirrored left to right with probability one half, all its frames alike.

    Channels after RGB, or two alone, are flow in bytes: what moved to the right then moves to
    the left.
    """
    mirror = video[:, :, :, ::-1]
    if video.shape[-1] in (2, 5):
        x = video.shape[-1] - 2
        mirror = mirror.at[..., x].set(255 - mirror[..., x])
    mirrored = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(mirrored[:, None, None, None, None], mirror, video)
