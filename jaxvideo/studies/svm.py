"""Linear SVMs on features, compactness under PCA, and t-SNE, as in C3D (arXiv 1412.0767).

The protocols: accuracy of a linear SVM, accuracy after PCA and a t-SNE picture (section 4), and
leave-one-out for scenes (section 6). Needs scikit-learn (extra [analysis]).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxvideo.evaluation.metrics import topk_accuracy
from jaxvideo.progress import track
from jaxvideo.types import ConfigError, DataError

#: Values of C that `choose_c` tries.
CANDIDATES = (0.01, 0.1, 1.0, 10.0, 100.0)

#: Dimensions of the compactness curve, 10 to 500 as in the paper.
DIMENSIONS = (10, 50, 100, 200, 500)


def sklearn(module: str) -> Any:
    """Imports a module of scikit-learn.

    Raises:
      ConfigError: scikit-learn is not installed.
    """
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ConfigError(
            "scikit-learn is not installed. Run: python -m pip install 'jaxvideo[analysis]'"
        ) from error


def svm_scores(
    values: np.ndarray, labels: np.ndarray, tested: np.ndarray, classes: int, c: float = 1.0
) -> np.ndarray:
    """Trains a linear one-vs-rest SVM (liblinear, squared hinge, L2) and scores test features.

    Args:
      values: training features `[M, D]`.
      labels: training labels `[M]`.
      tested: test features `[K, D]`.
      classes: number of classes.
      c: regularization parameter, positive.

    Returns:
      f64 `[K, classes]`, signed distances; minus infinity for a class without training videos.

    Raises:
      ConfigError: C is not positive.
      DataError: there are fewer than two training classes.
    """
    if not c > 0:
        raise ConfigError(f"C={c}: must be positive")
    present = np.unique(labels)
    if len(present) < 2:
        raise DataError(f"an SVM needs at least two training classes, found {len(present)}")
    # The primal problem converges for any scale of the features and is deterministic.
    svm = sklearn("svm").LinearSVC(C=c, dual=False, max_iter=10_000)
    found = svm.fit(values, labels).decision_function(tested)
    scores = np.full((len(tested), classes), -np.inf)
    scores[:, present] = np.stack([-found, found], 1) if found.ndim == 1 else found
    return scores


def choose_c(
    values: np.ndarray,
    labels: np.ndarray,
    candidates: Sequence[float] = CANDIDATES,
    folds: int = 5,
    report: Callable[[float, float], None] = lambda c, accuracy: None,
) -> float:
    """Chooses C by stratified cross-validation on training videos.

    Args:
      values: training features `[M, D]`.
      labels: training labels `[M]`.
      candidates: values of C.
      folds: number of folds; fewer if a class has fewer videos. They are drawn with a fixed seed.
      report: receives each candidate and its accuracy.

    Returns:
      The candidate of highest accuracy; the smallest one if several are equal.

    Raises:
      DataError: a class has a single video, so cross-validation is impossible.
    """
    counts = np.bincount(labels)
    fewest = int(counts[counts > 0].min())
    if fewest < 2:
        raise DataError(
            f"class {int(np.flatnonzero(counts == 1)[0])} has a single training video, so C cannot "
            "be chosen by cross-validation; pass a value of C"
        )
    draw = sklearn("model_selection").StratifiedKFold(
        min(folds, fewest), shuffle=True, random_state=0
    )
    parts = list(draw.split(values, labels))
    best, chosen = -1.0, candidates[0]
    for c in sorted(candidates):
        scores = np.empty((len(labels), len(counts)))
        for train, test in parts:
            scores[test] = svm_scores(values[train], labels[train], values[test], len(counts), c)
        accuracy = topk_accuracy(scores, labels, 1)
        report(c, accuracy)
        if accuracy > best:
            best, chosen = accuracy, c
    return chosen


def leave_one_out(
    values: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    classes: int,
    c: float | None = 1.0,
) -> np.ndarray:
    """Scores each video with an SVM trained on all other groups.

    C3D, section 6, does so for YUPENN and Maryland, where each video is a group.

    Args:
      values: features `[M, D]`.
      labels: labels `[M]`.
      groups: group of each video `[M]`.
      classes: number of classes.
      c: regularization parameter; None: chosen for each group by cross-validation on the others.

    Returns:
      f64 `[M, classes]`.

    Raises:
      DataError: there are fewer than two groups.
    """
    names = np.unique(groups)
    if len(names) < 2:
        raise DataError("leave-one-out needs at least two groups")
    scores = np.empty((len(labels), classes))
    for name in track(list(names), "groups"):
        out = groups == name
        train, own = values[~out], labels[~out]
        chosen = choose_c(train, own) if c is None else c
        scores[out] = svm_scores(train, own, values[out], classes, chosen)
    return scores


def one_of_each(labels: np.ndarray) -> np.ndarray:
    """Returns groups `[M]` with one video of each class: all first ones, all second ones, ..."""
    groups = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        groups[own] = np.arange(len(own))
    return groups


def compactness(
    values: np.ndarray,
    labels: np.ndarray,
    tested: np.ndarray,
    test_labels: np.ndarray,
    dimensions: Sequence[int],
    c: float | None = 1.0,
) -> Iterator[tuple[int, float]]:
    """Computes the accuracy of the SVM after PCA, which is fitted to the training videos.

    Args:
      values: training features `[M, D]`.
      labels: training labels `[M]`.
      tested: test features `[K, D]`.
      test_labels: test labels `[K]`.
      dimensions: numbers of principal components.
      c: regularization parameter; None: chosen for each dimension by cross-validation.

    Yields:
      (dimensions, accuracy), ascending.

    Raises:
      ConfigError: more dimensions than features or training videos.
    """
    most = min(values.shape)
    wrong = [d for d in dimensions if not 1 <= d <= most]
    if wrong or not dimensions:
        raise ConfigError(
            f"dimensions {', '.join(map(str, wrong)) or 'missing'}: {len(values)} training videos "
            f"with {values.shape[1]} features allow 1 to {most}"
        )
    pca = sklearn("decomposition").PCA(max(dimensions), svd_solver="full").fit(values)
    train, test = pca.transform(values), pca.transform(tested)
    classes = int(max(labels.max(), test_labels.max())) + 1
    for d in sorted(dimensions):
        chosen = choose_c(train[:, :d], labels) if c is None else c
        scores = svm_scores(train[:, :d], labels, test[:, :d], classes, chosen)
        yield d, topk_accuracy(scores, test_labels, 1)


def embed(values: np.ndarray, seed: int = 0, perplexity: float = 30.0) -> np.ndarray:
    """Embeds features in the plane by t-SNE (van der Maaten and Hinton, 2008).

    More than 50 dimensions are reduced to 50 by PCA first, as in the paper.

    Args:
      values: features `[M, D]`.
      seed: random seed.
      perplexity: effective number of neighbors; must be less than M.

    Returns:
      Points `[M, 2]`.

    Raises:
      ConfigError: the perplexity is not between 0 and M.
      DataError: all videos have the same features.
    """
    if not 0 < perplexity < len(values):
        raise ConfigError(
            f"perplexity {perplexity:g}: must be positive and less than the {len(values)} videos"
        )
    if not np.ptp(values, axis=0).any():  # scikit-learn would crash
        raise DataError(
            f"the {len(values)} videos have the same features; t-SNE has nothing to show"
        )
    if min(values.shape) > 50:
        values = sklearn("decomposition").PCA(50, random_state=seed).fit_transform(values)
    tsne = sklearn("manifold").TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return tsne.fit_transform(values)
