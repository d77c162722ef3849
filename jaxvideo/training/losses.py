"""Losses: a table of functions `(logits, targets) -> loss per clip`.

Args of every loss:
  logits: f32 `[N, steps, classes]`. `steps` is 1, except for networks that classify every time
    step in training (ConvNet + LSTM); all steps have equal weight.
  targets: f32 `[N, classes]`. One class per clip: one-hot rows, which label smoothing and mixup
    turn into probabilities. Several: 1 for each class of the clip. Regression: the values.

Returns: f32 `[N]`. The training step averages over the clips of non-zero weight.

A loss that is not in the table is passed to `step.make_train_step` as a function.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxvideo.types import UsageError

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def softmax(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy of the softmax: classes that exclude each other."""
    return optax.softmax_cross_entropy(logits, targets[:, None]).mean(1)


def sigmoid(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Binary cross-entropy of the sigmoid, mean over the classes: several classes per clip."""
    return optax.sigmoid_binary_cross_entropy(logits, targets[:, None]).mean((1, 2))


def mse(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Squared error, mean over the outputs: regression, or distillation from another network."""
    return optax.squared_error(logits, targets[:, None]).mean((1, 2))


def none(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Zero, for networks that are trained without labels by the losses that they sow."""
    del targets
    return jnp.zeros(len(logits), jnp.float32)


#: Losses by name, for `config.loss`.
LOSSES: dict[str, Loss] = {"softmax": softmax, "sigmoid": sigmoid, "mse": mse, "none": none}


def get_loss(loss: Loss | str, *, several: bool = False) -> Loss:
    """Returns a loss function.

    Args:
      loss: a function; a key of `LOSSES`; or "": "sigmoid" if `several`, otherwise "softmax".
      several: True if a clip may have several classes.

    Raises:
      ConfigError: there is no loss of this name.
    """
    if not isinstance(loss, str):
        return loss
    name = loss or ("sigmoid" if several else "softmax")
    if name not in LOSSES:
        raise UsageError(f"loss={loss!r}: allowed are {', '.join(LOSSES)}, or '' for the default")
    return LOSSES[name]
