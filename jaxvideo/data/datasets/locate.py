"""Find the annotated videos in a data folder, by one listing per folder."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxvideo.data.datasets.annotations import SPLITS, Annotations, Row
from jaxvideo.data.video import Ignored, is_video
from jaxvideo.progress import LOG
from jaxvideo.types import DataError

# Folders that the paths in a list may be relative to, below the data folder (mmaction2's layout).
_BASES = ("", "{split}", "videos", "videos_{split}", "rawframes", "rawframes_{split}")

# Maximum folder depth; deeper folders are assumed to be loops of symbolic links.
_DEPTH = 6


def locate(root: Path, annotations: Annotations) -> dict[str, list[str | None]]:
    """Returns the paths of the rows of each split; None if the video does not exist.

    Raises:
      DataError: a video exists in several places.
      OSError: a folder cannot be listed.
    """
    report = _listing_report(root)
    if annotations.anywhere:
        wanted = {row.name for rows in annotations.splits.values() for row in rows}
        places = _places(root, wanted, report)
        return {
            split: [_place(root, row, split, annotations.classes, places) for row in rows]
            for split, rows in annotations.splits.items()
        }
    exists = _listed_once(report)
    return {
        split: [_path(root, row.name, split, exists) for row in rows]
        for split, rows in annotations.splits.items()
    }


def video_exists(root: Path, name: str) -> bool:
    """True if the path of a video in a list exists below the folder of the videos."""
    return any(
        os.path.exists(root / base.format(split=split) / name)
        for base in _BASES
        for split in SPLITS
    )


def _listing_report(root: Path) -> Callable[[int], None]:
    """Returns `report(count)`, which counts listed names and logs the total every 2 seconds."""
    shown, total = time.perf_counter(), 0

    def report(count: int) -> None:
        nonlocal shown, total
        total += count
        if time.perf_counter() - shown > 2:
            LOG.info(f"listing {root}: {total:,} names")
            shown = time.perf_counter()

    return report


def _listed_once(report: Callable[[int], None]) -> Callable[[str], bool]:
    """Returns `exists(path)`, which lists each folder once."""
    known: dict[str, frozenset[str]] = {}

    def exists(path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in known:
            known[folder] = frozenset()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                known[folder] = frozenset(os.listdir(folder or "."))
            report(len(known[folder]))
        return name in known[folder]

    return exists


def _path(root: Path, name: str, split: str, exists: Callable[[str], bool]) -> str | None:
    paths = (str(root / base.format(split=split) / name) for base in _BASES)
    return next((path for path in paths if exists(path)), None)


def _places(root: Path, wanted: set[str], report: Callable[[int], None]) -> dict[str, list[str]]:
    """Returns the paths of wanted videos by name without ending.

    A folder with a wanted name is taken for a folder of frames and not listed.
    """
    places: dict[str, list[str]] = {}
    ignored = Ignored()
    folders = [(str(root), 0)]
    while folders:
        folder, depth = folders.pop()
        with os.scandir(folder) as entries:
            # Names with a video's ending are not examined any further.
            inside = [(e.name, not is_video(e.name) and e.is_dir()) for e in entries]
        report(len(inside))
        for name, is_folder in inside:
            stem = name if is_folder else os.path.splitext(name)[0]
            path = os.path.join(folder, name)
            # ActivityNet's files are named v_ID.
            own = stem if stem in wanted else stem.removeprefix("v_")
            if own in wanted and (is_folder or is_video(name)):
                places.setdefault(own, []).append(path)
            elif is_folder:
                if not name.startswith(".") and depth < _DEPTH:
                    folders.append((path, depth + 1))
            elif not is_video(name):
                ignored.add(name)
    ignored.log(root)
    return places


def _place(
    root: Path, row: Row, split: str, classes: Sequence[str], places: Mapping[str, list[str]]
) -> str | None:
    """Returns the path of a video; a folder of its class, then of its split, takes precedence."""
    paths = places.get(row.name, [])
    names = {_plain(classes[label]) for label in row.labels}
    for wanted in (names, set(SPLITS[split])):
        if len(paths) < 2:
            break
        inside = [p for p in paths if wanted & set(map(_plain, Path(p).relative_to(root).parts))]
        paths = inside or paths
    if len(paths) > 1:
        raise DataError(
            f"{row.name} exists in several places: {', '.join(sorted(paths))}; set the folder of "
            "the videos (data.videos, --videos)"
        )
    return paths[0] if paths else None


def _plain(name: str) -> str:
    return name.replace("_", " ").lower()
