"""Read lists of lines `path label` in all the ways in which people write them."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxvideo.data.datasets.text import PAIR, read_text
from jaxvideo.data.video import VIDEOS
from jaxvideo.types import DataError

# Column names of headers, in lower case; of several label columns, the first one here is used.
_PATHS = (
    *("path", "video_path", "file_path", "filepath", "filename", "file_name", "file", "video"),
    *("video_name", "videos", "clip", "clip_path", "clip_name", "name", "video_id", "id"),
)
_LABELS = (
    *("label", "labels", "class", "class_name", "classname", "label_name", "category", "action"),
    *("target", "label_id", "class_id", "label_index", "class_index"),
)
_SPLITS = ("split", "subset", "set", "partition")

# Separators in the order of trial; None is any number of blanks.
_SEPARATORS = ("\t", ",", ";", None)
_NAMES = {"\t": "a tab", ",": "a comma", ";": "a semicolon", None: "blanks"}

_VIDEO = "|".join(re.escape(ending) for ending in VIDEOS)
# A label that contains the end of a file name shows that the separator is another one.
_PART_OF_NAME = re.compile(rf"({_VIDEO})(\s|$)", re.IGNORECASE)
_PATH_AND_LABEL = re.compile(rf"(.*(?:{_VIDEO}))\s+(\S.*)", re.IGNORECASE)


class Pair(NamedTuple):
    """A line of a list; `split` is empty if the list has no such column."""

    line: int
    name: str
    label: str
    split: str


@dataclasses.dataclass(frozen=True)
class PairList:
    """The content of a list.

    Attributes:
      pairs: the videos; empty if the list has no labels.
      reading: how the file was read, for the log: "12 rows, columns: path, label; header skipped".
    """

    pairs: list[Pair]
    reading: str

    @property
    def labeled(self) -> bool:
        """True if the list has labels."""
        return bool(self.pairs)


def read_pairs(path: Path, exists: Callable[[str], bool] | None = None) -> PairList:
    """Reads a list of lines `path label`.

    The separator is the first of tab, comma, semicolon and blanks that all lines contain. A header
    is recognized by its column names. `#` begins a comment, unless the line is a row whose video
    exists.

    Args:
      path: the file.
      exists: tells if the video with a name exists; None: all lines with `#` are comments.

    Raises:
      DataError: the file does not exist or is empty; a line has another form; a label is negative;
        or the first line may be a header or a video.
    """
    content = read_text(path, f"lines '{PAIR}'")
    numbered = [(i, line.strip()) for i, line in enumerate(content.splitlines(), start=1)]
    marked = [(i, text) for i, text in numbered if text.startswith("#")]
    lines = [(i, text) for i, text in numbered if text and not text.startswith("#")]
    separator = _separator([text for _, text in lines] or [text for _, text in marked])
    kept = [
        (i, text)
        for i, text in marked
        if exists and (cells := _cells(text, separator)) and exists(cells[0])
    ]
    lines = sorted(lines + kept)
    if not lines:
        raise DataError(f"{path} is empty; expected: lines '{PAIR}'")
    columns = _header(lines[0][1], separator)
    body = lines[1:] if columns else lines
    if not _has_labels(body, columns, separator):
        number, text = lines[0]
        return PairList([], f"{_rows(body)} without labels (line {number}: {text!r})")
    pairs = [_pair(path, number, text, separator, columns) for number, text in body]
    if not columns:
        _check_first(path, lines[0][1], pairs)
    for pair in pairs:
        if re.fullmatch(r"-\d+", pair.label):
            raise DataError(
                f"{path}, line {pair.line}: the label {pair.label} is negative; labels are class "
                "names or indices from 0. Leave out videos without a label"
            )
    names = [name for name in (columns or {"path": 0, "label": 1}) if not name.startswith("*")]
    reading = f"{_rows(pairs)}, columns: {', '.join(names)}"
    reading += "; header skipped" * bool(columns)
    reading += f"; names with '#': {len(kept):,}" * bool(kept)
    return PairList(pairs, reading)


def has_pair_header(line: str) -> bool:
    """True if a line is a header with a path, a label and a split."""
    columns = _header(line, _separator([line])) or {}
    return any(name in columns for name in _SPLITS) and any(name in columns for name in _LABELS)


def is_unlabeled(lines: Sequence[str]) -> bool:
    """True if lines are names of videos without labels."""
    lines = [text for text in lines if text and not text.startswith("#")]
    named = all(text.lower().endswith(VIDEOS) for text in lines)
    return bool(lines) and (named or not any(re.search(r"[\s,;]", text) for text in lines))


def _rows(rows: Sequence[object]) -> str:
    return f"{len(rows):,} row" + "s" * (len(rows) != 1)


def _separator(lines: Sequence[str]) -> str | None:
    """Returns the first separator that all lines contain, otherwise that of most lines."""
    usable = []
    for separator in _SEPARATORS:
        if all(len(_cells(text, separator)) > 1 for text in lines):
            labels = (_cells(text, separator)[-1] for text in lines)
            if not any("." in label and _PART_OF_NAME.search(label) for label in labels):
                return separator
            usable.append(separator)
    if usable:
        return usable[0]
    return max(_SEPARATORS, key=lambda s: sum(len(_cells(text, s)) > 1 for text in lines))


def _cells(text: str, separator: str | None) -> list[str]:
    """Splits a line; without a header these are a path and a label."""
    if separator is None:
        cells = text.rsplit(None, 1)
        if cells and not cells[0].lower().endswith(VIDEOS):
            # A label may contain blanks if the path ends like a video.
            found = _PATH_AND_LABEL.fullmatch(text)
            return list(found.groups()) if found else cells
        return cells
    if '"' in text:
        cells = next(csv.reader([text], delimiter=separator, skipinitialspace=True), [])
    else:
        cells = text.split(separator)
    cells = [cell.strip() for cell in cells]
    if separator == "\t":  # several tabs align columns
        cells = [cell for cell in cells if cell]
    return cells


def _header(text: str, separator: str | None) -> dict[str, int] | None:
    """Returns the columns of a header by name; None for any other line."""
    cells = text.split() if separator is None else _cells(text, separator)
    names = [cell.strip("\"'").lower() for cell in cells]
    known = {name for name in names if name in (*_PATHS, *_LABELS, *_SPLITS)}
    if not any(name in _PATHS for name in names) or (len(names) > 1 and len(known) < 2):
        return None
    return {name: index for index, name in enumerate(names)}


def _has_labels(
    lines: Sequence[tuple[int, str]], columns: dict[str, int] | None, separator: str | None
) -> bool:
    if columns:
        return any(name in columns for name in _LABELS)
    return not is_unlabeled([text for _, text in lines])


def _pair(
    path: Path, number: int, text: str, separator: str | None, columns: dict[str, int] | None
) -> Pair:
    if columns:
        cells = _cells(text, separator)
        if separator is None and (len(columns) > 2 or next(iter(columns)) in _LABELS):
            cells = text.split(None, len(columns) - 1)
        if len(cells) != len(columns):
            raise DataError(
                f"{path}, line {number}: {text!r} has {len(cells)} columns, but the header has "
                f"{len(columns)}: {', '.join(columns)}"
            )
        name, label, split = (
            next((cells[columns[column]] for column in wanted if column in columns), "")
            for wanted in (_PATHS, _LABELS, _SPLITS)
        )
    else:
        cells, split = _cells(text, separator), ""
        label = cells[-1] if len(cells) > 1 else ""
        # Without quotation marks, a path may contain the separator.
        name = (separator or " ").join(cells[:-1])
    if not (name and label):
        hint = f"; the other lines are separated by {_NAMES[separator]}"
        raise DataError(
            f"{path}, line {number}: {text!r} is not of the form '{PAIR}' (separated by a tab, a "
            f"comma or a space){hint if separator else ''}"
        )
    return Pair(number, name, label, split)


def _check_first(path: Path, text: str, pairs: Sequence[Pair]) -> None:
    """Refuses a first line that may be a header with unknown names.

    Raises:
      DataError: all names but the first end like a video.
    """
    first, *others = pairs
    named = [pair.name.lower().endswith(VIDEOS) for pair in others]
    if named and all(named) and not first.name.lower().endswith(VIDEOS):
        raise DataError(
            f"{path}, line {first.line}: {text!r} is either a header or the video {first.name!r} "
            f"of class {first.label!r}; name the columns 'path' and 'label', or delete the line"
        )
