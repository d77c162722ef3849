"""Read annotation files as lines, columns or JSON, with errors that name file and line."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxvideo.types import DataError

#: Form of a line that `read_pairs` reads.
PAIR = "path/of/video.mp4 label"


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


def read_lines(path: Path, form: str, comment: str | None = "#") -> list[tuple[int, str]]:
    """Reads the numbers and texts of the lines that are neither empty nor a comment.

    Args:
      path: the file.
      form: an example of a line for the error message.
      comment: first character of a comment line; None if there are no comments.

    Raises:
      DataError: the file does not exist, is not text, or has no such line.
    """
    content = read_text(path, f"lines '{form}'")
    numbered = [(i, line.strip()) for i, line in enumerate(content.splitlines(), start=1)]
    lines = [(i, text) for i, text in numbered if text and not (comment and text[0] == comment)]
    if not lines:
        raise DataError(f"{path} is empty; expected: lines '{form}'")
    return lines


def read_pairs(path: Path) -> list[tuple[int, str, str]]:
    """Reads (line number, video, label) of lines `video label`.

    The separator is a tab if the line has one, otherwise the last comma, otherwise the last space.

    Raises:
      DataError: the file does not exist or is empty, or a line has another form.
    """
    rows = []
    for number, text in read_lines(path, PAIR):
        separator = "\t" if "\t" in text else "," if "," in text else " "
        name, found, label = (part.strip() for part in text.rpartition(separator))
        if not (name and label) or (separator == " " and not found and " " not in text):
            raise DataError(
                f"{path}, line {number}: {text!r} is not of the form '{PAIR}' "
                "(separated by a tab, a comma or a space)"
            )
        rows.append((number, name, label))
    return rows


def read_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Reads class names, one per line, in the order of their indices.

    Raises:
      DataError: the file does not exist or is empty, or a name occurs twice.
    """
    names = tuple(text for _, text in read_lines(Path(path), "one class name per line"))
    if len(set(names)) != len(names):
        twice = sorted({n for n in names if names.count(n) > 1})
        raise DataError(f"{path}: class names occur twice: {', '.join(twice[:5])}")
    return names


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
