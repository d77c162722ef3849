"""Form "sports1m": the partition files of Sports-1M with YouTube addresses."""

from __future__ import annotations

import re

from jaxvideo.data.datasets.annotations import Annotations, Found, indexed
from jaxvideo.data.datasets.form import Candidate, Form, Source, files_by_split
from jaxvideo.data.datasets.text import read_classes, read_lines
from jaxvideo.types import DataError

_LINE = "https://www.youtube.com/watch?v=ID 5,17"
LAYOUT = (
    f"train_partition.txt and test_partition.txt with lines '{_LINE}', labels.txt; videos ID.mp4"
)


def _matches(file: Candidate) -> bool:
    return re.match(r"https?://\S+\s+\d+(,\d+)*$", file.first_line) is not None


def _read(source: Source) -> Annotations:
    # The archive has `original/train_partition.txt` and `labels.txt`.
    beside = source.files[0].parent / "labels.txt"
    classes = read_classes(beside if beside.is_file() else source.root / "labels.txt")
    found: Found = {}
    for split, path in files_by_split(source, LAYOUT).items():
        rows = found.setdefault(split, [])
        for line, text in read_lines(path, _LINE):
            url, labels = [*text.rsplit(None, 1), ""][:2]
            _, known, video = url.strip().rpartition("v=")
            if not (known and video):
                raise DataError(f"{path}, line {line}: {text!r} is not of the form '{_LINE}'")
            rows.append((f"{path}, line {line}", video, labels.split(",")))
    return indexed(found, classes)


FORM = Form(layout=LAYOUT, read=_read, matches_file=_matches)
