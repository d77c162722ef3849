"""Numbers from scores: accuracy and confusion. NumPy only."""

from __future__ import annotations

import numpy as np


def topk_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of rows whose label is among the k highest scores; of `[M, classes]`, `[M]`.

    A tie counts against the label: a network that answers the same for all classes is not
    right by the order of the classes.
    """
    own = scores[np.arange(len(labels)), labels]
    not_lower = (scores >= own[:, None]).sum(1) - 1
    return float((not_lower < k).mean()) if len(labels) else float("nan")


def confusion_matrix(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`[classes, classes]` counts: row the label, column the answer."""
    classes = scores.shape[1]
    cells = labels.astype(np.int64) * classes + scores.argmax(1)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)
