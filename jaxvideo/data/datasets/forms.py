"""The forms that data sets are published in: one small function each, all in the table `FORMS`.

Nothing here looks whether a video is there; class folders (see `folders`) are their own list.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvideo.data.annotations import (
    LINE_FORMAT,
    SPLITS,
    Annotations,
    Row,
    classes_of,
    index_of,
    is_index,
    read_classes,
    read_lines,
    read_pairs,
    read_text,
    split_named,
    split_of,
)
from jaxvideo.data.decode import VIDEOS
from jaxvideo.data.folders import class_videos, divided
from jaxvideo.types import ConfigError, DataError


@dataclasses.dataclass(frozen=True)
class Source:
    """A data folder, and what a form's function is to read there.

    Attributes:
      files: the folder's annotation files of the form.
      fold: which of a data set's splits into training and test, from 1.
      lists: files of the splits by name, instead of `files`; for "csv".
      classes: name of the file with class names, for forms that have no list of their own.
    """

    root: Path
    files: tuple[Path, ...]
    fold: int = 1
    lists: Mapping[str, str] = dataclasses.field(default_factory=dict)
    classes: str = "classes.txt"


@dataclasses.dataclass(frozen=True)
class Form:
    """`read` for what `layout` shows; `folds`: whether there are several splits."""

    read: Callable[[Source], Annotations]
    layout: str
    folds: bool = False


def _table(path: Path, needed: Sequence[str], expected: str) -> Iterator[tuple[int, dict]]:
    """Numbered rows of a CSV with a header; column names in lower case."""
    lines = read_text(path, f"a header '{expected}'").splitlines()
    reader = csv.reader(lines)
    header = [name.strip().lower() for name in next(reader, [])]
    lacking = [name for name in needed if name not in header]
    if lacking:
        raise DataError(
            f"{path}, line 1: {','.join(header)!r} has no column {', '.join(lacking)}; expected "
            f"there: a header '{expected}'"
        )
    for values in reader:
        if any(values):
            if len(values) < len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(values)} columns of {len(header)}, "
                    f"'{','.join(header)}'"
                )
            yield reader.line_num, dict(zip(header, values, strict=False))


def _json(path: Path, expected: str) -> Any:
    try:
        return json.loads(read_text(path, expected))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON ({error}); expected there: {expected}") from error


def _wrong(path: Path, what: str, entry: Any, form: str) -> DataError:
    text = json.dumps(entry)
    text = text if len(text) < 200 else text[:200] + " ..."
    return DataError(f"{path}: {what}, {text}, is not of the form {FORMS[form].layout}")


def _database(path: Path, form: str) -> dict[str, Any]:
    data = _json(path, FORMS[form].layout)
    if not isinstance(data.get("database"), dict):
        raise DataError(f"{path} is not of the form {FORMS[form].layout}")
    return data


def _by_split(source: Source, form: str) -> dict[str, Path]:
    """The file of each split, by their names and the fold."""
    files: dict[str, list[Path]] = {}
    folds = set()
    for path in source.files:
        split, fold = split_of(path.name)
        if fold is not None:
            folds.add(fold)
        if split and fold in (None, source.fold):
            files.setdefault(split, []).append(path)
    if source.fold not in folds and (folds or source.fold > 1):
        some = ", ".join(map(str, sorted(folds))) or "1"
        raise DataError(f"{source.root}: there is no fold {source.fold}, only {some}")
    if not files:
        names = ", ".join(path.name for path in source.files)
        raise DataError(
            f"{source.root}: no name of {names} says 'train', 'val' or 'test'; expected: "
            f"{FORMS[form].layout}"
        )
    return {split: _only(paths, f"the {split} split") for split, paths in files.items()}


def _only(paths: Sequence[Path], what: str) -> Path:
    if len(paths) != 1:
        raise DataError(f"several files for {what}: {', '.join(map(str, paths))}; keep one")
    return paths[0]


# --- The forms ----------------------------------------------------------------------------

# (file and line, name, labels as text) of the videos of each split.
_Found = dict[str, list[tuple[str, str, Sequence[str]]]]


def _indexed(found: _Found, classes: tuple[str, ...] | None, anywhere: bool = True) -> Annotations:
    """Labels by number; without a list of classes, they are what the training labels say."""
    first = found[next(split for split in SPLITS if split in found)] if found else []
    classes = classes or classes_of(label for *_, labels in first for label in labels)
    find = index_of(classes)
    splits = {
        split: [
            Row(name, tuple(find(label, where) for label in labels)) for where, name, labels in rows
        ]
        for split, rows in found.items()
    }
    return Annotations(classes, splits, anywhere)


def _given_classes(source: Source) -> tuple[str, ...] | None:
    path = source.root / source.classes
    return read_classes(path) if source.classes and path.is_file() else None


def _read_csv(source: Source) -> Annotations:
    if source.lists:
        files = {split: Path(source.root, name) for split, name in source.lists.items()}
    else:
        files = _by_split(source, "csv")
    found: _Found = {
        split: [(f"{path}, line {line}", name, [label]) for line, name, label in read_pairs(path)]
        for split, path in files.items()
    }
    return _indexed(found, _given_classes(source), anywhere=False)


_KINETICS = "label,youtube_id,time_start,time_end,split"


def _read_kinetics(source: Source) -> Annotations:
    alone = len(source.files) == 1 and split_of(source.files[0].name)[0] is None
    files = {"": source.files[0]} if alone else _by_split(source, "kinetics")
    found: _Found = {}
    for own, path in files.items():
        # The test file of Kinetics-400 has no labels, and so no use here.
        needed = _KINETICS.split(",")[own == "test" : -1 if own else None]
        for line, row in _table(path, needed, _KINETICS):
            where = f"{path}, line {line}"
            split = own or split_named(row["split"])
            if split is None:
                known = ", ".join(word for words in SPLITS.values() for word in words)
                raise DataError(f"{where}: the split {row['split']!r} is none of {known}")
            try:
                start, end = (round(float(row[key])) for key in ("time_start", "time_end"))
            except ValueError:
                raise DataError(f"{where}: no times; expected there: {_KINETICS}") from None
            if row.get("label"):
                name = f"{row['youtube_id']}_{start:06d}_{end:06d}"
                found.setdefault(split, []).append((where, name, [row["label"]]))
    return _indexed(found, _given_classes(source))


_UCF = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1"


def _read_ucf101(source: Source) -> Annotations:
    folder = source.files[0].parent
    folds = sorted({int(path.stem[-2:]) for path in source.files if "list" in path.stem})
    if folds and source.fold not in folds:
        raise DataError(f"{folder}: there is no fold {source.fold}, only {folds}")
    numbers: dict[str, str] = {}
    for line, text in read_lines(folder / "classInd.txt", "1 ApplyEyeMakeup"):
        number, _, name = text.partition(" ")
        if number != str(len(numbers) + 1) or not name:
            raise DataError(
                f"{folder / 'classInd.txt'}, line {line}: {text!r}; expected there: "
                f"'{len(numbers) + 1} CLASS'"
            )
        numbers[name] = number
    found: _Found = {}
    for split in ("train", "test"):
        path = folder / f"{split}list{source.fold:02d}.txt"
        for line, text in read_lines(path, _UCF):
            where = f"{path}, line {line}"
            name, _, number = text.partition(" ")
            label, _, file = name.rpartition("/")
            if not (label and file):
                raise DataError(f"{where}: {text!r} is not of the form '{_UCF}'")
            # Only the training lists repeat the class as a number, which counts from 1.
            if number and label in numbers and number.strip() != numbers[label]:
                raise DataError(f"{where}: {label} is class {numbers[label]} in classInd.txt")
            found.setdefault(split, []).append((where, os.path.splitext(file)[0], [label]))
    return _indexed(found, tuple(numbers))


_HMDB = "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1"


def _read_hmdb51(source: Source) -> Annotations:
    ending = f"_test_split{source.fold}"
    files = {path.stem.removesuffix(ending): path for path in source.files if ending in path.stem}
    if not files:
        raise DataError(f"{source.files[0].parent}: there is no file CLASS{ending}.txt")
    found: _Found = {"train": [], "test": []}
    for label, path in sorted(files.items()):
        # Some videos' names begin with '#'.
        for line, text in read_lines(path, _HMDB, comment=None):
            file, _, use = text.rpartition(" ")
            if use not in ("0", "1", "2") or not file:
                raise DataError(
                    f"{path}, line {line}: {text!r} is not of the form '{_HMDB}' (1 is training, "
                    "2 test, 0 neither)"
                )
            if use != "0":
                row = (f"{path}, line {line}", os.path.splitext(file.strip())[0], [label])
                found["train" if use == "1" else "test"].append(row)
    return _indexed(found, tuple(sorted(files)))


def _read_activitynet(source: Source) -> Annotations:
    """Whole videos, with the distinct labels of their segments, the first one first."""
    path = _only(source.files, "ActivityNet")
    found: _Found = {}
    for name, entry in _database(path, "activitynet")["database"].items():
        try:
            split = split_named(entry["subset"])
            labels = list(dict.fromkeys(part["label"] for part in entry["annotations"]))
        except (KeyError, TypeError, AttributeError):
            raise _wrong(path, name, entry, "activitynet") from None
        if split and labels:
            found.setdefault(split, []).append((f"{path}, {name}", name, labels))
    return _indexed(found, _given_classes(source))


_SPORTS = "https://www.youtube.com/watch?v=ID 5,17"


def _read_sports1m(source: Source) -> Annotations:
    # The archive has `original/train_partition.txt` and `labels.txt`.
    beside = source.files[0].parent / "labels.txt"
    classes = read_classes(beside if beside.is_file() else source.root / "labels.txt")
    found: _Found = {}
    for split, path in _by_split(source, "sports1m").items():
        rows = found.setdefault(split, [])
        for line, text in read_lines(path, _SPORTS):
            url, _, labels = text.rpartition(" ")
            _, known, video = url.strip().rpartition("v=")
            if not (known and video):
                raise DataError(f"{path}, line {line}: {text!r} is not of the form '{_SPORTS}'")
            rows.append((f"{path}, line {line}", video, labels.split(",")))
    return _indexed(found, classes)


def _read_ssv2(source: Source) -> Annotations:
    shape = '{"Holding something next to something": "61", ...}'
    folder = source.files[0].parent
    candidates = sorted(folder.glob("*labels.json"))
    path = _only(candidates, "labels") if candidates else folder / "labels.json"
    numbers = _json(path, shape)
    try:
        classes = tuple(sorted(numbers, key=lambda name: int(numbers[name])))
        whole = sorted(map(int, numbers.values())) == list(range(len(classes)))
    except (TypeError, ValueError, AttributeError):
        raise DataError(f"{path} is not of the form {shape}") from None
    if not whole:
        raise DataError(f"{path}: the indices are not 0 to {len(classes) - 1}")
    found: _Found = {}
    for split, path in _by_split(source, "ssv2").items():
        for entry in _json(path, FORMS["ssv2"].layout):
            try:
                # [something] in a template is something in the list of classes.
                name, label = str(entry["id"]), re.sub(r"[\[\]]", "", entry["template"])
            except (KeyError, TypeError):
                raise _wrong(path, "an entry", entry, "ssv2") from None
            found.setdefault(split, []).append((f"{path}, video {name}", name, [label]))
    return _indexed(found, classes)


_ACTIONS = "path,actions"


def _read_actions(source: Source) -> Annotations:
    """Several labels per video, `a;b`, each perhaps with the seconds of its beginning and end."""
    columns: set[str] = set()
    found: _Found = {}
    for split, path in _by_split(source, "actions").items():
        for line, row in _table(path, ["actions"], _ACTIONS):
            column = next((c for c in ("path", "filename", "video", "id") if row.get(c)), None)
            if column is None:
                raise DataError(f"{path}, line {line}: no path or id; expected '{_ACTIONS}'")
            columns.add(column)
            parts = [part.strip() for part in row["actions"].split(";") if part.strip()]
            labels = dict.fromkeys(re.sub(r"(\s+[\d.]+){2}$", "", part) for part in parts)
            # A video without any is no example of a class.
            if labels:
                row = (f"{path}, line {line}", row[column], list(labels))
                found.setdefault(split, []).append(row)
    classes, lists = _given_classes(source), sorted(source.files[0].parent.glob("*_classes.txt"))
    if classes is None and lists:
        # Charades: "c000 Holding some clothes".
        lines = read_lines(_only(lists, "classes"), "c000 Holding some clothes")
        names = {text.partition(" ")[0]: text.partition(" ")[2] for _, text in lines}
        classes = tuple(names.values())
        for split, rows in found.items():
            found[split] = [
                (w, name, [names.get(x, x) for x in labels]) for w, name, labels in rows
            ]
    return _indexed(found, classes, anywhere=columns == {"id"})


def _read_hara(source: Source) -> Annotations:
    folds = {path: re.search(r"_0?([1-9])\.json$", path.name) for path in source.files}
    files = [path for path, fold in folds.items() if int(fold[1] if fold else 1) == source.fold]
    if not files:
        raise DataError(f"{source.files[0].parent}: there is no NAME_{source.fold:02d}.json")
    path = _only(files, f"fold {source.fold}")
    data = _database(path, "hara")
    classes = data.get("labels")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise _wrong(path, "labels", classes, "hara")
    found: _Found = {}
    for name, entry in data["database"].items():
        try:
            split, label = split_named(entry["subset"]), entry["annotations"].get("label")
        except (KeyError, TypeError, AttributeError):
            raise _wrong(path, name, entry, "hara") from None
        if split and label is not None:
            found.setdefault(split, []).append((f"{path}, {name}", name, [label]))
    return _indexed(found, tuple(classes))


def _read_mmaction(source: Source) -> Annotations:
    found: _Found = {}
    for split, path in _by_split(source, "mmaction").items():
        read = _mmaction_json if path.suffix == ".json" else _mmaction_lines
        found[split] = list(read(path))
    return _indexed(found, _given_classes(source), anywhere=False)


def _mmaction_lines(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    for line, text in read_lines(path, "path/of/frames 163 1"):
        name, *numbers = text.split()
        # The number of frames, which folders have and files have not.
        labels = numbers if name.lower().endswith(VIDEOS) else numbers[1:]
        if not labels or not all(map(is_index, labels)):
            raise DataError(
                f"{path}, line {line}: {text!r} is not of the form 'path/of/frames 163 1' "
                "(folder, number of frames, label)"
            )
        yield f"{path}, line {line}", name, labels


def _mmaction_json(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    for entry in _json(path, FORMS["mmaction"].layout):
        try:
            name = entry.get("filename") or entry["frame_dir"]
            labels = entry["label"] if isinstance(entry["label"], list) else [entry["label"]]
        except (KeyError, TypeError, AttributeError):
            raise _wrong(path, "an entry", entry, "mmaction") from None
        yield f"{path}, {name}", name, [str(label) for label in labels]


def _read_folders(source: Source) -> Annotations:
    below: dict[str, dict[str, list[str]]] = {}
    for split, name, video in class_videos(source.root):
        below.setdefault(split, {}).setdefault(name, []).append(video)
    if not {"", "train"} & set(below):
        raise DataError(
            f"{source.root}: no training folder of videos or of folders of frames; expected: "
            f"{FORMS['folders'].layout}"
        )
    if "" in below:
        below = divided(below[""], source.fold)
    found: _Found = {
        split: [
            (f"{source.root}, {split}", video, [name])
            for name, videos in sorted(folders.items())
            for video in videos
        ]
        for split, folders in below.items()
    }
    # Folders may be called 1, 2, 3, which are names all the same.
    classes = _given_classes(source) or tuple(sorted(below["train"]))
    return _indexed(found, classes, anywhere=False)


#: Every form that is known.
FORMS = {
    "csv": Form(
        _read_csv, f"train.csv and val.csv (or .tsv, .txt) with lines '{LINE_FORMAT}'", folds=True
    ),
    "kinetics": Form(
        _read_kinetics,
        f"train.csv and val.csv with the header '{_KINETICS}'; videos ID_000010_000020.mp4",
    ),
    "ucf101": Form(
        _read_ucf101,
        f"trainlist01.txt with lines '{_UCF}', testlist01.txt, classInd.txt with lines "
        "'1 ApplyEyeMakeup'",
        folds=True,
    ),
    "hmdb51": Form(_read_hmdb51, f"brush_hair_test_split1.txt, ..., lines '{_HMDB}'", folds=True),
    "activitynet": Form(
        _read_activitynet,
        'activity_net.v1-3.json: {"database": {ID: {"subset": "training", "annotations": '
        '[{"label": "Rafting", "segment": [1.0, 9.5]}]}}}; videos v_ID.mp4',
    ),
    "sports1m": Form(
        _read_sports1m,
        f"train_partition.txt and test_partition.txt with lines '{_SPORTS}', labels.txt; "
        "videos ID.mp4",
    ),
    "ssv2": Form(
        _read_ssv2,
        'train.json and validation.json: [{"id": "78687", "template": "Holding [something]", '
        '...}], labels.json: {"Holding something": "0"}; videos 78687.webm',
    ),
    "actions": Form(
        _read_actions,
        f"train.csv and val.csv with the header '{_ACTIONS}' (or id,actions) and lines "
        "'a.mp4,run;jump' or 'a,c092 11.9 21.2;c147 0.0 12.6'",
    ),
    "hara": Form(
        _read_hara,
        'NAME.json or NAME_01.json: {"labels": ["archery"], "database": {ID: {"subset": '
        '"training", "annotations": {"label": "archery"}}}}; videos or frames archery/ID',
        folds=True,
    ),
    "mmaction": Form(
        _read_mmaction,
        "train.txt and val.txt with lines 'path/of/frames 163 1' (folder, frames, label), or "
        'train.json: [{"filename": "a.mp4", "label": 1}]',
        folds=True,
    ),
    "folders": Form(
        _read_folders,
        "train/CLASS/a.mp4 and val/CLASS/b.mp4, or CLASS/a.mp4, of which a fifth is validated on",
        folds=True,
    ),
}


def form_named(name: str) -> Form:
    """A row of `FORMS`.

    Raises:
      ConfigError: no form has the name.
    """
    if name not in FORMS:
        raise ConfigError(f"form {name!r}: allowed are auto, {', '.join(FORMS)}")
    return FORMS[name]
