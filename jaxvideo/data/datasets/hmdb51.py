"""Form "hmdb51": the lists of HMDB51's archive `test_train_splits`, one per class and fold."""

from __future__ import annotations

import os
import re

from jaxvideo.data.datasets.annotations import Annotations, Found, indexed
from jaxvideo.data.datasets.form import Candidate, Form, Source
from jaxvideo.data.datasets.text import read_lines
from jaxvideo.types import DataError

_LINE = "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1"
LAYOUT = f"brush_hair_test_split1.txt, ..., lines '{_LINE}'"


def _matches(file: Candidate) -> bool:
    return re.fullmatch(r".+_test_split\d\.txt", file.path.name) is not None


def _read(source: Source) -> Annotations:
    ending = f"_test_split{source.fold}"
    files = {path.stem.removesuffix(ending): path for path in source.files if ending in path.stem}
    if not files:
        raise DataError(f"{source.files[0].parent}: there is no file CLASS{ending}.txt")
    found: Found = {"train": [], "test": []}
    for label, path in sorted(files.items()):
        # The names of some videos begin with '#'.
        for line, text in read_lines(path, _LINE, comment=None):
            file, use = [*text.rsplit(None, 1), ""][:2]
            if use not in ("0", "1", "2") or not file:
                raise DataError(
                    f"{path}, line {line}: {text!r} is not of the form '{_LINE}' (1 is training, "
                    "2 test, 0 neither)"
                )
            if use != "0":
                row = (f"{path}, line {line}", os.path.splitext(file.strip())[0], [label])
                found["train" if use == "1" else "test"].append(row)
    return indexed(found, tuple(sorted(files)))


FORM = Form(layout=LAYOUT, read=_read, matches_file=_matches, folds=True)
