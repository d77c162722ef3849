"""Converts uint8 video to normalized clips, inside the compiled step.

Transfers to the device then need a quarter of the bandwidth of f32.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo.layers.tvl1 import flow_of_video
from jaxvideo.types import Preprocessing


def prepare(video: jax.Array, preprocessing: Preprocessing, dtype: Any) -> jax.Array:
    """Converts a batch of uint8 video to clips `[N, T, H, W, C]` of dtype `dtype`.

    Args:
      video: uint8 `[N, *preprocessing.video_shape]`.
      preprocessing: normalization and modality of the clip. Optical flow is computed here if the
        host does not provide it.
      dtype: compute dtype of the network.
    """
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
    """Normalizes uint8 `[N, T, H, W, C]`: ((v / 255 scaled to `range`) - mean) / std."""
    if preprocessing.order == "BGR" and video.shape[-1] > 2:
        video = jnp.concatenate([video[..., 2::-1], video[..., 3:]], -1)
    low, high = preprocessing.range
    std = np.asarray(preprocessing.std, np.float32)
    factor = (high - low) / (255.0 * std)
    shift = (low - np.asarray(preprocessing.mean, np.float32)) / std
    return (video.astype(jnp.float32) * factor + shift).astype(dtype)
