"""Form "csv": one line `path label` per video."""

from __future__ import annotations

from pathlib import Path

from jaxvideo.data.datasets.annotations import Annotations, Found, indexed
from jaxvideo.data.datasets.form import Candidate, Form, Source, files_by_split, given_classes
from jaxvideo.data.datasets.text import PAIR, read_pairs

LAYOUT = f"train.csv and val.csv (or .tsv, .txt) with lines '{PAIR}'"


def _matches(file: Candidate) -> bool:
    return not file.is_json and file.split is not None


def _read(source: Source) -> Annotations:
    if source.lists:
        files = {split: Path(source.root, name) for split, name in source.lists.items()}
    else:
        files = files_by_split(source, LAYOUT)
    found: Found = {
        split: [(f"{path}, line {line}", name, [label]) for line, name, label in read_pairs(path)]
        for split, path in files.items()
    }
    return indexed(found, given_classes(source), anywhere=False)


FORM = Form(layout=LAYOUT, read=_read, matches_file=_matches, folds=True, lists=True)
