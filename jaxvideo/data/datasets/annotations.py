"""The content of annotations: classes, and the labeled videos of each split."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from jaxvideo.types import DataError

#: Names of the splits in file names, folder names and columns.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation"),
    "test": ("test", "testing"),
}

_WORDS = "|".join(word for words in SPLITS.values() for word in sorted(words, key=len)[::-1])
_SPLIT = re.compile(rf"(?<![a-z])({_WORDS})(?:[_-]?split)?[_-]?0*([1-9])?(?![a-z0-9])")


class Row(NamedTuple):
    """A video: its name, as defined by `Annotations.anywhere`, and its class indices."""

    name: str
    labels: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The annotations of a data set.

    Attributes:
      classes: class names in the order of their indices.
      splits: rows by "train", "val" and "test", in the order of the files.
      anywhere: True if names are file names without ending, or names of folders of frames,
        anywhere below the data folder; False if names are paths.
      frames: number of frames by name, where the annotations state it.
    """

    classes: tuple[str, ...]
    splits: dict[str, list[Row]]
    anywhere: bool
    frames: dict[str, int] = dataclasses.field(default_factory=dict)


#: Videos of each split before their labels are indexed: (file and line for errors, name, labels).
Found = dict[str, list[tuple[str, str, Sequence[str]]]]


def indexed(found: Found, classes: tuple[str, ...] | None, anywhere: bool = True) -> Annotations:
    """Replaces labels by class indices.

    Args:
      found: the videos of each split.
      classes: class names; None takes them from the training labels (see `classes_of`).
      anywhere: see `Annotations`.

    Raises:
      DataError: a label is not in `classes`.
    """
    first = found[next(split for split in SPLITS if split in found)] if found else []
    classes = classes or classes_of(label for *_, labels in first for label in labels)
    find = index_of(classes)
    splits = {
        split: [
            Row(name, tuple(find(label, where) for label in labels)) for where, name, labels in rows
        ]
        for split, rows in found.items()
    }
    return Annotations(classes, splits, anywhere)


def index_of(classes: Sequence[str]) -> Callable[[str, str], int]:
    """Returns `find(label, where)`, the index of a class that is given by name or number.

    `find` raises a DataError that begins with `where` if the label is not a class.
    """
    index = {name: i for i, name in enumerate(classes)}

    def find(label: str, where: str) -> int:
        value = index.get(label)
        if value is None and is_index(label) and int(label) < len(classes):
            value = int(label)
        if value is None and re.fullmatch(r"-\d+", label):
            raise DataError(f"{where}: the label {label} is negative; indices begin at 0")
        if value is None:
            some = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
            raise DataError(
                f"{where}: the label {label!r} is none of the {len(classes)} "
                f"classes ({some}) and no index from 0 to {len(classes) - 1}"
            )
        return value

    return find


def classes_of(labels: Iterable[str]) -> tuple[str, ...]:
    """Returns the sorted class names of labels; "0" ... "max" if all labels are numbers."""
    labels = set(labels)
    if all(is_index(label) for label in labels):
        return tuple(str(i) for i in range(max(map(int, labels), default=-1) + 1))
    return tuple(sorted(labels))


def is_index(label: str) -> bool:
    """True if a label is a number."""
    return label.isascii() and label.isdigit()


def split_of(name: str) -> tuple[str | None, int | None]:
    """Returns the split and the fold in a file name, None if there is none.

    `train1.csv` and `ucf101_train_split_1_videos.txt` are ("train", 1).
    """
    found = _SPLIT.search(name.lower())
    if found is None:
        return None, None
    return split_named(found[1]), int(found[2]) if found[2] else None


def split_named(word: str) -> str | None:
    """Returns the split with a name in `SPLITS`, None if there is none."""
    return next((split for split, words in SPLITS.items() if word.lower() in words), None)
