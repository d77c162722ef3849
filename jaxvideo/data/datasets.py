"""Lists of labelled videos, from annotation files.

One line is one video, `path label`, separated by a tab, else by the last comma, else by the
last space; the path is relative to the data root (or absolute), the label a class name or an
index from 0. `#` starts a comment line. Class names in the order of their indices stand in a
file of their own, one per line (`classes.txt`); without it they are what the labels say.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from jaxvideo.types import DataError

LINE_FORMAT = "path/of/video.mp4 label"


@dataclasses.dataclass(frozen=True)
class VideoDataset:
    """Labelled videos: `paths[i]` has class `classes[labels[i]]`."""

    paths: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)


def read_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Class names, one per line, in the order of their indices."""
    lines = _lines(Path(path), "one class name per line")
    names = tuple(text for _, text in lines)
    if len(set(names)) != len(names):
        twice = sorted({n for n in names if names.count(n) > 1})
        raise DataError(f"{path}: class names stand there twice: {', '.join(twice[:5])}")
    return names


def read_annotations(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
) -> VideoDataset:
    """A data set from an annotation file.

    Args:
      path: the annotation file; relative to `root` unless absolute.
      root: the folder that the paths in it are relative to.
      classes: the class names; None takes them from the file's own labels (names sorted, or
        the indices 0 ... max).

    Raises:
      DataError: a folder or file is missing or empty, a line has another form, or a label is
        outside the classes: the message names file and line. Also if no video exists.
    """
    root, path = Path(root), Path(root, path)
    if not root.is_dir():
        raise DataError(
            f"the data folder {root} does not exist; expected in it: {path.name} with lines "
            f"'{LINE_FORMAT}'"
        )
    rows = []
    for number, text in _lines(path, LINE_FORMAT):
        separator = "\t" if "\t" in text else "," if "," in text else " "
        name, found, label = (part.strip() for part in text.rpartition(separator))
        if not (name and label) or (separator == " " and not found and " " not in text):
            raise DataError(
                f"{path}, line {number}: {text!r} is not of the form '{LINE_FORMAT}' "
                "(separated by a tab, a comma or a space)"
            )
        rows.append((number, name, label))
    if classes is None:
        classes = _classes_of([label for _, _, label in rows])
    index = {name: i for i, name in enumerate(classes)}
    labels = []
    for number, _, label in rows:
        value = index.get(label)
        if value is None and _is_index(label) and int(label) < len(classes):
            value = int(label)
        if value is None:
            some = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
            raise DataError(
                f"{path}, line {number}: the label {label!r} is none of the {len(classes)} "
                f"classes ({some}) and no index from 0 to {len(classes) - 1}"
            )
        labels.append(value)
    paths = tuple(str(root / name) for _, name, _ in rows)
    _check_some_exist(path, root, paths)
    return VideoDataset(paths, tuple(labels), tuple(classes))


def _lines(path: Path, form: str) -> list[tuple[int, str]]:
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; expected there: lines '{form}'") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error})") from error
    numbered = [(i, line.strip()) for i, line in enumerate(content.splitlines(), start=1)]
    lines = [(i, text) for i, text in numbered if text and not text.startswith("#")]
    if not lines:
        raise DataError(f"{path} is empty; expected there: lines '{form}'")
    return lines


def _is_index(label: str) -> bool:
    return label.isascii() and label.isdigit()


def _classes_of(labels: Sequence[str]) -> tuple[str, ...]:
    if all(_is_index(label) for label in labels):
        return tuple(str(i) for i in range(max(map(int, labels)) + 1))
    return tuple(sorted(set(labels)))


def _check_some_exist(path: Path, root: Path, paths: Sequence[str]) -> None:
    # A few, because a look at a quarter of a million files on a network disk takes minutes;
    # single missing videos are found, counted and named while reading.
    some = paths[:: max(len(paths) // 20, 1)]
    if not any(os.path.exists(p) for p in some):
        raise DataError(
            f"{path}: none of {len(some)} videos looked for exists, for instance {some[0]}; "
            f"are the paths in it relative to {root}?"
        )
