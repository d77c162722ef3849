"""What a form of annotations consists of, and helpers that several forms share."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from jaxvideo.data.datasets.annotations import Annotations, split_of
from jaxvideo.data.datasets.locate import video_exists
from jaxvideo.data.datasets.pair_lists import is_unlabeled
from jaxvideo.data.datasets.text import read_classes
from jaxvideo.data.video import LISTS, is_side_file
from jaxvideo.types import DataError

# Folders that contain annotation files: the data folder itself, and those of published archives.
_FOLDERS = (
    "",
    "annotations",
    "labels",
    "original",
    "splits",
    "testTrainMulti_7030_splits",
    "ucfTrainTestlist",
)
_HEAD = 1 << 16


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A file that may contain annotations. It is read only if a form needs its content."""

    path: Path

    @functools.cached_property
    def is_json(self) -> bool:
        """True if the file name ends with .json."""
        return self.path.suffix.lower() == ".json"

    @functools.cached_property
    def json_text(self) -> str:
        """The content of a JSON file; empty for other files."""
        if not self.is_json:
            return ""
        return self.path.read_text(encoding="utf-8-sig", errors="replace").lstrip()

    @functools.cached_property
    def json_list(self) -> str:
        """The beginning of a JSON file that contains a list; empty for other files."""
        head = self.json_text[:_HEAD]
        return head if head.startswith("[") else ""

    @functools.cached_property
    def first_line(self) -> str:
        """The first line that is neither empty nor a comment; empty for a JSON file."""
        if self.is_json:
            return ""
        with self.path.open(encoding="utf-8-sig", errors="replace") as file:
            head = (line.strip() for line in file.read(_HEAD).splitlines())
        return next((line for line in head if line and not line.startswith("#")), "")

    @functools.cached_property
    def unlabeled(self) -> bool:
        """True for a list of videos without labels."""
        if self.is_json:
            return False
        with self.path.open(encoding="utf-8-sig", errors="replace") as file:
            lines = file.read(_HEAD).splitlines()
        return is_unlabeled([line.strip() for line in lines[:1000]])

    @functools.cached_property
    def split(self) -> str | None:
        """The split in the file name."""
        return split_of(self.path.name)[0]

    def database(self, annotations: str) -> bool:
        """True for JSON `{"database": {... "annotations": X` with X starting with a bracket.

        The file may have hundreds of megabytes, so it is searched instead of parsed.
        """
        text = self.json_text
        return (
            text.startswith("{")
            and re.search(r'"database"\s*:\s*\{', text) is not None
            and re.search(rf'"annotations"\s*:\s*\{annotations}', text) is not None
        )


@dataclasses.dataclass(frozen=True)
class Source:
    """Input of `Form.read`.

    Attributes:
      root: the data folder; for a form without annotation files, the folder of the videos.
      files: the annotation files of the form in `root`.
      fold: number of the split into training and test, from 1.
      lists: file names by split, instead of `files`; only if `Form.lists`.
      videos: the folder of the videos; None: `root`.
      classes: name of the file with class names, if the form has no class list of its own.
    """

    root: Path
    files: tuple[Path, ...]
    fold: int = 1
    lists: Mapping[str, str] = dataclasses.field(default_factory=dict)
    classes: str = "classes.txt"
    videos: Path | None = None

    def exists(self, name: str) -> bool:
        """True if the path of a video in a list exists."""
        return video_exists(self.videos or self.root, name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """A published form of annotations.

    Exactly one of `matches_file` and `matches_folder` is given.

    Attributes:
      layout: description of the files and of their lines, shown in error messages.
      read: reads the annotations.
      matches_file: True if a file contains annotations of this form.
      matches_folder: True if a data folder without annotation files has this form.
      folds: True if the form has several splits into training and test.
      lists: True if the annotation files may be named explicitly (`Source.lists`).
    """

    layout: str
    read: Callable[[Source], Annotations]
    matches_file: Callable[[Candidate], bool] | None = None
    matches_folder: Callable[[Path], bool] | None = None
    folds: bool = False
    lists: bool = False


def candidates(root: Path) -> Iterator[Candidate]:
    """Yields the files of a data folder that may contain annotations, in sorted order."""
    for folder in _FOLDERS:
        place = root / folder
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            named = path.suffix.lower() in LISTS and not is_side_file(path.name)
            if named and path.is_file():
                yield Candidate(path)


def given_classes(source: Source) -> tuple[str, ...] | None:
    """Reads `source.classes`; None if there is no such file."""
    path = source.root / source.classes
    return read_classes(path) if source.classes and path.is_file() else None


def files_by_split(source: Source, layout: str) -> dict[str, Path]:
    """Returns the annotation file of each split, by split and fold in the file names.

    Raises:
      DataError: no file of this fold, no split in any name, or several files for a split.
    """
    files: dict[str, list[Path]] = {}
    folds = set()
    for path in source.files:
        split, fold = split_of(path.name)
        if fold is not None:
            folds.add(fold)
        if split and fold in (None, source.fold):
            files.setdefault(split, []).append(path)
    if source.fold not in folds and (folds or source.fold > 1):
        some = ", ".join(map(str, sorted(folds))) or "1"
        raise DataError(f"{source.root}: there is no fold {source.fold}, only {some}")
    if not files:
        names = ", ".join(path.name for path in source.files)
        raise DataError(
            f"{source.root}: none of the names {names} contains 'train', 'val' or 'test'; "
            f"expected: {layout}"
        )
    return {split: only_file(paths, f"the {split} split") for split, paths in files.items()}


def only_file(paths: Sequence[Path], purpose: str) -> Path:
    """Returns the only element of `paths`.

    Raises:
      DataError: there are several.
    """
    if len(paths) != 1:
        raise DataError(f"several files for {purpose}: {', '.join(map(str, paths))}; keep one")
    return paths[0]
