"""Form "activitynet": the JSON file of ActivityNet. A video has the labels of its segments."""

from __future__ import annotations

from jaxvideo.data.datasets.annotations import Annotations, Found, indexed, split_named
from jaxvideo.data.datasets.form import Candidate, Form, Source, given_classes, only_file
from jaxvideo.data.datasets.text import bad_entry, read_json
from jaxvideo.types import DataError

LAYOUT = (
    'activity_net.v1-3.json: {"database": {ID: {"subset": "training", "annotations": '
    '[{"label": "Rafting", "segment": [1.0, 9.5]}]}}}; videos v_ID.mp4'
)


def _matches(file: Candidate) -> bool:
    return file.database("[")


def _read(source: Source) -> Annotations:
    path = only_file(source.files, "ActivityNet")
    data = read_json(path, LAYOUT)
    if not isinstance(data.get("database"), dict):
        raise DataError(f"{path} is not of the form {LAYOUT}")
    found: Found = {}
    for name, entry in data["database"].items():
        try:
            split = split_named(entry["subset"])
            # Distinct labels in the order of the segments.
            labels = list(dict.fromkeys(part["label"] for part in entry["annotations"]))
        except (KeyError, TypeError, AttributeError):
            raise bad_entry(path, name, entry, LAYOUT) from None
        if split and labels:
            found.setdefault(split, []).append((f"{path}, {name}", name, labels))
    return indexed(found, given_classes(source))


FORM = Form(layout=LAYOUT, read=_read, matches_file=_matches)
