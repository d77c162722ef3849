"""The table of test metrics, and per-class metrics of a report. NumPy only.

A metric is a function `(scores, labels, weights) -> float`. `scores` are `[M, classes]`. `labels`
are int `[M]`, the class of each video, or bool `[M, classes]` for multi-label data. `weights` `[M]`
are not negative; a video of weight 2 counts as two videos. A NaN score never counts as right.

To add a metric, write the function, add a row to `METRICS`, and add a test. The row then appears in
`evaluate`, `fuse` and the report, with an interval.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np


@dataclasses.dataclass(frozen=True)
class Metric:
    """A row of `METRICS`. Calling it calls `function`; weights are then optional.

    Attributes:
      title: name in reports.
      function: `(scores, labels, weights) -> float`.
      labels: kind of labels that the metric is defined for.
      min_classes: smallest number of classes for which the metric is reported. Top-5 accuracy of 5
        classes is always 1.
      proportion: the value is a share of the videos, so that its interval is Wilson's.
      batched: the function also takes weights `[M, K]` and returns `[K]`, which makes the bootstrap
        fast.
      biased: the value grows if videos repeat, so the bootstrap interval is corrected.
      bounds: smallest and largest possible value.
    """

    title: str
    function: Callable[[np.ndarray, np.ndarray, np.ndarray], Any]
    labels: Literal["any", "single", "multi"] = "any"
    min_classes: int = 0
    proportion: bool = False
    batched: bool = False
    biased: bool = False
    bounds: tuple[float, float] = (0.0, 1.0)

    def __call__(
        self, scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
    ) -> float:
        weights = np.ones(len(labels)) if weights is None else weights
        return float(self.function(scores, labels, weights))

    def applies(self, scores: np.ndarray, labels: np.ndarray) -> bool:
        """Returns True if the metric is reported for these labels and this number of classes."""
        kind = "single" if labels.ndim == 1 else "multi"
        return self.labels in ("any", kind) and scores.shape[1] >= self.min_classes


# --- Hits -----------------------------------------------------------------------------------


def hits(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Computes whether a label is among the k highest scores: bool `[M]`.

    One of several labels is enough (Hit@k of Sports-1M). A tie counts against the label, so that
    a constant output is not right by the order of the classes.

    Example:
      >>> hits(np.array([[0.1, 0.9], [0.5, 0.5]]), np.array([1, 0]), 1).tolist()
      [True, False]
    """
    own = _targets(scores, labels)
    with np.errstate(invalid="ignore"):
        best = np.where(own, scores, -np.inf).max(1, keepdims=True)
        rivals = ~own & ~(scores < best)
    return (rivals.sum(1) < k) & np.isfinite(best[:, 0])


def topk_accuracy(
    scores: np.ndarray, labels: np.ndarray, k: int, weights: np.ndarray | None = None
) -> Any:
    """Computes the share of videos with a label among the k highest scores, see `hits`.

    Args:
      scores: `[M, classes]`.
      labels: int `[M]` or bool `[M, classes]`.
      k: number of answers.
      weights: `[M]`, or `[M, K]` for K weighted shares at once; default: all equal.

    Returns:
      float, or `[K]`; NaN without videos.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    if not len(labels):
        return float("nan")
    right = weights[hits(scores, labels, k)].sum(0, dtype=np.float64)
    return right / weights.sum(0, dtype=np.float64)


def top1(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> Any:
    """Computes top-1 accuracy, see `topk_accuracy`."""
    return topk_accuracy(scores, labels, 1, weights)


def top5(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> Any:
    """Computes top-5 accuracy, see `topk_accuracy`."""
    return topk_accuracy(scores, labels, 5, weights)


# --- Class accuracy -------------------------------------------------------------------------


def class_accuracy(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Computes top-1 accuracy of each class `[classes]`; NaN for a class without videos."""
    classes = scores.shape[1]
    count = np.bincount(labels, minlength=classes)
    right = np.bincount(labels, hits(scores, labels, 1), minlength=classes)
    return np.where(count > 0, right / np.maximum(count, 1), np.nan)


def mean_class_accuracy(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> Any:
    """Computes the mean of the top-1 accuracies of all classes that have videos.

    Args:
      scores: `[M, classes]`.
      labels: int `[M]`.
      weights: `[M]`, or `[M, K]` for K values at once; default: all equal.

    Returns:
      float, or `[K]`.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    sorted_weights = weights[order].astype(np.float64)
    right = hits(scores, labels, 1)[order].reshape(-1, *[1] * (weights.ndim - 1))
    count = np.add.reduceat(sorted_weights, starts)
    found = np.add.reduceat(sorted_weights * right, starts)
    present = count > 0
    shares = np.where(present, found / np.where(present, count, 1), 0)
    return shares.sum(0) / present.sum(0)


# --- Average precision ----------------------------------------------------------------------


def average_precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Computes average precision of each class `[classes]`; NaN for a class without videos.

    The sum over the thresholds of (gain of recall) x (precision), without interpolation. Videos of
    equal scores pass a threshold together, so their order does not matter.
    """
    own = _targets(scores, labels)
    ones = np.ones((len(scores), 1), np.uint8)
    return np.array([_precision(*column, ones)[0] for column in zip(scores.T, own.T, strict=True)])


def mean_average_precision(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> Any:
    """Computes mAP: the mean of `average_precision` over the classes that have videos.

    Args:
      scores: `[M, classes]`.
      labels: int `[M]` or bool `[M, classes]`.
      weights: `[M]`, or `[M, K]` for K values at once; default: all equal.

    Returns:
      float, or `[K]`; NaN if no class has videos.
    """
    weights = np.ones(len(labels), np.uint8) if weights is None else weights
    times = weights.reshape(len(labels), -1)
    total, found = np.zeros(times.shape[1]), np.zeros(times.shape[1])
    for column in zip(scores.T, _targets(scores, labels).T, strict=True):
        precision = _precision(*column, times)
        present = ~np.isnan(precision)
        total[present] += precision[present]
        found += present
    means = np.where(found > 0, total / np.maximum(found, 1), np.nan)
    return means if weights.ndim > 1 else means[0]


def _precision(scores: np.ndarray, own: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Computes average precision of one class `[K]` for weights `times` `[M, K]`.

    `scores` are f32 `[M]`; `own`, bool `[M]`, marks videos of the class. The result is NaN if no
    video of the class has a positive weight.
    """
    if not own.any():
        return np.full(times.shape[1], np.nan)
    # NaN is the lowest score.
    keys = np.where(np.isnan(scores), -np.inf, scores)
    order = np.argsort(-keys, kind="stable")
    keys, own = keys[order], own[order]
    # Ends of the groups of equal scores that contain a video of the class; recall increases only
    # there.
    ends = np.flatnonzero(np.append(keys[1:] != keys[:-1], True)) + 1
    ends = ends[np.diff(np.cumsum(own)[ends - 1], prepend=0) > 0]
    runs = list(zip([0, *ends[:-1]], ends, strict=True))
    # A loop, because `np.add.reduceat` over the rows takes three times as long.
    wide = np.uint32 if times.dtype.kind in "bui" else np.float64
    everyone = np.stack([times[order[i:j]].sum(0, dtype=wide) for i, j in runs])
    gained = np.stack([times[order[i:j][own[i:j]]].sum(0, dtype=wide) for i, j in runs])
    passed, weight = everyone.cumsum(0), gained.sum(0)
    precision = gained.cumsum(0) / np.where(passed > 0, passed, 1)
    share = (gained * precision).sum(0) / np.where(weight > 0, weight, 1)
    return np.where(weight > 0, share, np.nan)


# --- The table ------------------------------------------------------------------------------

#: Metrics by their names in `result.json`, in the order of a report.
METRICS: dict[str, Metric] = {
    "top1": Metric("top-1", top1, proportion=True, batched=True),
    "top5": Metric("top-5", top5, min_classes=6, proportion=True, batched=True),
    "mean_class_accuracy": Metric(
        "mean class accuracy", mean_class_accuracy, labels="single", batched=True
    ),
    "mean_average_precision": Metric(
        "mAP", mean_average_precision, labels="multi", batched=True, biased=True
    ),
}


# --- Per class and per video ----------------------------------------------------------------


def confusion_matrix(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts videos `[classes, classes]` by label (row) and predicted class (column).

    `labels` are int `[M]`.
    """
    classes = scores.shape[1]
    cells = labels.astype(np.int64) * classes + scores.argmax(1)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def losses(scores: np.ndarray, labels: np.ndarray, aggregation: str = "softmax") -> np.ndarray:
    """Computes the loss of each video `[M]`.

    Args:
      scores: `[M, classes]`.
      labels: int `[M]` or bool `[M, classes]`.
      aggregation: kind of scores. "softmax": probabilities; "logits": logits; both give the
        negative log-likelihood, averaged over the labels of a video. "sigmoid": independent
        probabilities; gives binary cross-entropy, averaged over the classes.
    """
    own = _targets(scores, labels)
    if aggregation == "logits":
        shifted = scores - scores.max(1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    else:
        logs = np.log(np.maximum(scores, 1e-12))
    if aggregation == "sigmoid":
        return -np.where(own, logs, np.log(np.maximum(1 - scores, 1e-12))).mean(1)
    return -np.where(own, logs, 0).sum(1) / np.maximum(own.sum(1), 1)


def label_matrix(label_sets: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """Converts lists of labels per video to bool `[M, classes]`.

    Example:
      >>> label_matrix([[0], [0, 1]], 2).tolist()
      [[True, False], [True, True]]
    """
    matrix = np.zeros((len(label_sets), classes), bool)
    for row, labels in zip(matrix, label_sets, strict=True):
        row[list(labels)] = True
    return matrix


def _targets(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Converts labels to bool `[M, classes]`."""
    if labels.ndim == 2:
        return labels
    return labels[:, None] == np.arange(scores.shape[1])
