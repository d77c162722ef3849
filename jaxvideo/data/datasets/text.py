"""Read annotation files as lines, columns or JSON, with errors that name file and line."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxvideo.progress import LOG
from jaxvideo.types import DataError

#: Form of a line that `pair_lists.read_pairs` reads.
PAIR = "path/of/video.mp4 label"

# First lines of a list of class names that are no class, in lower case.
_CLASS_HEADERS = (
    *("name", "names", "class", "classes", "class_name", "class name", "label", "labels"),
    *("category", "action", "classname"),
)
_NUMBER_FIRST = re.compile(r"(?P<number>\d+)(\s*[,;]\s*|\s+)(?P<name>\S.*)")
_NUMBER_LAST = re.compile(r"(?P<name>.*\S)(\s*[,;]\s*|\s+)(?P<number>\d+)")


def read_text(path: Path, expected: str) -> str:
    """Reads a UTF-8 file.

    Args:
      path: the file.
      expected: description of the expected content for the error message.

    Raises:
      DataError: the file does not exist or is not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; expected: {expected}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error})") from error


def read_lines(
    path: Path,
    form: str,
    comment: str | None = "#",
    exists: Callable[[str], bool] | None = None,
) -> list[tuple[int, str]]:
    """Reads the numbers and texts of the lines that are neither empty nor a comment.

    Args:
      path: the file.
      form: an example of a line for the error message.
      comment: first character of a comment line; None if there are no comments.
      exists: tells if the video with a name exists. A line that begins with such a name is not a
        comment.

    Raises:
      DataError: the file does not exist, is not text, or has no such line.
    """
    content = read_text(path, f"lines '{form}'")
    numbered = [(i, line.strip()) for i, line in enumerate(content.splitlines(), start=1)]

    def counts(text: str) -> bool:
        if not comment or text[0] != comment:
            return True
        return exists is not None and exists(text.split()[0])

    lines = [(i, text) for i, text in numbered if text and counts(text)]
    if not lines:
        raise DataError(f"{path} is empty; expected: lines '{form}'")
    return lines


def read_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Reads class names, one per line, in the order of their indices.

    Lines may have the index before or after the name (`0,abseiling`, `0 abseiling`, `abseiling 0`),
    which then is the order, and a header (`id,name`).

    Raises:
      DataError: the file does not exist or is empty, a name occurs twice, or the indices are not 0
        to the number of classes minus 1.
    """
    lines = [text for _, text in read_lines(Path(path), "one class name per line")]
    numbered = _numbered(lines)
    if numbered is None and len(lines) > 1 and (found := _numbered(lines[1:])) is not None:
        numbered, lines = found, lines[1:]
        LOG.info(f"{path}: {len(lines):,} classes with their indices; header skipped")
    elif numbered is None and lines[0].lower() in _CLASS_HEADERS and len(lines) > 1:
        lines = lines[1:]
        LOG.info(f"{path}: {len(lines):,} classes; header skipped")
    names = tuple(lines)
    if numbered is not None:
        indices = sorted(numbered)
        if indices == list(range(1, len(lines) + 1)):
            first = numbered[1]
            raise DataError(
                f"{path}: the numbers begin at 1, but indices begin at 0: {first!r} is either "
                f"class 1 or class 0. Number the classes from 0, or delete the numbers if "
                f"{first!r} is class 0"
            )
        if indices != list(range(len(lines))) and re.search(r"[,;\t]", lines[0]):
            raise DataError(
                f"{path}: the numbers before or after the names are not 0 to {len(lines) - 1}; "
                "they are either indices, and some are missing, or parts of the names. Correct or "
                "delete them"
            )
        if indices == list(range(len(lines))):  # otherwise names such as "100 m run"
            names = tuple(numbered[index] for index in indices)
    if len(set(names)) != len(names):
        twice = sorted({n for n in names if names.count(n) > 1})
        raise DataError(f"{path}: class names occur twice: {', '.join(twice[:5])}")
    return names


def _numbered(lines: Sequence[str]) -> dict[int, str] | None:
    """Returns names by number if all lines have a number before or after the name."""
    for form in (_NUMBER_FIRST, _NUMBER_LAST):
        found = [form.fullmatch(line) for line in lines]
        if all(found):
            numbers = [int(match["number"]) for match in found if match]
            if len(set(numbers)) == len(numbers):
                return {
                    number: match["name"].strip().strip('"')
                    for number, match in zip(numbers, found, strict=True)
                    if match
                }
    return None


def columns(line: str) -> set[str]:
    """Returns the column names of a CSV header in lower case."""
    return {name.strip().lower() for name in next(csv.reader([line]), [])}


def read_table(path: Path, needed: Sequence[str], expected: str) -> Iterator[tuple[int, dict]]:
    """Yields line number and values by column name of a CSV file with a header.

    Column names are in lower case.

    Args:
      path: the file.
      needed: required columns.
      expected: the header for the error message.

    Raises:
      DataError: a column is missing, or a line has too few columns.
    """
    lines = read_text(path, f"a header '{expected}'").splitlines()
    reader = csv.reader(lines)
    header = [name.strip().lower() for name in next(reader, [])]
    lacking = [name for name in needed if name not in header]
    if lacking:
        raise DataError(
            f"{path}, line 1: {','.join(header)!r} has no column {', '.join(lacking)}; expected: "
            f"a header '{expected}'"
        )
    for values in reader:
        if any(values):
            if len(values) < len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(values)} columns, but the header has "
                    f"{len(header)}: '{','.join(header)}'"
                )
            yield reader.line_num, dict(zip(header, values, strict=False))


def read_json(path: Path, expected: str) -> Any:
    """Reads a JSON file.

    Raises:
      DataError: the file does not exist or is not JSON.
    """
    try:
        return json.loads(read_text(path, expected))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON ({error}); expected: {expected}") from error


def bad_entry(path: Path, name: str, entry: Any, expected: str) -> DataError:
    """Returns the error for an entry of a JSON file that has another form."""
    text = json.dumps(entry)
    text = text if len(text) < 200 else text[:200] + " ..."
    return DataError(f"{path}: {name}: {text} is not of the form {expected}")
