"""Numbers from scores: accuracy, average precision, confusion, and how sure they are. NumPy only.

`scores` are `[M, classes]`. `labels` are int `[M]`, the class of each video, or bool
`[M, classes]`, all its classes (multi-label). A score that is not a number never counts as right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxvideo.types import ConfigError, DataError

#: Metrics by their names in `result.json`, as a reader calls them.
NAMES = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_class_accuracy": "mean class accuracy",
    "mean_average_precision": "mAP",
}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number, and the ends of its bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.2f} % [{100 * self.low:.2f}, {100 * self.high:.2f}]"


def hits(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether a label is among the k highest scores: bool `[M]`.

    Of several labels one is enough (Hit@k of Sports-1M). A tie counts against the label: a
    network that answers the same for all classes is not right by the order of the classes.
    """
    own = _targets(scores, labels)
    with np.errstate(invalid="ignore"):
        best = np.where(own, scores, -np.inf).max(1, keepdims=True)
        rivals = ~own & ~(scores < best)
    return (rivals.sum(1) < k) & np.isfinite(best[:, 0])


def topk_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of videos with a label among the k highest scores, see `hits`."""
    return float(hits(scores, labels, k).mean()) if len(labels) else float("nan")


def class_accuracy(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Top-1 accuracy of each class's videos `[classes]`; NaN for a class that has none."""
    classes = scores.shape[1]
    count = np.bincount(labels, minlength=classes)
    right = np.bincount(labels, hits(scores, labels, 1), minlength=classes)
    return np.where(count > 0, right / np.maximum(count, 1), np.nan)


def mean_class_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean of `class_accuracy` over the classes that have videos."""
    return _mean(class_accuracy(scores, labels))


def average_precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Average precision of each class `[classes]`; NaN for a class that has no video.

    The sum over the thresholds of (recall's gain) x (precision), without interpolation. Videos
    of equal scores pass a threshold together, so their order in the list does not matter.
    """
    own = _targets(scores, labels)
    ones = np.ones((len(scores), 1), np.uint8)
    return np.array([_precision(*column, ones)[0] for column in zip(scores.T, own.T, strict=True)])


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """mAP: mean of `average_precision` over the classes that have videos."""
    return _mean(average_precision(scores, labels))


def confusion_matrix(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`[classes, classes]` counts: row the label, column the answer; labels int `[M]`."""
    classes = scores.shape[1]
    cells = labels.astype(np.int64) * classes + scores.argmax(1)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def losses(scores: np.ndarray, labels: np.ndarray, aggregation: str = "softmax") -> np.ndarray:
    """Loss of each video `[M]`: negative log likelihood; of several labels, their mean.

    `aggregation`: "softmax", scores are probabilities; "logits", they are their logits;
    "sigmoid", they are probabilities that do not exclude each other: cross-entropy, mean over
    the classes.
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
    """bool `[M, classes]` of the lists of each video's labels."""
    matrix = np.zeros((len(label_sets), classes), bool)
    for row, labels in zip(matrix, label_sets, strict=True):
        row[list(labels)] = True
    return matrix


def estimates(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """The numbers of a test by their names in `NAMES`, with percentile bootstrap intervals.

    What is drawn again, M of M with replacement, is videos (Efron and Tibshirani, "An
    Introduction to the Bootstrap", 1993, section 13.3): the interval says how much the number
    could differ on as many other videos, and nothing of another training run. A draw that has
    a video of a class twice has a higher average precision for that alone, so mAP's interval
    is moved by the difference between the number and the mean of its draws.
    Mean class accuracy is of int labels only, mAP of bool labels only.

    Raises:
      ConfigError: fewer than two draws, or a level outside (0, 1).
      DataError: no video.
    """
    if draws < 2 or not 0 < level < 1:
        raise ConfigError(f"draws={draws}, level={level}: at least 2, and between 0 and 1")
    if not len(labels):
        raise DataError("no video, so there is nothing to estimate")
    rng = np.random.default_rng(seed)
    first, fifth = (hits(scores, labels, k) for k in (1, 5))
    values = {"top1": float(first.mean()), "top5": float(fifth.mean())}
    if labels.ndim == 1:
        values["mean_class_accuracy"] = mean_class_accuracy(scores, labels)
        redrawn = _redraw_classes(first, fifth, labels, scores.shape[1], draws, rng)
    else:
        values["mean_average_precision"] = mean_average_precision(scores, labels)
        redrawn = _redraw_videos(scores, labels, first, fifth, draws, rng)
    tails = (50 * (1 - level), 50 * (1 + level))
    ends = {name: np.nanpercentile(redrawn[name], tails) for name in values}
    if "mean_average_precision" in values:
        name = "mean_average_precision"
        ends[name] = np.clip(ends[name] + values[name] - np.nanmean(redrawn[name]), 0, 1)
    return {name: Estimate(float(value), *map(float, ends[name])) for name, value in values.items()}


def _redraw_classes(first, fifth, labels, classes, draws, rng) -> dict[str, np.ndarray]:
    """Accuracies of each draw. All that a draw needs is how many videos of each class are right
    at once, within five, and wrong: these counts are multinomial, so no video need be drawn."""
    cells = np.bincount(labels * 3 + first + fifth, minlength=3 * classes)
    drawn = rng.multinomial(len(labels), cells / len(labels), draws).reshape(draws, classes, 3)
    count, right = drawn.sum(2), drawn[:, :, 2]
    there = count > 0
    return {
        "top1": right.sum(1) / len(labels),
        "top5": drawn[:, :, 1:].sum((1, 2)) / len(labels),
        "mean_class_accuracy": (right / np.maximum(count, 1)).sum(1) / there.sum(1),
    }


def _redraw_videos(scores, own, first, fifth, draws, rng) -> dict[str, np.ndarray]:
    """Hits and mAP of each draw; a class that has no video in a draw is left out of it."""
    videos = len(scores)
    # How often each video is drawn; uint8, because a draw has a video 255 times never.
    times = np.empty((videos, draws), np.uint8)
    for draw in range(draws):
        times[:, draw] = np.bincount(rng.integers(videos, size=videos), minlength=videos)
    columns = zip(scores.T, own.T, strict=True)
    total, found = np.zeros(draws), np.zeros(draws)
    for column in columns:
        precision = _precision(*column, times)
        there = ~np.isnan(precision)
        total[there] += precision[there]
        found += there
    return {
        "top1": times[first].sum(0, dtype=np.int64) / videos,
        "top5": times[fifth].sum(0, dtype=np.int64) / videos,
        "mean_average_precision": np.where(found > 0, total / np.maximum(found, 1), np.nan),
    }


def _precision(scores: np.ndarray, own: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Average precision of one class `[draws]`, of scores and labels `[M]`, where draw d has
    video i `times[i, d]` times."""
    if not own.any():
        return np.full(times.shape[1], np.nan)
    # Not a number is the lowest score.
    keys = np.where(np.isnan(scores), -np.inf, scores)
    order = np.argsort(-keys, kind="stable")
    keys, own = keys[order], own[order]
    # The places where a run of equal scores ends that holds a video of the class; between two
    # of them only the number of videos matters.
    ends = np.flatnonzero(np.append(keys[1:] != keys[:-1], True)) + 1
    ends = ends[np.diff(np.cumsum(own)[ends - 1], prepend=0) > 0]
    runs = list(zip([0, *ends[:-1]], ends, strict=True))
    # A loop: `np.add.reduceat` over the rows takes three times as long.
    wide = np.uint32
    everyone = np.stack([times[order[i:j]].sum(0, dtype=wide) for i, j in runs])
    gained = np.stack([times[order[i:j][own[i:j]]].sum(0, dtype=wide) for i, j in runs])
    precision = gained.cumsum(0) / np.maximum(everyone.cumsum(0), 1)
    weight = gained.sum(0)
    return np.where(weight > 0, (gained * precision).sum(0) / np.maximum(weight, 1), np.nan)


def _targets(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Labels as bool `[M, classes]`."""
    if labels.ndim == 2:
        return labels
    return labels[:, None] == np.arange(scores.shape[1])


def _mean(values: np.ndarray) -> float:
    there = ~np.isnan(values)
    return float(values[there].mean()) if there.any() else float("nan")
