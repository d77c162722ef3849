"""Form "kinetics": CSV files of Kinetics with YouTube id and times."""

from __future__ import annotations

from jaxvideo.data.datasets.annotations import (
    SPLITS,
    Annotations,
    Found,
    indexed,
    split_named,
    split_of,
)
from jaxvideo.data.datasets.form import Candidate, Form, Source, files_by_split, given_classes
from jaxvideo.data.datasets.text import columns, read_table
from jaxvideo.types import DataError

_HEADER = "label,youtube_id,time_start,time_end,split"
LAYOUT = f"train.csv and val.csv with the header '{_HEADER}'; videos ID_000010_000020.mp4"


def _matches(file: Candidate) -> bool:
    return {"youtube_id", "time_start"} <= columns(file.first_line)


def _read(source: Source) -> Annotations:
    alone = len(source.files) == 1 and split_of(source.files[0].name)[0] is None
    files = {"": source.files[0]} if alone else files_by_split(source, LAYOUT)
    found: Found = {}
    for own, path in files.items():
        # The test file of Kinetics-400 has no labels; its videos are left out.
        needed = _HEADER.split(",")[own == "test" : -1 if own else None]
        for line, row in read_table(path, needed, _HEADER):
            where = f"{path}, line {line}"
            split = own or split_named(row["split"])
            if split is None:
                known = ", ".join(word for words in SPLITS.values() for word in words)
                raise DataError(f"{where}: unknown split {row['split']!r}; allowed are {known}")
            try:
                start, end = (round(float(row[key])) for key in ("time_start", "time_end"))
            except ValueError:
                raise DataError(
                    f"{where}: time_start and time_end are not numbers; expected: {_HEADER}"
                ) from None
            if row.get("label"):
                name = f"{row['youtube_id']}_{start:06d}_{end:06d}"
                found.setdefault(split, []).append((where, name, [row["label"]]))
    return indexed(found, given_classes(source))


FORM = Form(layout=LAYOUT, read=_read, matches_file=_matches)
