"""ASLAN, action similarity: predicts if two videos show the same action, for unseen actions.

Kliper-Gross, Hassner, Wolf, "The Action Similarity Labeling Challenge", TPAMI 2012. View 2 has ten
splits of 300 same and 300 different pairs with disjoint actions. Each split is tested by an SVM
trained on the other nine. Reported are the mean accuracy with its standard error, and the area
under the ROC curve (AUC).

The features follow C3D (arXiv 1412.0767, section 5). For each kind of feature (prob, fc7, fc6,
pool5), averaged over clips and L2-normalized, the twelve measures of the ASLAN paper (Table 3) are
computed between the two videos. All measures, standardized on the training pairs, are the input of
a linear SVM. C = 1 and the hinge loss of libsvm match the code of ASLAN.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxvideo.studies.svm import sklearn
from jaxvideo.types import DataError

PAIR_FORMAT = "first,second,same,split"

# Keeps 0 / 0 and log 0 finite; far below any relevant feature value.
_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of videos.

    Attributes:
      first, second: names of the videos.
      same: bool `[P]`, True if both show the same action.
      split: int `[P]`, number of the split.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    same: np.ndarray
    split: np.ndarray

    def take(self, rows: np.ndarray) -> Pairs:
        """Selects pairs by their indices."""
        return Pairs(
            tuple(self.first[row] for row in rows),
            tuple(self.second[row] for row in rows),
            self.same[rows],
            self.split[rows],
        )


@dataclasses.dataclass(frozen=True)
class Verification:
    """Result of the cross-validation over splits.

    Attributes:
      accuracies: accuracy of each split `[splits]`.
      aucs: area under the ROC curve of each split `[splits]`.
      auc: area under the ROC curve of all pairs together.
    """

    accuracies: np.ndarray
    aucs: np.ndarray
    auc: float

    @property
    def accuracy(self) -> float:
        """Mean accuracy of the splits."""
        return float(self.accuracies.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the mean accuracy: sample standard deviation over sqrt(splits)."""
        return float(self.accuracies.std(ddof=1) / math.sqrt(len(self.accuracies)))


def measures(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Computes the twelve measures of Table 3 between the rows of two arrays.

    Args:
      x: nonnegative features `[P, D]`.
      y: nonnegative features `[P, D]`.

    Returns:
      f64 `[P, 12]` in the order of the table: 1 to 5, 11 and 12 are similarities, 6 to 10 are
      distances.

    Raises:
      DataError: a feature is negative, or the shapes differ.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 2:
        raise DataError(f"features of shapes {x.shape} and {y.shape}: both must be [P, D]")
    if x.size and min(x.min(), y.min()) < 0:
        raise DataError(
            "ASLAN's measures need nonnegative features, because they take roots and logarithms; "
            "use an endpoint after ReLU or softmax (fc6, fc7, prob), not logits"
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
    """Divides each row by its L2 norm; a zero row stays zero."""
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(norm > 0, norm, 1)


def verify(vectors: np.ndarray, pairs: Pairs, c: float = 1.0) -> Verification:
    """Cross-validates a linear SVM over the splits.

    Args:
      vectors: features of the pairs `[P, K]`.
      pairs: labels and splits.
      c: regularization parameter.

    Raises:
      DataError: fewer than two splits, or a split with only same or only different pairs.
    """
    names = np.unique(pairs.split)
    if len(names) < 2:
        raise DataError(f"the pairs have {len(names)} split; cross-validation needs at least 2")
    for name in names:
        own = pairs.same[pairs.split == name]
        if own.all() or not own.any():
            raise DataError(
                f"split {name}: its {len(own)} pairs are all same or all different; both are needed"
            )
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
    """Reads pairs from a text file, or from ASLAN's `View2.mat`.

    A text file has one line `first,second,same,split` per pair: names of videos as `extract` wrote
    them, 1 or 0, and the number of the split. A header line with these words is allowed; `#`
    starts a comment line. Videos of `View2.mat` are named `0001` to `3697`.

    Raises:
      DataError: the file cannot be read or has another format; the message names file and line.
    """
    path = Path(path)
    if path.suffix == ".mat":
        return _read_view2(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read; expected lines '{PAIR_FORMAT}'") from error
    rows = []
    for number, row in enumerate(csv.reader(lines), start=1):
        row = [cell.strip() for cell in row]
        if not any(row) or row[0].startswith("#") or (not rows and row == PAIR_FORMAT.split(",")):
            continue
        if len(row) != 4 or not all(row[:2]) or row[2] not in ("0", "1") or not row[3].isdigit():
            raise DataError(
                f"{path}, line {number}: {','.join(row)!r} is not of the form '{PAIR_FORMAT}' "
                "(two videos, 1 or 0, number of the split)"
            )
        rows.append(row)
    if not rows:
        raise DataError(f"{path} is empty; expected lines '{PAIR_FORMAT}'")
    first, second, same, split = zip(*rows, strict=True)
    return Pairs(first, second, np.asarray(same) == "1", np.asarray(split, np.int64))


def pair_videos(pairs: Pairs) -> list[str]:
    """Lists the videos of all pairs once each, sorted."""
    return sorted({*pairs.first, *pairs.second})


def pair_vectors(pairs: Pairs, videos: Sequence[str], values: Sequence[np.ndarray]) -> np.ndarray:
    """Computes the measures of all pairs for all kinds of features.

    Args:
      pairs: pairs of `videos`.
      videos: names of the videos.
      values: one array `[len(videos), D]` per kind of feature.

    Returns:
      f64 `[P, 12 * kinds]`.
    """
    row = {video: index for index, video in enumerate(videos)}
    first = [row[video] for video in pairs.first]
    second = [row[video] for video in pairs.second]
    kinds = [l2_normalized(kind) for kind in values]
    return np.concatenate([measures(kind[first], kind[second]) for kind in kinds], 1)


def _read_view2(path: Path) -> Pairs:
    """Reads `action_splits_pairs` `[600, 5, 10]`: two IDs, same, two actions, for ten splits."""
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
