"""Converts uint8 video to normalized clips, inside the compiled step.

Transfers to the device then need a quarter of the bandwidth of f32.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo.data.colors import MATRICES
from jaxvideo.layers.tvl1 import flow_of_video
from jaxvideo.types import Preprocessing


def to_rgb(video: jax.Array, size: int) -> jax.Array:
    """Converts transferred planes to RGB; returns any other video unchanged.

    Color is interpolated linearly between the centers of its pixels.

    Args:
      video: planes, uint8 `[N, T, bytes]` (`data.planes`), or `[N, T, H, W, C]`.
      size: side of the frames in pixels.

    Returns:
      uint8 `[N, T, size, size, 3]`.
    """
    if video.ndim == 5:
        return video
    n, t, _ = video.shape
    half = (size + 1) // 2
    luma, chroma, kind = jnp.split(video, [size * size, video.shape[-1] - 1], -1)
    cb, cr = jnp.split(chroma.reshape(n, t, 2 * half, half), 2, 2)
    matrix = jnp.asarray(MATRICES)[kind.reshape(n, t)][:, :, None, None]
    planes = luma.reshape(n, t, size, size), *(_doubled(c, size) for c in (cb, cr))
    parts = (
        plane.astype(jnp.float32)[..., None] * matrix[..., i] for i, plane in enumerate(planes)
    )
    return jnp.clip(jnp.round(sum(parts, matrix[..., 3])), 0, 255).astype(jnp.uint8)


def _doubled(plane: jax.Array, size: int) -> jax.Array:
    """Interpolates `[N, T, h, h]` linearly to f32 `[N, T, size, size]`, h = ceil(size / 2)."""
    plane = plane.astype(jnp.float32)
    if size % 2:
        return jax.image.resize(plane, (*plane.shape[:2], size, size), "linear", antialias=False)
    for axis in (2, 3):
        padding = [(1, 1) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(plane, padding, mode="edge")
        before, after = (
            jax.lax.slice_in_dim(padded, first, first + plane.shape[axis], axis=axis)
            for first in (0, 2)
        )
        pairs = jnp.stack([0.75 * plane + 0.25 * before, 0.75 * plane + 0.25 * after], axis + 1)
        shape = (*plane.shape[:axis], 2 * plane.shape[axis], *plane.shape[axis + 1 :])
        plane = pairs.reshape(shape)
    return plane


def prepare(video: jax.Array, preprocessing: Preprocessing, dtype: Any) -> jax.Array:
    """Converts a batch of uint8 video to clips `[N, T, H, W, C]` of dtype `dtype`.

    Args:
      video: uint8 `[N, *preprocessing.video_shape]`, or planes
        `[N, *preprocessing.transfer_shape]`.
      preprocessing: normalization and modality of the clip. Optical flow is computed here if the
        host does not provide it.
      dtype: compute dtype of the network.
    """
    p = preprocessing
    video = to_rgb(video, p.crop)
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
