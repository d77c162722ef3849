"""Form "actions": CSV files with several labels per video, as in Charades."""

from __future__ import annotations

import re

from jaxvideo.data.datasets.annotations import Annotations, Found, indexed
from jaxvideo.data.datasets.form import (
    Candidate,
    Form,
    Source,
    files_by_split,
    given_classes,
    only_file,
)
from jaxvideo.data.datasets.text import columns, read_lines, read_table
from jaxvideo.types import DataError

_HEADER = "path,actions"
LAYOUT = (
    f"train.csv and val.csv with the header '{_HEADER}' (or id,actions) and lines "
    "'a.mp4,run;jump' or 'a,c092 11.9 21.2;c147 0.0 12.6'"
)


def _matches(file: Candidate) -> bool:
    return "actions" in columns(file.first_line)


def _read(source: Source) -> Annotations:
    """Reads labels `a;b`, each optionally followed by the seconds of its start and end."""
    used: set[str] = set()
    found: Found = {}
    for split, path in files_by_split(source, LAYOUT).items():
        for line, row in read_table(path, ["actions"], _HEADER):
            column = next((c for c in ("path", "filename", "video", "id") if row.get(c)), None)
            if column is None:
                raise DataError(f"{path}, line {line}: no path or id; expected: '{_HEADER}'")
            used.add(column)
            parts = [part.strip() for part in row["actions"].split(";") if part.strip()]
            labels = dict.fromkeys(re.sub(r"(\s+[\d.]+){2}$", "", part) for part in parts)
            # A video without labels is left out: it is not an example of any class.
            if labels:
                row = (f"{path}, line {line}", row[column], list(labels))
                found.setdefault(split, []).append(row)
    classes, lists = given_classes(source), sorted(source.files[0].parent.glob("*_classes.txt"))
    if classes is None and lists:
        # Charades has lines "c000 Holding some clothes".
        lines = read_lines(only_file(lists, "classes"), "c000 Holding some clothes")
        names = {text.partition(" ")[0]: text.partition(" ")[2] for _, text in lines}
        classes = tuple(names.values())
        for split, rows in found.items():
            found[split] = [
                (w, name, [names.get(x, x) for x in labels]) for w, name, labels in rows
            ]
    return indexed(found, classes, anywhere=used == {"id"})


FORM = Form(layout=LAYOUT, read=_read, matches_file=_matches)
