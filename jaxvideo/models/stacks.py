"""Snippets of a clip, and frames or flow fields stacked into channels.

Networks on stacks read a clip of T frames as K = T / `frames` snippets, one after the other. Each
snippet is stacked into the channels: x and y of its first flow field, then of its second, and so
on. The RGB frame of a snippet is its middle frame.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from jaxvideo.types import ConfigError


def snippets(x: jax.Array, frames: int) -> jax.Array:
    """Reshapes `[N, T, H, W, C]` to `[N, K, frames, H, W, C]` with K = T / frames.

    Raises:
      ConfigError: `frames` does not divide T.
    """
    n, t, *rest = x.shape
    if t % frames:
        raise ConfigError(f"a clip of {t} frames: snippets of {frames} frames must divide it")
    return x.reshape(n, t // frames, frames, *rest)


def stack_fields(flow: jax.Array) -> jax.Array:
    """Flow stacking (arXiv 1406.2199, equation 1).

    Args:
      flow: `[N, L, H, W, C]`.

    Returns:
      `[N, 1, H, W, L C]`. With C = 2, channel 2k is x and channel 2k + 1 is y of field k.
    """
    n, _, h, w, _ = flow.shape
    return jnp.moveaxis(flow, 1, 3).reshape(n, 1, h, w, -1)


def stack_snippets(parts: jax.Array) -> jax.Array:
    """Stacks every snippet: `[N, K, L, H, W, C]` to `[N, K, H, W, L C]`."""
    n, k, *rest = parts.shape
    stacked = stack_fields(parts.reshape(n * k, *rest))
    return stacked.reshape(n, k, *stacked.shape[2:])


def stack_trajectories(flow: jax.Array, pixels: float) -> jax.Array:
    """Trajectory stacking (arXiv 1406.2199, equation 2): samples each field along the motion.

    p_1 = (u, v), p_k = p_(k-1) + d_(k-1)(p_(k-1)). Sampling is bilinear, with border clamping.

    Args:
      flow: `[N, L, H, W, 2]`.
      pixels: displacement in pixels of a flow value of 1.

    Returns:
      `[N, 1, H, W, 2 L]`, channels as in `stack_fields`.
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
    """Bi-directional stacking around the middle frame (arXiv 1406.2199, section 3.1).

    Args:
      flow: `[N, L, H, W, 4]`, L even. Channels 0 and 1 are the flow from each frame to the next,
        channels 2 and 3 the flow from the next frame back.

    Returns:
      `[N, 1, H, W, 2 L]`: the L / 2 forward fields after the middle frame, then the L / 2 backward
      fields before it, in order of distance from the middle frame.

    Raises:
      ConfigError: L is odd or the number of channels is not 4.
    """
    fields = flow.shape[1]
    if flow.shape[-1] != 4 or fields % 2:
        raise ConfigError(
            f"bi-directional stacking: the clip has {fields} fields of {flow.shape[-1]} channels; "
            "it must have an even number of fields of 4 channels (forward x, y, backward x, y)"
        )
    half = fields // 2
    ahead, back = flow[:, half:, ..., :2], flow[:, half - 1 :: -1, ..., 2:]
    return stack_fields(jnp.concatenate((ahead, back), axis=1))


def rgb_and_stacks(x: jax.Array, frames: int) -> tuple[jax.Array, jax.Array]:
    """Splits a clip `[N, T, H, W, 5]` into RGB `[N, K, H, W, 3]` and stacked flow.

    Args:
      x: the clip, RGB before flow.
      frames: frames per snippet.

    Returns:
      The middle RGB frame of every snippet and its flow `[N, K, H, W, 2 frames]`.
    """
    parts = snippets(x, frames)
    return parts[:, :, frames // 2, ..., :3], stack_snippets(parts[..., 3:])
