"""Late fusion of the scores of several networks for the same videos. NumPy only."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvideo.data.video import VIDEOS
from jaxvideo.evaluation.metrics import hits
from jaxvideo.progress import replacing
from jaxvideo.types import CheckpointError, ConfigError, DataError, UsageError

_HOW = ("relu", "softmax", "scores")

#: File name of the scores in a run directory.
SCORES = "scores.npz"

# Weights that `tune` tries, relative to the first network: 1/8 to 8 in steps of 2^(1/4), and 1.5,
# the value of the two-stream papers.
_RATIOS = tuple(sorted({1.5, *(2 ** (k / 4) for k in range(-12, 13))}))


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of the videos of a data set.

    Attributes:
      scores: f32 `[M, classes]`.
      labels: int `[M]`, the class of each video; the first one if there are several.
      classes: names of the classes.
      videos: names of the videos, see `video_names`; empty if unknown.
      label_sets: bool `[M, classes]` of a multi-label data set, else None.
    """

    scores: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    videos: tuple[str, ...] = ()
    label_sets: np.ndarray | None = None

    @property
    def truth(self) -> np.ndarray:
        """Labels as metrics take them: int `[M]`, or bool `[M, classes]`."""
        return self.labels if self.label_sets is None else self.label_sets

    def take(self, rows: np.ndarray) -> Scores:
        """Selects videos by their indices, in this order."""
        return Scores(
            self.scores[rows],
            self.labels[rows],
            self.classes,
            tuple(self.videos[row] for row in rows) if self.videos else (),
            None if self.label_sets is None else self.label_sets[rows],
        )


def video_names(paths: Sequence[str]) -> tuple[str, ...]:
    """Derives names that identify the same video in several data sets.

    A name is the path relative to the common directory, without the ending of a video file, so
    that the RGB frames and the flow of a video have the same name.

    Example:
      >>> video_names(["/data/a/1.avi", "/data/b/2.avi"])
      ('a/1', 'b/2')
    """
    folder = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    names = []
    for path in paths:
        name = os.path.relpath(path, folder) if folder else path
        stem, ending = os.path.splitext(name)
        names.append((stem if ending.lower() in VIDEOS else name).replace(os.sep, "/"))
    return tuple(names)


def save_scores(path: str | os.PathLike[str], found: Scores) -> None:
    """Writes an `.npz` file that `load_scores` reads."""
    arrays: dict[str, Any] = {
        "scores": found.scores,
        "labels": found.labels,
        "classes": np.asarray(found.classes),
        "videos": np.asarray(found.videos, str),
    }
    if found.label_sets is not None:
        arrays["label_sets"] = found.label_sets
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def load_scores(run: str | os.PathLike[str]) -> Scores:
    """Reads the scores of a finished run.

    Args:
      run: run directory, or a file of scores.

    Raises:
      CheckpointError: there is no such file, or it has another format.
    """
    path = Path(run)
    path = path / SCORES if path.is_dir() else path
    try:
        with np.load(path, allow_pickle=False) as file:
            return Scores(
                file["scores"],
                file["labels"],
                tuple(file["classes"].tolist()),
                tuple(file.get("videos", np.empty(0, str)).tolist()),
                file.get("label_sets"),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{run} is neither the directory of a finished run nor a file of scores ({error})"
        ) from error


def align(found: Sequence[Scores], names: Sequence[str]) -> list[Scores]:
    """Selects the videos that all score files contain, in the order of the first file.

    Without video names the files must have the same labels in the same order.

    Args:
      found: scores.
      names: names of the files, for error messages.

    Raises:
      ConfigError: the classes or the labels differ, or there is no common video.
    """
    first = found[0]
    for name, other in zip(names, found, strict=True):
        if other.classes != first.classes:
            raise ConfigError(f"{names[0]} and {name} were tested on different classes")
    named = all(len(set(one.videos)) == len(one.labels) for one in found)
    if named:
        common = set(first.videos).intersection(*(one.videos for one in found))
        if not common:
            raise ConfigError(
                f"{', '.join(names)}: no video in common. The first video of each: "
                + ", ".join(one.videos[0] for one in found)
            )
        order = [video for video in first.videos if video in common]
        rows = [{video: row for row, video in enumerate(one.videos)} for one in found]
        found = [
            one.take(np.array([row[video] for video in order]))
            for one, row in zip(found, rows, strict=True)
        ]
    for name, other in zip(names, found, strict=True):
        if not np.array_equal(other.truth, found[0].truth):
            raise ConfigError(f"{names[0]} and {name} were tested on different labels")
    return list(found)


def fuse(
    scores: Sequence[np.ndarray], weights: Sequence[float] | None = None, how: str = "softmax"
) -> np.ndarray:
    """Computes the weighted sum of the scores of several networks.

    Args:
      scores: one array `[M, classes]` per network, with the same videos and classes in the same
        order.
      weights: one per network; None: all equal. Two-stream papers use 1 for RGB and 1.5 or 2 for
        flow.
      how: what is summed. "softmax": softmax of logits (two-stream, arXiv 1406.2199, section 6).
        "scores": scores unchanged (probabilities, or the logits of I3D). "relu": negative scores
        are set to 0 and each row is divided by its sum, as in `late_fusion.m` of Hidden
        Two-Stream; a row without a positive score stays 0.

    Returns:
      f64 `[M, classes]`; rows need not sum to 1.

    Raises:
      ConfigError: unknown `how`, or the number of weights differs from that of arrays.
      DataError: the arrays differ in shape, or there are none.

    Example:
      >>> fuse([np.array([[0.2, 0.8]]), np.array([[0.6, 0.4]])], [1, 2], "scores").tolist()
      [[1.4, 1.6]]
    """
    weights = [1.0] * len(scores) if weights is None else weights
    if len(weights) != len(scores):
        raise ConfigError(
            f"weights={list(weights)}: must be one for each of {len(scores)} score arrays"
        )
    return np.tensordot(weights, _all_comparable(scores, how), 1)


def tune(
    scores: Sequence[np.ndarray], labels: np.ndarray, how: str = "softmax"
) -> tuple[float, ...]:
    """Finds the weights of highest top-1 accuracy on these videos.

    The first weight is 1. The others are optimized one at a time on a grid from 1/8 to 8 until
    accuracy no longer improves; of equally good weights the nearest to 1 is taken. Use videos that
    the reported metrics exclude, see `held_out`; otherwise the result is biased.

    Args:
      scores: one array `[M, classes]` per network.
      labels: int `[M]`, or bool `[M, classes]`.
      how: as for `fuse`.

    Returns:
      One weight per network.
    """
    comparable = _all_comparable(scores, how)

    def right(weights):
        return int(hits(np.tensordot(weights, comparable, 1), labels, 1).sum())

    weights, best = [1.0] * len(scores), -1
    while (count := right(weights)) > best:
        best = count
        for stream in range(1, len(scores)):
            tried = [(*weights[:stream], ratio, *weights[stream + 1 :]) for ratio in _RATIOS]
            counts = [right(one) for one in tried]
            nearest = [-abs(np.log(ratio)) for ratio in _RATIOS]
            weights = list(tried[max(range(len(tried)), key=lambda i: (counts[i], nearest[i]))])
    return tuple(weights)


def held_out(videos: int, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Splits the indices of the videos at random.

    Args:
      videos: number of videos.
      share: share of the first part, between 0 and 1.
      seed: random seed.

    Returns:
      Ascending indices to tune on, and the remaining ones to report.

    Raises:
      ConfigError: one of the parts would be empty.

    Example:
      >>> [len(part) for part in held_out(10, 0.2)]
      [2, 8]
    """
    count = round(videos * share)
    if not 0 < share < 1 or not 0 < count < videos:
        raise ConfigError(
            f"a share of {share:g} of {videos} videos leaves one part empty; choose another share"
        )
    order = np.random.default_rng(seed).permutation(videos)
    return np.sort(order[:count]), np.sort(order[count:])


def _all_comparable(scores: Sequence[np.ndarray], how: str) -> np.ndarray:
    if how not in _HOW:
        raise UsageError(f"how={how!r}: allowed are {list(_HOW)}")
    shapes = {np.shape(one) for one in scores}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise DataError(f"scores of shapes {sorted(shapes)}: all must have the same [M, classes]")
    return np.stack([_comparable(np.asarray(one, np.float64), how) for one in scores])


def _comparable(scores: np.ndarray, how: str) -> np.ndarray:
    if how == "scores":
        return scores
    if how == "softmax":
        positive = np.exp(scores - scores.max(1, keepdims=True))
    else:
        positive = np.maximum(scores, 0)
    total = positive.sum(1, keepdims=True)
    return positive / np.where(total > 0, total, 1)
