"""Videos in a folder per class, as `train/CLASS/a.mp4` or `CLASS/a.mp4`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxvideo.data.annotations import split_named
from jaxvideo.data.decode import FLOW_ENDING, IMAGES, VIDEOS

# Of a class without splits.
_VAL_SHARE = 0.2


def class_videos(root: Path) -> Iterator[tuple[str, str, str]]:
    """Split, class and path from the root of all videos in class folders; the split is "" where
    there are class folders only."""
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
        if is_file or _holds_frames(root / path):
            if not is_file or is_video(name):
                yield path
        elif not name.startswith("."):
            yield from _videos_below(root, path)


def is_video(name: str) -> bool:
    """Whether a file's name is that of a video; stored flow is none."""
    return name.lower().endswith(VIDEOS) and not name.endswith(FLOW_ENDING)


def _holds_frames(folder: Path) -> bool:
    with os.scandir(folder) as entries:  # up to the first picture
        return any(entry.name.lower().endswith(IMAGES) for entry in entries)


def divided(classes: Mapping[str, list[str]], seed: int) -> dict[str, dict[str, list[str]]]:
    """A fifth of each class for validation, drawn by the names alone: neither the order of a
    listing nor the files of another class change it."""

    def drawn(path: str) -> bytes:
        return hashlib.sha256(f"{seed}:{path}".encode(errors="surrogateescape")).digest()

    splits: dict[str, dict[str, list[str]]] = {"train": {}, "val": {}}
    for name, videos in classes.items():
        chosen = set(sorted(videos, key=drawn)[: round(_VAL_SHARE * len(videos))])
        splits["train"][name] = [video for video in videos if video not in chosen]
        splits["val"][name] = [video for video in videos if video in chosen]
    return splits
