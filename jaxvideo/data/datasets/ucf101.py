"""Form "ucf101": the lists of UCF101's archive `UCF101TrainTestSplits-RecognitionTask`."""

from __future__ import annotations

import os
import re

from jaxvideo.data.datasets.annotations import Annotations, Found, indexed
from jaxvideo.data.datasets.form import Candidate, Form, Source
from jaxvideo.data.datasets.text import read_lines
from jaxvideo.types import DataError

_LINE = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1"
LAYOUT = (
    f"trainlist01.txt with lines '{_LINE}', testlist01.txt, classInd.txt with lines "
    "'1 ApplyEyeMakeup'"
)


def _matches(file: Candidate) -> bool:
    return re.fullmatch(r"(train|test)list\d\d\.txt|classInd\.txt", file.path.name) is not None


def _read(source: Source) -> Annotations:
    folder = source.files[0].parent
    folds = sorted({int(path.stem[-2:]) for path in source.files if "list" in path.stem})
    if folds and source.fold not in folds:
        raise DataError(f"{folder}: there is no fold {source.fold}, only {folds}")
    numbers: dict[str, str] = {}
    for line, text in read_lines(folder / "classInd.txt", "1 ApplyEyeMakeup"):
        number, name = [*text.split(None, 1), ""][:2]
        if number != str(len(numbers) + 1) or not name:
            raise DataError(
                f"{folder / 'classInd.txt'}, line {line}: {text!r}; expected: "
                f"'{len(numbers) + 1} CLASS'"
            )
        numbers[name] = number
    found: Found = {}
    for split in ("train", "test"):
        path = folder / f"{split}list{source.fold:02d}.txt"
        for line, text in read_lines(path, _LINE):
            where = f"{path}, line {line}"
            name, number = [*text.split(None, 1), ""][:2]
            label, _, file = name.rpartition("/")
            if not (label and file):
                raise DataError(f"{where}: {text!r} is not of the form '{_LINE}'")
            # Only the training lists repeat the class as a number, from 1.
            if number and label in numbers and number.strip() != numbers[label]:
                raise DataError(
                    f"{where}: class number {number.strip()}, but in classInd.txt {label} is "
                    f"class {numbers[label]}"
                )
            found.setdefault(split, []).append((where, os.path.splitext(file)[0], [label]))
    return indexed(found, tuple(numbers))


FORM = Form(layout=LAYOUT, read=_read, matches_file=_matches, folds=True)
