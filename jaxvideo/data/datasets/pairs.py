"""Form "csv": one line `path label` per video."""

from __future__ import annotations

from pathlib import Path

from jaxvideo.data.datasets.annotations import (
    Annotations,
    Found,
    indexed,
    split_named,
    split_of,
)
from jaxvideo.data.datasets.form import Candidate, Form, Source, files_by_split, given_classes
from jaxvideo.data.datasets.pair_lists import has_pair_header, read_pairs
from jaxvideo.data.datasets.text import PAIR
from jaxvideo.progress import LOG
from jaxvideo.types import DataError

LAYOUT = (
    f"train.csv and val.csv (or .tsv, .txt) with lines '{PAIR}', or one file with the header "
    "'path,label,split'"
)


def _matches(file: Candidate) -> bool:
    return not file.is_json and (file.split is not None or has_pair_header(file.first_line))


def _read(source: Source) -> Annotations:
    files = _files(source)
    found: Found = {}
    for split, path in files.items():
        listed = read_pairs(path, source.exists)
        LOG.info(f"{path}: {listed.reading}")
        if not listed.labeled:
            if split != "test" or source.lists:
                raise DataError(f"{path}: {listed.reading}; expected: lines '{PAIR}'")
            LOG.info(f"{path}: left out, because it has no labels")
            continue
        for pair in listed.pairs:
            where = f"{path}, line {pair.line}"
            own = split_named(pair.split) if pair.split else split
            if not own or (split and own != split):
                raise DataError(
                    f"{where}: the split is {pair.split!r}, but the file is "
                    + (f"the {split} list" if split else "without a split in its name")
                    + "; allowed are train, val and test"
                )
            found.setdefault(own, []).append((where, pair.name, [pair.label]))
    return indexed(found, given_classes(source), anywhere=False)


def _files(source: Source) -> dict[str, Path]:
    """Returns the files by split; "" for a single file with a column of splits."""
    if source.lists:
        return {split: Path(source.root, name) for split, name in source.lists.items()}
    if len(source.files) == 1 and split_of(source.files[0].name)[0] is None:
        return {"": source.files[0]}
    return files_by_split(source, LAYOUT)


FORM = Form(layout=LAYOUT, read=_read, matches_file=_matches, folds=True, lists=True)
