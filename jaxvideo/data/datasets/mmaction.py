"""Form "mmaction": frame lists and JSON lists of mmaction2. Its video lists have the form "csv"."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from jaxvideo.data.datasets.annotations import Annotations, Found, indexed, is_index
from jaxvideo.data.datasets.form import Candidate, Form, Source, files_by_split, given_classes
from jaxvideo.data.datasets.text import bad_entry, read_json, read_lines
from jaxvideo.data.video import VIDEOS
from jaxvideo.progress import LOG
from jaxvideo.types import DataError

_LINE = "path/of/frames 163 1"
LAYOUT = (
    f"train.txt and val.txt with lines '{_LINE}' (folder, frames, label), or "
    'train.json: [{"filename": "a.mp4", "label": 1}]'
)


def _matches(file: Candidate) -> bool:
    if file.is_json:
        named = '"filename"' in file.json_list or '"frame_dir"' in file.json_list
        return named and '"label"' in file.json_list
    numbered = re.fullmatch(r"(\S+)((?:\s+\d+){2,})", file.first_line)
    return file.split is not None and numbered is not None


def _read(source: Source) -> Annotations:
    found: Found = {}
    frames: dict[str, int] = {}
    for split, path in files_by_split(source, LAYOUT).items():
        if path.suffix == ".json":
            found[split] = list(_read_json(path, frames))
        else:
            found[split] = list(_read_lines(path, source, frames))
        counted = sum(name in frames for _, name, _ in found[split])
        columns = "path, frames, label" if counted else "path, label"
        LOG.info(f"{path}: {len(found[split]):,} rows, columns: {columns}")
    read = indexed(found, given_classes(source), anywhere=False)
    return dataclasses.replace(read, frames=frames)


def _read_lines(
    path: Path, source: Source, frames: dict[str, int]
) -> Iterator[tuple[str, str, list[str]]]:
    for line, text in read_lines(path, _LINE, exists=source.exists):
        name, *numbers = text.split()
        # The number of frames follows a folder, but not a video file.
        labels = numbers if name.lower().endswith(VIDEOS) else numbers[1:]
        if not labels or not all(map(is_index, labels)):
            raise DataError(
                f"{path}, line {line}: {text!r} is not of the form '{_LINE}' "
                "(folder, number of frames, label)"
            )
        if len(labels) < len(numbers):
            frames[name] = int(numbers[0])
        yield f"{path}, line {line}", name, labels


def _read_json(path: Path, frames: dict[str, int]) -> Iterator[tuple[str, str, list[str]]]:
    for entry in read_json(path, LAYOUT):
        try:
            name = entry.get("filename") or entry["frame_dir"]
            labels = entry["label"] if isinstance(entry["label"], list) else [entry["label"]]
            if entry.get("total_frames"):
                frames[name] = int(entry["total_frames"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise bad_entry(path, "an entry", entry, LAYOUT) from None
        yield f"{path}, {name}", name, [str(label) for label in labels]


FORM = Form(layout=LAYOUT, read=_read, matches_file=_matches, folds=True)
