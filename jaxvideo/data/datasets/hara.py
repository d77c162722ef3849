"""Form "hara": the JSON files of 3D-ResNets-PyTorch (Hara et al.), one per fold."""

from __future__ import annotations

import re

from jaxvideo.data.datasets.annotations import Annotations, Found, indexed, split_named
from jaxvideo.data.datasets.form import Candidate, Form, Source, only_file
from jaxvideo.data.datasets.text import bad_entry, read_json
from jaxvideo.types import DataError

LAYOUT = (
    'NAME.json or NAME_01.json: {"labels": ["archery"], "database": {ID: {"subset": '
    '"training", "annotations": {"label": "archery"}}}}; videos or frames archery/ID'
)


def _matches(file: Candidate) -> bool:
    return file.database("{")


def _read(source: Source) -> Annotations:
    folds = {path: re.search(r"_0?([1-9])\.json$", path.name) for path in source.files}
    files = [path for path, fold in folds.items() if int(fold[1] if fold else 1) == source.fold]
    if not files:
        raise DataError(f"{source.files[0].parent}: there is no NAME_{source.fold:02d}.json")
    path = only_file(files, f"fold {source.fold}")
    data = read_json(path, LAYOUT)
    if not isinstance(data.get("database"), dict):
        raise DataError(f"{path} is not of the form {LAYOUT}")
    classes = data.get("labels")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise bad_entry(path, "labels", classes, LAYOUT)
    found: Found = {}
    for name, entry in data["database"].items():
        try:
            split, label = split_named(entry["subset"]), entry["annotations"].get("label")
        except (KeyError, TypeError, AttributeError):
            raise bad_entry(path, name, entry, LAYOUT) from None
        if split and label is not None:
            found.setdefault(split, []).append((f"{path}, {name}", name, [label]))
    return indexed(found, tuple(classes))


FORM = Form(layout=LAYOUT, read=_read, matches_file=_matches, folds=True)
