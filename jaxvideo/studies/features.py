"""What the papers did with features: linear SVMs, compactness under PCA, t-SNE.

Features are files that `python -m jaxvideo extract` wrote, an `.npz` per video. The protocols are
C3D's (Tran et al., arXiv 1412.0767): a linear SVM on them (section 4), its accuracy when PCA
leaves few dimensions and a picture of them by t-SNE (section 4), leave-one-out for scenes
(section 6). scikit-learn does it: the extra [analysis].
"""

from __future__ import annotations

import importlib
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from jaxvideo.data.datasets import VideoDataset
from jaxvideo.data.decode import VIDEOS
from jaxvideo.evaluation.scores import topk_accuracy
from jaxvideo.types import ConfigError, DataError

#: What C is chosen from.
CANDIDATES = (0.01, 0.1, 1.0, 10.0, 100.0)

#: Dimensions of the compactness curve; 10 to 500 as in the paper's text.
DIMENSIONS = (10, 50, 100, 200, 500)

# What reading a damaged `.npz` raises.
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)

_Progress = Callable[[Sequence[Any], str], Iterable[Any]]


def sklearn(module: str) -> Any:
    """A module of scikit-learn; ConfigError that names the extra where it is missing."""
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ConfigError(
            "this needs scikit-learn, which the extra [analysis] installs: "
            "pip install 'jaxvideo[analysis]'"
        ) from error


def find_features(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Names of videos to the files below a folder with their features, sorted.

    Raises:
      DataError: no such folder, or no feature file in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(
            f"{folder} is no folder of features (`python -m jaxvideo extract` makes it)"
        )
    files = sorted(path for path in root.rglob("*.npz") if not path.name.startswith("."))
    if not files:
        raise DataError(f"{folder}: no .npz in it; `python -m jaxvideo extract` makes them")
    return {path.relative_to(root).as_posix().removesuffix(".npz"): path for path in files}


def match_features(folder: str | os.PathLike[str], videos: Sequence[str]) -> list[tuple[int, Path]]:
    """The videos that have features in a folder: (index into `videos`, file).

    A video's features are those whose name is the longest end of its path, so it does not matter
    whether they were extracted from the data root or from a folder in it; `0001` is also
    `0001.avi`, if there is no other 0001.

    Raises:
      DataError: none has; or two videos have the same.
    """
    names = find_features(folder)
    found: dict[Path, int] = {}
    bare = _without_endings(names)
    for index, video in enumerate(videos):
        path = _longest_end(PurePath(video).parts, names, bare)
        if path is None:
            continue
        if path in found:
            raise DataError(
                f"{path} would be the features of {videos[found[path]]} and of {video}: extract "
                "from a folder that holds both"
            )
        found[path] = index
    if not found:
        raise DataError(
            f"{folder} has features of {next(iter(names))} and {len(names) - 1} others, but not of "
            f"the {len(videos)} videos asked for, such as {next(iter(videos), 'none at all')}"
        )
    return [(index, path) for path, index in found.items()]


def read_features(
    folders: Sequence[str | os.PathLike[str]],
    videos: Sequence[str],
    progress: _Progress = lambda items, what: items,
) -> tuple[np.ndarray, np.ndarray]:
    """Features of videos, those of several folders side by side (C3D's three networks).

    Those per clip are averaged, and maps flattened.

    Returns:
      f32 `[M, D]`, and `[M]` indices into `videos`, ascending: those that every folder has.

    Raises:
      DataError: no video has features; a file is damaged, holds a number that is not finite, or
        was extracted in another way than the others of its folder.
    """
    matches = [dict(match_features(folder, videos)) for folder in folders]
    indices = [i for i in range(len(videos)) if all(i in match for match in matches)]
    if not indices:
        raise DataError(f"no video has features in all of {', '.join(map(str, folders))}")
    recipes: list[tuple[str, Path] | None] = [None] * len(folders)
    rows = []
    for index in progress(indices, "video"):
        parts = []
        for number, match in enumerate(matches):
            values, recipe = _read(match[index])
            first = recipes[number] = recipes[number] or (recipe, match[index])
            if recipe != first[0] or (rows and len(values) != len(rows[0][number])):
                raise DataError(f"{match[index]} was not extracted as {first[1]} was")
            parts.append(values)
        rows.append(parts)
    return np.stack([np.concatenate(parts) for parts in rows]), np.asarray(indices)


def describe_features(folder: str | os.PathLike[str]) -> str:
    """One line: the network, the endpoint and the clips of a folder's features."""
    path = next(iter(find_features(folder).values()))
    try:
        with open(path, "rb") as stored, np.load(stored, allow_pickle=False) as file:
            return f"{folder}: {file['model']}, {file['protocol']}"
    except _DAMAGED as error:
        raise DataError(f"{path} is damaged, or no file of `extract` ({error})") from error


def labeled_features(
    folders: Sequence[str | os.PathLike[str]],
    dataset: VideoDataset,
    progress: _Progress = lambda items, what: items,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`read_features` of a data set: values `[M, D]`, labels `[M]`, indices into it `[M]`.

    Raises:
      DataError: as `read_features`; or videos have several labels.
    """
    if dataset.label_sets:
        raise DataError("videos with several labels: the papers' SVMs are for one label each")
    values, indices = read_features(folders, dataset.paths, progress)
    return values, np.asarray(dataset.labels)[indices], indices


def _without_endings(names: Mapping[str, Path]) -> dict[str, Path]:
    """By the names without a video's ending, those that stay different."""
    bare: dict[str, list[Path]] = {}
    for name, path in names.items():
        stem, ending = os.path.splitext(name)
        if ending.lower() in VIDEOS:
            bare.setdefault(stem, []).append(path)
    return {stem: paths[0] for stem, paths in bare.items() if len(paths) == 1}


def _longest_end(parts, names: Mapping[str, Path], bare: Mapping[str, Path]) -> Path | None:
    for first in range(len(parts)):
        end = "/".join(parts[first:])
        if found := names.get(end) or bare.get(end):
            return found
    return None


def _read(path: Path) -> tuple[np.ndarray, str]:
    """Features `[D]` of a video, and what they are."""
    try:
        with open(path, "rb") as stored, np.load(stored, allow_pickle=False) as file:
            values, recipe = file["features"], str(file["recipe"])
            per_clip = bool(file["per_clip"])
    except _DAMAGED as error:
        raise DataError(f"{path} is damaged, or no file of `extract` ({error})") from error
    if not np.isfinite(values).all():
        raise DataError(f"{path} holds numbers that are not finite")
    values = values.mean(0) if per_clip else values
    return np.asarray(values, np.float32).ravel(), recipe
