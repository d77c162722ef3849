"""ASLAN: do two videos show the same action, one that was never seen?

Kliper-Gross, Hassner, Wolf, "The Action Similarity Labeling Challenge", TPAMI 2012. View 2 has ten
splits of 300 same and 300 other pairs, whose actions do not meet; each is tested by what was
trained on the nine others, and the mean accuracy is told with its standard error, beside the
area under the ROC.

With networks' features as C3D's authors (arXiv 1412.0767, section 5): of every feature (prob, fc7,
fc6, pool5), averaged over a video's clips and L2-normalized, the twelve measures of the data set's
paper (Table 3) between the two videos; all of them, scaled to mean 0 and variance 1 on the
training pairs, to a linear SVM. C = 1 and libsvm's hinge loss are the data set's own code's.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxvideo.evaluation.features import sklearn
from jaxvideo.types import DataError

PAIR_FORMAT = "first,second,same,split"

# Keeps 0 / 0 and log 0 finite, far below a feature that matters.
_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of videos: names, whether both show one action, and the split each belongs to."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    same: np.ndarray  # bool [P]
    split: np.ndarray  # int [P]


@dataclasses.dataclass(frozen=True)
class Verification:
    """Result of a cross-validation over splits.

    `accuracies` and `aucs` `[splits]`; `auc`, of all pairs' scores together.
    """

    accuracies: np.ndarray
    aucs: np.ndarray
    auc: float

    @property
    def accuracy(self) -> float:
        return float(self.accuracies.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean accuracy: the splits' standard deviation (n - 1) over sqrt n."""
        return float(self.accuracies.std(ddof=1) / math.sqrt(len(self.accuracies)))


def measures(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The twelve measures between rows of two arrays `[P, D]`, not negative: f64 `[P, 12]`.

    In the order of Table 3: similarities 1 to 5, 11 and 12, distances 6 to 10.

    Raises:
      DataError: a feature is negative (roots and logarithms are taken), or shapes differ.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 2:
        raise DataError(f"features of shapes {x.shape} and {y.shape}: both [P, D]")
    if x.size and min(x.min(), y.min()) < 0:
        raise DataError(
            "ASLAN's measures take roots and logarithms: features must not be negative, as they "
            "are after a ReLU or a softmax (fc6, fc7, prob), not before (logits)"
        )
    product, total, difference = x * y, x + y + _TINY, x - y
    root_x, root_y = np.sqrt(x), np.sqrt(y)
    norms = np.sqrt((x * x).sum(1) * (y * y).sum(1)) + _TINY
    ratio = np.log(x + _TINY) - np.log(y + _TINY)
    return np.stack(
        [
            product.sum(1),
            np.sqrt(product.sum(1)),
            np.sqrt((root_x * root_y).sum(1)),
            np.sqrt((product / total).sum(1)),
            product.sum(1) / norms,
            np.sqrt((difference**2 / total).sum(1)),
            np.abs(difference).sum(1),
            np.sqrt(((root_x - root_y) ** 2).sum(1)),
            np.sqrt((difference**2).sum(1)),
            (difference * ratio).sum(1) / 2,
            (np.sqrt(np.maximum(x, y)) / np.sqrt(total)).sum(1),
            np.minimum(x, y).sum(1) / (x.sum(1) * y.sum(1) + _TINY),
        ],
        1,
    )


def l2_normalized(values: np.ndarray) -> np.ndarray:
    """Rows divided by their norms; a row of zeros stays."""
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(norm > 0, norm, 1)


def verify(vectors: np.ndarray, pairs: Pairs, c: float = 1.0) -> Verification:
    """Cross-validates a linear SVM on vectors `[P, K]` of pairs, over their splits.

    Raises:
      DataError: fewer than two splits, or a split of only same or only other pairs.
    """
    names = np.unique(pairs.split)
    if len(names) < 2:
        raise DataError(f"pairs of {len(names)} split: at least 2 to train on one and test another")
    for name in names:
        own = pairs.same[pairs.split == name]
        if own.all() or not own.any():
            raise DataError(f"split {name}: all its {len(own)} pairs are alike, same or not")
    svm, metrics = sklearn("svm"), sklearn("metrics")
    scores = np.empty(len(vectors))
    accuracies, aucs = [], []
    for name in names:
        test = pairs.split == name
        mean, std = vectors[~test].mean(0), vectors[~test].std(0)
        scaled = (vectors - mean) / np.where(std > 0, std, 1)
        machine = svm.SVC(kernel="linear", C=c).fit(scaled[~test], pairs.same[~test])
        scores[test] = machine.decision_function(scaled[test])
        accuracies.append(np.mean((scores[test] > 0) == pairs.same[test]))
        aucs.append(metrics.roc_auc_score(pairs.same[test], scores[test]))
    return Verification(
        np.asarray(accuracies),
        np.asarray(aucs),
        float(metrics.roc_auc_score(pairs.same, scores)),
    )


def read_pairs(path: str | os.PathLike[str]) -> Pairs:
    """Pairs from a text file with a line `first,second,same,split` each, or from the data set's
    own `View2.mat`, whose videos are named by their numbers, `0001` to `3697`.

    `first` and `second` are videos as `extract` named them, `same` is 1 or 0, `split` a number. A
    first line with these words is a heading; `#` starts a comment line.

    Raises:
      DataError: no such file, or another form: the message names file and line.
    """
    path = Path(path)
    if path.suffix == ".mat":
        return _read_view2(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read; expected: lines '{PAIR_FORMAT}'") from error
    rows = []
    for number, row in enumerate(csv.reader(lines), start=1):
        row = [cell.strip() for cell in row]
        if not any(row) or row[0].startswith("#") or (not rows and row == PAIR_FORMAT.split(",")):
            continue
        if len(row) != 4 or not all(row[:2]) or row[2] not in ("0", "1") or not row[3].isdigit():
            raise DataError(
                f"{path}, line {number}: {','.join(row)!r} is not of the form '{PAIR_FORMAT}' "
                "(two videos, 1 or 0, the number of the split)"
            )
        rows.append(row)
    if not rows:
        raise DataError(f"{path} is empty; expected: lines '{PAIR_FORMAT}'")
    first, second, same, split = zip(*rows, strict=True)
    return Pairs(first, second, np.asarray(same) == "1", np.asarray(split, np.int64))


def pair_videos(pairs: Pairs) -> list[str]:
    """The videos of all pairs, once each, sorted."""
    return sorted({*pairs.first, *pairs.second})


def pair_vectors(pairs: Pairs, videos: Sequence[str], values: Sequence[np.ndarray]) -> np.ndarray:
    """`[P, 12 x kinds]` of the L2-normalized features `values[kind]` `[len(videos), D]`."""
    row = {video: index for index, video in enumerate(videos)}
    first = [row[video] for video in pairs.first]
    second = [row[video] for video in pairs.second]
    kinds = [l2_normalized(kind) for kind in values]
    return np.concatenate([measures(kind[first], kind[second]) for kind in kinds], 1)


def _read_view2(path: Path) -> Pairs:
    """`action_splits_pairs` `[600, 5, 10]`: ids, same, and the actions, of ten splits."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        table = np.asarray(loadmat(path)["action_splits_pairs"])
        rows, columns, splits = table.shape
        if columns != 5:
            raise ValueError(f"shape {table.shape}")
    except (OSError, ValueError, KeyError, NotImplementedError, MatReadError) as error:
        raise DataError(
            f"{path} is not ASLAN's View2.mat (action_splits_pairs, 600 x 5 x 10): {error}"
        ) from error
    flat = table.transpose(2, 0, 1).reshape(-1, 5).astype(np.int64)
    names = [tuple(f"{number:04d}" for number in flat[:, column]) for column in (0, 1)]
    return Pairs(names[0], names[1], flat[:, 2] == 1, np.repeat(np.arange(1, splits + 1), rows))
