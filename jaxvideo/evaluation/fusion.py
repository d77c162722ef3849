"""Late fusion: scores of several networks for the same videos, joined to one. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxvideo.types import ConfigError, DataError

_HOW = ("relu", "softmax", "scores")


def fuse(
    scores: Sequence[np.ndarray], weights: Sequence[float] | None = None, how: str = "softmax"
) -> np.ndarray:
    """The weighted sum of several networks' scores.

    Args:
      scores: one array `[M, classes]` per network, rows and columns in the same order.
      weights: one per network; None weighs all the same. Two streams usually count 1 for RGB
        and 1.5 or 2 for flow.
      how: what is added: "softmax" of logits (two-stream, arXiv 1406.2199, section 6); "scores"
        as they are (probabilities, or I3D's logits); "relu", the rule of Hidden Two-Stream's
        `late_fusion.m`: negative scores are 0, and each row is divided by its sum (a row
        without a positive score stays 0).

    Returns:
      f64 `[M, classes]`; its largest entries are the answer, rows do not sum to 1.

    Raises:
      ConfigError: an unknown `how`, or not one weight per array.
      DataError: arrays of different shapes, or none.
    """
    if how not in _HOW:
        raise ConfigError(f"how={how!r}: allowed are {list(_HOW)}")
    weights = [1.0] * len(scores) if weights is None else weights
    if len(weights) != len(scores):
        raise ConfigError(f"weights={list(weights)}: one for each of {len(scores)} score arrays")
    shapes = {np.shape(one) for one in scores}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise DataError(f"scores of shapes {sorted(shapes)}: all must be the same [M, classes]")
    comparable = np.stack([_comparable(np.asarray(one, np.float64), how) for one in scores])
    return np.tensordot(weights, comparable, 1)


def _comparable(scores: np.ndarray, how: str) -> np.ndarray:
    if how == "scores":
        return scores
    if how == "softmax":
        positive = np.exp(scores - scores.max(1, keepdims=True))
    else:
        positive = np.maximum(scores, 0)
    total = positive.sum(1, keepdims=True)
    return positive / np.where(total > 0, total, 1)
