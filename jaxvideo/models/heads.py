"""Heads of SlowFast, X3D, CSN and R(2+1)D-50: predictions at several positions of the last map."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxvideo.layers import average_predictions, avg_pool

#: How the predictions of the positions are combined, see `joint_answer`; "global" averages the
#: whole map before the classifier.
POSITIONS = ("softmax", "sigmoid", "logits", "global")


def window_means(x: jax.Array, pool: int) -> jax.Array:
    """Averages all windows of T x `pool` x `pool`: the positions of a fully convolutional head.

    Args:
      x: `[N, T, H, W, C]`.
      pool: side of the window; H or W if the map is smaller.

    Returns:
      `[N, 1, H', W', C]`.
    """
    return avg_pool(x, (x.shape[1], *(min(pool, side) for side in x.shape[2:4])), (1, 1, 1))


def joint_answer(x: jax.Array, positions: str) -> jax.Array:
    """Combines the logits of all positions, `[N, T, H, W, classes]` to `[N, classes]`.

    Args:
      x: the logits.
      positions: "softmax" or "sigmoid": the softmax or sigmoid of the result is the mean over the
        positions. Otherwise the result is the mean of the logits.
    """
    x = x.reshape(len(x), -1, x.shape[-1])
    if positions == "softmax" and x.shape[1] > 1:
        return average_predictions(*jnp.moveaxis(x, 1, 0))
    if positions == "sigmoid" and x.shape[1] > 1:
        # log p - log(1 - p) of the mean p; the number of positions cancels.
        yes, no = (jax.nn.logsumexp(jax.nn.log_sigmoid(one), axis=1) for one in (x, -x))
        return yes - no
    return x.mean(1)
