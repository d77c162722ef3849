"""Form "ssv2": the JSON files of Something-Something V2."""

from __future__ import annotations

import re

from jaxvideo.data.datasets.annotations import Annotations, Found, indexed
from jaxvideo.data.datasets.form import Candidate, Form, Source, files_by_split, only_file
from jaxvideo.data.datasets.text import bad_entry, read_json
from jaxvideo.types import DataError

_LABELS = '{"Holding something next to something": "61", ...}'
LAYOUT = (
    'train.json and validation.json: [{"id": "78687", "template": "Holding [something]", '
    '...}], labels.json: {"Holding something": "0"}; videos 78687.webm'
)


def _matches(file: Candidate) -> bool:
    return '"template"' in file.json_list


def _read(source: Source) -> Annotations:
    folder = source.files[0].parent
    lists = sorted(folder.glob("*labels.json"))
    path = only_file(lists, "labels") if lists else folder / "labels.json"
    numbers = read_json(path, _LABELS)
    try:
        classes = tuple(sorted(numbers, key=lambda name: int(numbers[name])))
        whole = sorted(map(int, numbers.values())) == list(range(len(classes)))
    except (TypeError, ValueError, AttributeError):
        raise DataError(f"{path} is not of the form {_LABELS}") from None
    if not whole:
        raise DataError(f"{path}: the indices are not 0 to {len(classes) - 1}")
    found: Found = {}
    for split, path in files_by_split(source, LAYOUT).items():
        for entry in read_json(path, LAYOUT):
            try:
                # `[something]` in a template is `something` in the list of classes.
                name, label = str(entry["id"]), re.sub(r"[\[\]]", "", entry["template"])
            except (KeyError, TypeError):
                raise bad_entry(path, "an entry", entry, LAYOUT) from None
            found.setdefault(split, []).append((f"{path}, video {name}", name, [label]))
    return indexed(found, classes)


FORM = Form(layout=LAYOUT, read=_read, matches_file=_matches)
