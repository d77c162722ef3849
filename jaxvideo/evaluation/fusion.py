"""Late fusion: scores of several networks for the same videos, joined to one. NumPy only."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvideo.data.video import VIDEOS
from jaxvideo.evaluation.scores import hits
from jaxvideo.types import CheckpointError, ConfigError, DataError

_HOW = ("relu", "softmax", "scores")

#: What a tested run leaves its scores in.
SCORES = "scores.npz"

# Ratios of a stream's weight to the first one's that `tune` tries: 1 / 8 to 8 in quarters of an
# octave, and the 1.5 that the two-stream papers use.
_RATIOS = tuple(sorted({1.5, *(2 ** (k / 4) for k in range(-12, 13))}))


@dataclasses.dataclass(frozen=True)
class Scores:
    """A file of scores.

    Attributes:
      scores: f32 `[M, classes]`.
      labels: int `[M]`, the class of each video (of a multi-label one, the first).
      classes: names of the classes.
      videos: names of the videos, see `video_names`; empty where the file has none.
      label_sets: bool `[M, classes]` of a multi-label set, else None.
    """

    scores: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    videos: tuple[str, ...] = ()
    label_sets: np.ndarray | None = None

    @property
    def truth(self) -> np.ndarray:
        """The labels as `evaluation.scores` takes them."""
        return self.labels if self.label_sets is None else self.label_sets

    def take(self, rows: np.ndarray) -> Scores:
        """These videos alone, in this order."""
        return Scores(
            self.scores[rows],
            self.labels[rows],
            self.classes,
            tuple(self.videos[row] for row in rows) if self.videos else (),
            None if self.label_sets is None else self.label_sets[rows],
        )


def video_names(paths: Sequence[str]) -> tuple[str, ...]:
    """Names by which several tests know the same videos: paths below the folder that holds them
    all, without the endings of video files, so that frames and flow of a video share one."""
    folder = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    names = []
    for path in paths:
        name = os.path.relpath(path, folder) if folder else path
        stem, ending = os.path.splitext(name)
        names.append((stem if ending.lower() in VIDEOS else name).replace(os.sep, "/"))
    return tuple(names)


def save_scores(path: str | os.PathLike[str], found: Scores) -> None:
    """Writes a file of scores, which `load_scores` reads."""
    arrays: dict[str, Any] = {
        "scores": found.scores,
        "labels": found.labels,
        "classes": np.asarray(found.classes),
        "videos": np.asarray(found.videos, str),
    }
    if found.label_sets is not None:
        arrays["label_sets"] = found.label_sets
    np.savez(path, **arrays)


def load_scores(run: str | os.PathLike[str]) -> Scores:
    """The scores of a tested run, by its folder or by the file itself.

    Raises:
      CheckpointError: no such file, or it holds something else.
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
            f"{run} is not the folder of a finished run, nor a file of scores ({error})"
        ) from error


def align(found: Sequence[Scores], names: Sequence[str]) -> list[Scores]:
    """The videos that all files have, in the first one's order.

    Args:
      names: of the files, for the errors.

    Raises:
      ConfigError: other classes, labels that contradict, or no video in common; and, where a
        file names no videos, labels that are not the same one by one.
    """
    first = found[0]
    for name, other in zip(names, found, strict=True):
        if other.classes != first.classes:
            raise ConfigError(f"{names[0]} and {name} were tested on other classes")
    named = all(len(set(one.videos)) == len(one.labels) for one in found)
    if named:
        common = set(first.videos).intersection(*(one.videos for one in found))
        if not common:
            raise ConfigError(
                f"{', '.join(names)}: no video in common; they have for instance "
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
            raise ConfigError(f"{names[0]} and {name} were tested on other labels")
    return list(found)


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
    weights = [1.0] * len(scores) if weights is None else weights
    if len(weights) != len(scores):
        raise ConfigError(f"weights={list(weights)}: one for each of {len(scores)} score arrays")
    return np.tensordot(weights, _all_comparable(scores, how), 1)


def tune(
    scores: Sequence[np.ndarray], labels: np.ndarray, how: str = "softmax"
) -> tuple[float, ...]:
    """Weights with the highest top-1 accuracy on these videos, the first network's being 1.

    Give it videos that the result is not told of, see `held_out`: weights found on the test
    videos themselves flatter. The others' weights are tried one after the other on a grid from
    1 / 8 to 8 until no change helps, because accuracy is a step function of them; among equals,
    the weight nearest to 1 is taken.

    Args:
      scores, how: as for `fuse`.
      labels: int `[M]`, or bool `[M, classes]`.
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
    """Two parts of the videos' indices, ascending: to tune on, `share` of them drawn at random,
    and to tell the result of.

    Raises:
      ConfigError: a share that leaves one of the two parts empty.
    """
    count = round(videos * share)
    if not 0 < share < 1 or not 0 < count < videos:
        raise ConfigError(
            f"a share of {share:g} of {videos} videos to tune on: both parts must have some"
        )
    order = np.random.default_rng(seed).permutation(videos)
    return np.sort(order[:count]), np.sort(order[count:])


def _all_comparable(scores: Sequence[np.ndarray], how: str) -> np.ndarray:
    if how not in _HOW:
        raise ConfigError(f"how={how!r}: allowed are {list(_HOW)}")
    shapes = {np.shape(one) for one in scores}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise DataError(f"scores of shapes {sorted(shapes)}: all must be the same [M, classes]")
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
