"""What annotation files say: finding them, and reading their lines.

A form is recognized by the names and the first lines of files (`form_of`); `forms` reads each.
Nothing here looks whether a video is there: `datasets` does. Class names are in the order of the
data set's own list where it has one, otherwise sorted.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxvideo.types import DataError

LINE_FORMAT = "path/of/video.mp4 label"

#: What files, folders and columns call the splits.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation"),
    "test": ("test", "testing"),
}

# Where annotation files lie: in the data folder, or where the archives of data sets unpack them.
_FOLDERS = (
    "",
    "annotations",
    "labels",
    "original",
    "splits",
    "testTrainMulti_7030_splits",
    "ucfTrainTestlist",
)


class Row(NamedTuple):
    """One video: its name, which `Annotations` explains, and the indices of its classes."""

    name: str
    labels: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Annotations:
    """What the files of a data set say.

    Attributes:
      classes: names in the order of their indices.
      splits: rows in the order of the files, under "train", "val" and "test".
      anywhere: names are those of files without their ending, or of folders of frames, anywhere
        below the data folder; otherwise they are paths.
    """

    classes: tuple[str, ...]
    splits: dict[str, list[Row]]
    anywhere: bool


# --- Recognizing --------------------------------------------------------------------------


def annotation_files(root: Path) -> dict[str, tuple[Path, ...]]:
    """The annotation files in a data folder, by form."""
    found: dict[str, list[Path]] = {}
    for folder in _FOLDERS:
        place = root / folder
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            form = form_of(path)
            if form:
                found.setdefault(form, []).append(path)
    return {form: tuple(paths) for form, paths in found.items()}


def form_of(path: Path) -> str | None:
    """The form of a file by its name and its beginning; None if it is no annotation file."""
    ending = path.suffix.lower()
    if ending not in (".csv", ".tsv", ".txt", ".json") or not path.is_file():
        return None
    if ending == ".json":
        return _form_of_json(path)
    if re.fullmatch(r"(train|test)list\d\d\.txt|classInd\.txt", path.name):
        return "ucf101"
    if re.fullmatch(r".+_test_split\d\.txt", path.name):
        return "hmdb51"
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        head = (line.strip() for line in file.read(1 << 16).splitlines())
    first = next((line for line in head if line and not line.startswith("#")), "")
    columns = _columns(first)
    if {"youtube_id", "time_start"} <= columns:
        return "kinetics"
    if "actions" in columns:
        return "actions"
    if re.match(r"https?://\S+ \d+(,\d+)*$", first):
        return "sports1m"
    if split_of(path.name)[0] is None:
        return None
    numbered = re.fullmatch(r"(\S+)((?: \d+){2,})", first)
    return "mmaction" if numbered else "csv"


def _form_of_json(path: Path) -> str | None:
    text = path.read_text(encoding="utf-8-sig", errors="replace").lstrip()
    head = text[: 1 << 16]
    if head.startswith("["):
        if '"template"' in head:
            return "ssv2"
        named = '"filename"' in head or '"frame_dir"' in head
        return "mmaction" if named and '"label"' in head else None
    # Of hundreds of megabytes only the shape matters here.
    if head.startswith("{") and re.search(r'"database"\s*:\s*\{', text):
        if re.search(r'"annotations"\s*:\s*\{', text):
            return "hara"
        if re.search(r'"annotations"\s*:\s*\[', text):
            return "activitynet"
    return None


_WORDS = "|".join(word for words in SPLITS.values() for word in sorted(words, key=len)[::-1])
_SPLIT = re.compile(rf"(?<![a-z])({_WORDS})(?:[_-]?split)?[_-]?0*([1-9])?(?![a-z0-9])")


def split_of(name: str) -> tuple[str | None, int | None]:
    """Split and fold that a file's name tells: ("train", 1) of `train1.csv` and of
    `ucf101_train_split_1_videos.txt`."""
    found = _SPLIT.search(name.lower())
    if found is None:
        return None, None
    return split_named(found[1]), int(found[2]) if found[2] else None


def split_named(word: str) -> str | None:
    return next((split for split, words in SPLITS.items() if word.lower() in words), None)


# --- Text ---------------------------------------------------------------------------------


def read_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Class names, one per line, in the order of their indices.

    Raises:
      DataError: the file is missing or empty, or a name stands there twice.
    """
    names = tuple(text for _, text in read_lines(Path(path), "one class name per line"))
    if len(set(names)) != len(names):
        twice = sorted({n for n in names if names.count(n) > 1})
        raise DataError(f"{path}: class names stand there twice: {', '.join(twice[:5])}")
    return names


def read_lines(path: Path, form: str, comment: str | None = "#") -> list[tuple[int, str]]:
    """Numbers and texts of the lines that are neither empty nor a comment.

    Raises:
      DataError: there is none, or no such file of text; it shows the `form` of a line.
    """
    content = read_text(path, f"lines '{form}'")
    numbered = [(i, line.strip()) for i, line in enumerate(content.splitlines(), start=1)]
    lines = [(i, text) for i, text in numbered if text and not (comment and text[0] == comment)]
    if not lines:
        raise DataError(f"{path} is empty; expected there: lines '{form}'")
    return lines


def read_text(path: Path, expected: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; expected there: {expected}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error})") from error


def read_pairs(path: Path) -> list[tuple[int, str, str]]:
    """Line number, video and label of lines `path label`, separated by a tab, else by the last
    comma, else by the last space."""
    rows = []
    for number, text in read_lines(path, LINE_FORMAT):
        separator = "\t" if "\t" in text else "," if "," in text else " "
        name, found, label = (part.strip() for part in text.rpartition(separator))
        if not (name and label) or (separator == " " and not found and " " not in text):
            raise DataError(
                f"{path}, line {number}: {text!r} is not of the form '{LINE_FORMAT}' "
                "(separated by a tab, a comma or a space)"
            )
        rows.append((number, name, label))
    return rows


def index_of(classes: Sequence[str]) -> Callable[[str, str], int]:
    """Gives `find(label, where)`: the index of a class, named or given as a number."""
    index = {name: i for i, name in enumerate(classes)}

    def find(label: str, where: str) -> int:
        value = index.get(label)
        if value is None and is_index(label) and int(label) < len(classes):
            value = int(label)
        if value is None:
            some = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
            raise DataError(
                f"{where}: the label {label!r} is none of the {len(classes)} "
                f"classes ({some}) and no index from 0 to {len(classes) - 1}"
            )
        return value

    return find


def classes_of(labels: Iterable[str]) -> tuple[str, ...]:
    """The classes that labels name: sorted, or the indices 0 ... max."""
    labels = set(labels)
    if all(is_index(label) for label in labels):
        return tuple(str(i) for i in range(max(map(int, labels), default=-1) + 1))
    return tuple(sorted(labels))


def is_index(label: str) -> bool:
    return label.isascii() and label.isdigit()


def _columns(line: str) -> set[str]:
    return {name.strip().lower() for name in next(csv.reader([line]), [])}
