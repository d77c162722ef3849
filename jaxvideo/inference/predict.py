"""From uint8 views to scores: the one place where a network answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo.inference.prepare import prepare
from jaxvideo.types import Preprocessing


def make_predict_step(model, preprocessing: Preprocessing, aggregation: str):
    """Returns the function `(variables, video) -> scores` that classifies clips.

    Args:
      model: a network.
      preprocessing: of a test clip, see `Protocol.apply`.
      aggregation: scores are "softmax" or "sigmoid" probabilities, otherwise logits.

    Returns:
      A function of the network's variables and uint8 `[N, T, H, W, C]`, with f32 `[N, classes]`.
    """

    def predict_step(variables: dict[str, Any], video: jax.Array) -> jax.Array:
        clip = prepare(video, preprocessing, model.dtype)
        logits, _ = model.apply(variables, clip, train=False)
        logits = logits.astype(jnp.float32)
        scores = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid}
        return scores[aggregation](logits) if aggregation in scores else logits

    return predict_step


def make_predictor(
    model,
    preprocessing: Preprocessing,
    aggregation: str,
    *,
    place: Callable[[np.ndarray], Any] | None = None,
) -> Callable[[Any, np.ndarray], jax.Array]:
    """Returns the compiled `predict(variables, video) -> scores`.

    Args:
      model: linen module of a network.
      preprocessing: of a test clip, see `Protocol.apply`.
      aggregation: "softmax", "sigmoid" or "logits": the form of the scores.
      place: puts the views on the devices, for instance sharded. None (default): on the default
        device.

    Returns:
      A function of variables on the device and of views uint8 `[N, T, H, W, C]`. It returns f32
      `[N, classes]` without waiting for the device, and compiles once per N.

    Example:
      predict = make_predictor(net.model, net.preprocessing, "softmax")
      scores = np.asarray(predict(net.variables, views))
    """
    step = jax.jit(make_predict_step(model, preprocessing, aggregation))

    def predict(variables: Any, video: np.ndarray) -> jax.Array:
        return step(variables, place(video) if place else video)

    return predict
