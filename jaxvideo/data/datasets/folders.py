"""Form "folders": a folder of videos per class, `train/CLASS/a.mp4` or `CLASS/a.mp4`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxvideo.data.datasets.annotations import Annotations, Found, indexed, split_named
from jaxvideo.data.datasets.form import Form, Source, given_classes
from jaxvideo.data.video import IMAGES, is_video
from jaxvideo.types import DataError

LAYOUT = "train/CLASS/a.mp4 and val/CLASS/b.mp4, or CLASS/a.mp4 (a fifth is used for validation)"

# Validation share of each class if there are no folders of splits.
_VAL_SHARE = 0.2


def _matches(root: Path) -> bool:
    return next(_class_videos(root), None) is not None


def _read(source: Source) -> Annotations:
    below: dict[str, dict[str, list[str]]] = {}
    for split, name, video in _class_videos(source.root):
        below.setdefault(split, {}).setdefault(name, []).append(video)
    if not {"", "train"} & set(below):
        raise DataError(
            f"{source.root}: no training folder of videos or of folders of frames; expected: "
            f"{LAYOUT}"
        )
    if "" in below:
        below = _divide(below[""], source.fold)
    found: Found = {
        split: [
            (f"{source.root}, {split}", video, [name])
            for name, videos in sorted(folders.items())
            for video in videos
        ]
        for split, folders in below.items()
    }
    # Folders named 1, 2, 3 are class names, not indices.
    classes = given_classes(source) or tuple(sorted(below["train"]))
    return indexed(found, classes, anywhere=False)


def _class_videos(root: Path) -> Iterator[tuple[str, str, str]]:
    """Yields (split, class, path relative to `root`) of all videos in class folders.

    The split is "" if `root` has no folders for splits.
    """
    splits = {split: name for name in _folders_in(root) if (split := split_named(name))}
    tops = splits if "train" in splits else {"": "."}
    for split, top in tops.items():
        for name in _folders_in(root / top):
            for video in _videos_below(root, f"{top}/{name}".removeprefix("./")):
                yield split, name, video


def _folders_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not e.name.startswith((".", "__")) and e.is_dir())


def _videos_below(root: Path, folder: str) -> Iterator[str]:
    with os.scandir(root / folder) as entries:
        inside = sorted((e.name, is_video(e.name) or not e.is_dir()) for e in entries)
    for name, is_file in inside:
        path = f"{folder}/{name}"
        if is_file or _contains_frames(root / path):
            if not is_file or is_video(name):
                yield path
        elif not name.startswith("."):
            yield from _videos_below(root, path)


def _contains_frames(folder: Path) -> bool:
    with os.scandir(folder) as entries:  # stops at the first image
        return any(entry.name.lower().endswith(IMAGES) for entry in entries)


def _divide(classes: Mapping[str, list[str]], seed: int) -> dict[str, dict[str, list[str]]]:
    """Assigns a fifth of each class to validation, depending only on seed and path.

    The order of a directory listing and the files of other classes have no influence.
    """

    def drawn(path: str) -> bytes:
        return hashlib.sha256(f"{seed}:{path}".encode(errors="surrogateescape")).digest()

    splits: dict[str, dict[str, list[str]]] = {"train": {}, "val": {}}
    for name, videos in classes.items():
        chosen = set(sorted(videos, key=drawn)[: round(_VAL_SHARE * len(videos))])
        splits["train"][name] = [video for video in videos if video not in chosen]
        splits["val"][name] = [video for video in videos if video in chosen]
    return splits


FORM = Form(layout=LAYOUT, read=_read, matches_folder=_matches, folds=True)
