"""Reads features that `extract` wrote, one `.npz` per video, and matches them with labels."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

import numpy as np

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.datasets.load import read_annotations
from jaxvideo.data.video import VIDEOS
from jaxvideo.progress import track
from jaxvideo.types import DataError

# Exceptions of `np.load` for a corrupt `.npz`.
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def find_features(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Lists the feature files below a directory.

    Returns:
      Files by the names of their videos, sorted.

    Raises:
      DataError: the directory does not exist or contains no feature file.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{folder} is not a directory; `jaxvideo extract --out DIR` writes one")
    files = sorted(path for path in root.rglob("*.npz") if not path.name.startswith("."))
    if not files:
        raise DataError(f"{folder} contains no .npz file; `jaxvideo extract` writes one per video")
    return {path.relative_to(root).as_posix().removesuffix(".npz"): path for path in files}


def match_features(folder: str | os.PathLike[str], videos: Sequence[str]) -> list[tuple[int, Path]]:
    """Finds the feature files of videos.

    A feature file belongs to a video if its name is a suffix of the path of the video; the longest
    suffix wins. Hence features may be extracted from the data root or from a directory in it. The
    name `0001` also matches `0001.avi` if it is unambiguous.

    Args:
      folder: directory that `extract` wrote.
      videos: paths of videos.

    Returns:
      (index into `videos`, feature file) of all videos that have features.

    Raises:
      DataError: no video has features, or two videos match the same file.
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
                f"{path} matches both {videos[found[path]]} and {video}; extract from a directory "
                "that contains both"
            )
        found[path] = index
    if not found:
        raise DataError(
            f"{folder} has features of {next(iter(names))} and {len(names) - 1} other videos, but "
            f"of none of the {len(videos)} labeled videos, such as {next(iter(videos), 'none')}"
        )
    return [(index, path) for path, index in found.items()]


def read_features(
    folders: Sequence[str | os.PathLike[str]],
    videos: Sequence[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the features of videos.

    Features of several directories are concatenated (C3D combines three networks), features per
    clip are averaged, and maps are flattened.

    Args:
      folders: directories that `extract` wrote.
      videos: paths of videos.

    Returns:
      f32 `[M, D]`, and ascending indices into `videos` `[M]` of the videos that have features in
      all directories.

    Raises:
      DataError: no video has features; or a file is corrupt, contains NaN or infinity, or was
        extracted with other settings than the other files in its directory.
    """
    matches = [dict(match_features(folder, videos)) for folder in folders]
    indices = [i for i in range(len(videos)) if all(i in match for match in matches)]
    if not indices:
        raise DataError(f"no video has features in all directories {', '.join(map(str, folders))}")
    recipes: list[tuple[str, Path] | None] = [None] * len(folders)
    rows = []
    for index in track(indices, "feature files"):
        parts = []
        for number, match in enumerate(matches):
            values, recipe = _read(match[index])
            first = recipes[number] = recipes[number] or (recipe, match[index])
            if recipe != first[0] or (rows and len(values) != len(rows[0][number])):
                raise DataError(f"{match[index]} was extracted with other settings than {first[1]}")
            parts.append(values)
        rows.append(parts)
    return np.stack([np.concatenate(parts) for parts in rows]), np.asarray(indices)


def describe_features(folder: str | os.PathLike[str]) -> str:
    """Describes the features in a directory in one line: network, endpoint and clips."""
    path = next(iter(find_features(folder).values()))
    try:
        with open(path, "rb") as stored, np.load(stored, allow_pickle=False) as file:
            return f"{folder}: {file['model']}, {file['protocol']}"
    except _DAMAGED as error:
        raise DataError(f"{path} is corrupt or was not written by `extract` ({error})") from error


def labeled_features(
    folders: Sequence[str | os.PathLike[str]], dataset: VideoDataset
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads the features of a data set, see `read_features`.

    Returns:
      Features `[M, D]`, labels `[M]`, and indices into the data set `[M]`.

    Raises:
      DataError: as `read_features`; or the data set is multi-label.
    """
    if dataset.label_sets:
        raise DataError("the data set is multi-label; the SVMs need one label per video")
    values, indices = read_features(folders, dataset.paths)
    return values, np.asarray(dataset.labels)[indices], indices


def all_videos(splits: Sequence[VideoDataset]) -> VideoDataset:
    """Joins the splits of a data set into one."""
    return dataclasses.replace(
        splits[0],
        paths=tuple(path for part in splits for path in part.paths),
        labels=tuple(label for part in splits for label in part.labels),
    )


def groups_from_file(
    path: str, root: str, dataset: VideoDataset, indices: np.ndarray
) -> np.ndarray:
    """Reads the group of each video from a file with lines `path group`.

    Args:
      path: the file.
      root: directory to which paths in the file are relative.
      dataset: videos.
      indices: videos of the data set whose groups are wanted `[M]`.

    Returns:
      Groups `[M]` as numbers.

    Raises:
      DataError: the file cannot be read or lacks a video.
    """
    found = read_annotations(path, root)
    group = dict(zip(found.paths, found.labels, strict=True))
    missing = [dataset.paths[i] for i in indices if dataset.paths[i] not in group]
    if missing:
        raise DataError(f"{path} names no group for {len(missing)} videos, such as {missing[0]}")
    return np.asarray([group[dataset.paths[i]] for i in indices])


def _without_endings(names: Mapping[str, Path]) -> dict[str, Path]:
    """Files by names without the ending of a video file, if unambiguous."""
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
    """Reads the features `[D]` of a video and their extraction settings."""
    try:
        with open(path, "rb") as stored, np.load(stored, allow_pickle=False) as file:
            values, recipe = file["features"], str(file["recipe"])
            per_clip = bool(file["per_clip"])
    except _DAMAGED as error:
        raise DataError(f"{path} is corrupt or was not written by `extract` ({error})") from error
    if not np.isfinite(values).all():
        raise DataError(f"{path} contains NaN or infinity")
    values = values.mean(0) if per_clip else values
    return np.asarray(values, np.float32).ravel(), recipe
