"""Lists of labeled videos: from a data folder in any form that `forms.FORMS` knows.

`load_splits` finds out the form, reads its files and looks which videos are there, by one listing
per folder: a look at each of a quarter of a million files takes minutes on a network disk. What
is not there, and what the quarantine list names, is left out, and remembered.

The plainest form has a line per video, `path label`, separated by a tab, else by the last comma,
else by the last space; the path is relative to the data root (or absolute), the label a class name
or an index from 0. `#` starts a comment line. Class names in the order of their indices stand in a
file of their own, one per line (`classes.txt`); without it they are what the labels say.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from jaxvideo.data.annotations import (
    LINE_FORMAT,
    SPLITS,
    Annotations,
    Row,
    annotation_files,
    classes_of,
    index_of,
    read_classes,
    read_pairs,
)
from jaxvideo.data.decode import VideoFile, open_video
from jaxvideo.data.folders import class_videos, is_video
from jaxvideo.data.forms import FORMS, Source, form_named
from jaxvideo.types import ConfigError, DataError

__all__ = [
    "VideoDataset",
    "autodetect",
    "load_dataset",
    "load_splits",
    "read_annotations",
    "read_classes",
]

QUARANTINE = "quarantine.txt"

# Where the paths of a list may begin, besides the data folder: mmaction2 keeps videos so.
_BASES = ("", "{split}", "videos", "videos_{split}", "rawframes", "rawframes_{split}")

# Folders deeper than this hold no videos but loops of links.
_DEPTH = 6


@dataclasses.dataclass(frozen=True)
class VideoDataset:
    """Labeled videos: `paths[i]` has class `classes[labels[i]]`.

    Attributes:
      label_sets: all labels of each video where some have several, `labels` being the first;
        otherwise empty.
      missing: annotated videos that are not on the disk, as the annotations name them.
      quarantined: paths that the quarantine list leaves out.
    """

    paths: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    label_sets: tuple[tuple[int, ...], ...] = ()
    missing: tuple[str, ...] = ()
    quarantined: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def annotated(self) -> int:
        """Videos that the annotations name."""
        return len(self) + len(self.missing) + len(self.quarantined)

    @property
    def coverage(self) -> str:
        """How many of the annotated videos there are, in words."""
        text = f"{self.annotated - len(self.missing):,} of {self.annotated:,} videos are there"
        if self.missing:
            more = ", ..." if len(self.missing) > 3 else ""
            text += f" (not {', '.join(self.missing[:3])}{more})"
        return text + f", {len(self.quarantined):,} in quarantine" * bool(self.quarantined)

    def open(self, index: int) -> contextlib.AbstractContextManager[VideoFile]:
        """The `index`-th video, open while the context lasts; VideoError if it cannot be read."""
        return open_video(self.paths[index])


def read_annotations(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
) -> VideoDataset:
    """A data set from one annotation file; videos that are not there stay in it.

    Args:
      path: the annotation file; relative to `root` unless absolute.
      root: the folder that the paths in it are relative to.
      classes: the class names; None takes them from the file's own labels (names sorted, or
        the indices 0 ... max).

    Raises:
      DataError: a folder or file is missing or empty, a line has another form, or a label is
        outside the classes: the message names file and line. Also if no video exists.
    """
    root, path = Path(root), Path(root, path)
    if not root.is_dir():
        raise DataError(
            f"the data folder {root} does not exist; expected in it: {path.name} with lines "
            f"'{LINE_FORMAT}'"
        )
    rows = read_pairs(path)
    if classes is None:
        classes = classes_of(label for *_, label in rows)
    find = index_of(classes)
    labels = tuple(find(label, f"{path}, line {number}") for number, _, label in rows)
    paths = tuple(str(root / name) for _, name, _ in rows)
    some = paths[:: max(len(paths) // 20, 1)]
    if not any(os.path.exists(p) for p in some):
        raise DataError(
            f"{path}: none of {len(some)} videos looked for exists, for instance {some[0]}; "
            f"are the paths in it relative to {root}?"
        )
    return VideoDataset(paths, labels, tuple(classes))


def autodetect(root: str | os.PathLike[str]) -> str:
    """The form of a data folder, a row of `forms.FORMS`.

    Annotation files go before class folders.

    Raises:
      DataError: there is none, or files of several forms; it names what it saw.
    """
    root = _folder(Path(root), "auto")
    with _readable(root):
        files = annotation_files(root)
    if len(files) == 1:
        return next(iter(files))
    if files:
        seen = "; ".join(f"{form}: {_names(root, paths)}" for form, paths in files.items())
        raise DataError(
            f"{root} holds annotations of several forms ({seen}); say which one, for instance "
            f"{next(iter(files))!r}"
        )
    with _readable(root):
        if next(class_videos(root), None):
            return "folders"
    inside = sorted(os.listdir(root))
    seen = ", ".join(inside[:8]) + (", ..." if len(inside) > 8 else "") if inside else "nothing"
    known = "\n".join(f"  {name:<12} {form.layout}" for name, form in FORMS.items())
    raise DataError(f"{root} holds {seen}, and no data set of a known form:\n{known}")


def load_dataset(
    root: str | os.PathLike[str], form: str = "auto", split: str = "train", **how
) -> VideoDataset:
    """One split of a data folder; the other arguments are those of `load_splits`.

    Raises:
      ConfigError, DataError: as `load_splits`; also if there is no such split or none of its
        videos.
    """
    if split not in SPLITS:
        raise ConfigError(f"split {split!r}: allowed are {', '.join(SPLITS)}")
    return pick_split(load_splits(root, form, **how), root, split)


def load_splits(
    root: str | os.PathLike[str],
    form: str = "auto",
    *,
    fold: int = 1,
    videos: str = "",
    lists: Mapping[str, str] | None = None,
    classes: str = "classes.txt",
    quarantine: str = QUARANTINE,
) -> dict[str, VideoDataset]:
    """All splits of a data folder, of those under "train", "val" and "test" that there are.

    Class names are the same in all: the data set's own list, or what the training labels say.
    Videos without a label (test sets that are kept secret) are left out.

    Args:
      root: the folder with the annotations.
      form: a row of `forms.FORMS`, or "auto".
      fold: which split into training and test, of forms that have several; of class folders
        without splits, the seed that divides them.
      videos: where in `root` the videos lie (or an absolute folder). They are found anywhere
        below it if their form names them by an id; otherwise names are paths from it.
      lists: file names of the splits, for "csv" under other names than `train.csv`.
      classes: file with the class names, for forms that have no list of their own.
      quarantine: file of lines `path<TAB>reason` in `root`, videos to leave out; "" is none.

    Raises:
      ConfigError: no such form, or it has no such fold.
      DataError: a file is missing, or has another form, and which is expected; a label is
        outside the classes; a video lies in several places; or no video is there.
    """
    if form != "auto":
        form_named(form)
    root = _folder(Path(root), form)
    if form == "auto":
        form = autodetect(root)
    if lists and form != "csv":
        raise ConfigError(f"lists={dict(lists)} are for the form 'csv', not {form!r}")
    if fold < 1 or (fold > 1 and not FORMS[form].folds):
        raise ConfigError(f"fold={fold}: {form!r} has one split only, 1")
    below = Path(root, videos)
    if not below.is_dir():
        raise DataError(f"the folder of videos {below} does not exist")
    files = () if lists or form == "folders" else _files(root, form)
    source = Source(below if form == "folders" else root, files, fold, lists or {}, classes)
    with _readable(root):
        annotations = FORMS[form].read(source)
    if not any(annotations.splits.values()):
        raise DataError(f"{root}: no video there has a label; expected: {FORMS[form].layout}")
    with _readable(below):
        found = _look(below, annotations)
    excluded = _read_quarantine(root, quarantine)
    several = any(len(row.labels) > 1 for rows in annotations.splits.values() for row in rows)
    splits = {
        split: _dataset(rows, found[split], annotations.classes, excluded, several)
        for split, rows in annotations.splits.items()
        if rows
    }
    if not any(dataset.annotated > len(dataset.missing) for dataset in splits.values()):
        _refuse(root, splits)
    return splits


def pick_split(
    splits: Mapping[str, VideoDataset], root: str | os.PathLike[str], split: str
) -> VideoDataset:
    """A split that is there and has videos, or a DataError that says what there is."""
    if split not in splits:
        raise DataError(f"{root} has no {split!r} videos annotated, only {', '.join(splits)}")
    dataset = splits[split]
    if len(dataset.missing) == dataset.annotated:
        _refuse(root, {split: dataset})
    if not len(dataset):
        raise DataError(f"{root}, {split}: all {len(dataset.quarantined)} videos in quarantine")
    return dataset


def _refuse(root, splits: Mapping[str, VideoDataset]) -> None:
    missing = [name for dataset in splits.values() for name in dataset.missing]
    raise DataError(
        f"{root}, {' and '.join(splits)}: none of {len(missing):,} videos exists, for instance "
        f"{missing[0]}; are they, or the paths of a list, relative to {root}?"
    )


@contextlib.contextmanager
def _readable(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = error.filename or root
        raise DataError(f"{place} cannot be read ({error.strerror or error})") from error


def _folder(root: Path, form: str) -> Path:
    if not root.is_dir():
        expected = "" if form == "auto" else f"; expected in it: {FORMS[form].layout}"
        raise DataError(f"the data folder {root} does not exist{expected}")
    return root


def _files(root: Path, form: str) -> tuple[Path, ...]:
    with _readable(root):
        files = annotation_files(root)
    if form not in files:
        seen = "; ".join(f"{name}: {_names(root, paths)}" for name, paths in files.items())
        raise DataError(
            f"{root} holds {seen or 'no annotations'}, but none of the form {form!r}; expected: "
            f"{FORMS[form].layout}"
        )
    return files[form]


def _names(root: Path, paths: Sequence[Path]) -> str:
    names = [str(path.relative_to(root)) for path in paths]
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _dataset(rows, found, classes, excluded, several: bool) -> VideoDataset:
    there = [(row, path) for row, path in zip(rows, found, strict=True) if path is not None]
    kept = [(r, p) for r, p in there if os.path.abspath(p) not in excluded] if excluded else there
    left_out = tuple(p for _, p in there if os.path.abspath(p) in excluded) if excluded else ()
    return VideoDataset(
        paths=tuple(path for _, path in kept),
        labels=tuple(row.labels[0] for row, _ in kept),
        classes=classes,
        label_sets=tuple(row.labels for row, _ in kept) if several else (),
        missing=tuple(r.name for r, path in zip(rows, found, strict=True) if path is None),
        quarantined=left_out,
    )


def _read_quarantine(root: Path, name: str) -> frozenset[str]:
    path = root / name
    if not name or (name == QUARANTINE and not path.exists()):
        return frozenset()
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); '' for no quarantine") from None
    # HMDB51 has videos whose names begin with '#'.
    lines = [line for line in lines if line.strip() and ("\t" in line or line[0] != "#")]
    return frozenset(os.path.abspath(root / line.partition("\t")[0]) for line in lines)


# --- Looking ------------------------------------------------------------------------------


def _look(root: Path, annotations: Annotations) -> dict[str, list[str | None]]:
    """Paths of the rows of each split, None where there is none."""
    tell = _listing(root)
    if annotations.anywhere:
        wanted = {row.name for rows in annotations.splits.values() for row in rows}
        places = _places(root, wanted, tell)
        return {
            split: [_place(root, row, split, annotations.classes, places) for row in rows]
            for split, rows in annotations.splits.items()
        }
    has = _folders_once(tell)
    return {
        split: [_path(root, row.name, split, has) for row in rows]
        for split, rows in annotations.splits.items()
    }


def _listing(root: Path) -> Callable[[int], None]:
    """Gives `tell(count)` for the names of a listed folder; it speaks if all takes long."""
    told, total = time.perf_counter(), 0

    def tell(count: int) -> None:
        nonlocal told, total
        total += count
        if time.perf_counter() - told > 2:
            print(f"listing {root}: {total:,} names", file=sys.stderr, flush=True)
            told = time.perf_counter()

    return tell


def _folders_once(tell: Callable[[int], None]) -> Callable[[str], bool]:
    """Gives `has(path)`, which lists the path's folder the first time."""
    known: dict[str, frozenset[str]] = {}

    def has(path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in known:
            known[folder] = frozenset()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                known[folder] = frozenset(os.listdir(folder or "."))
            tell(len(known[folder]))
        return name in known[folder]

    return has


def _path(root: Path, name: str, split: str, has: Callable[[str], bool]) -> str | None:
    paths = (str(root / base.format(split=split) / name) for base in _BASES)
    return next((path for path in paths if has(path)), None)


def _places(root: Path, wanted: set[str], tell: Callable[[int], None]) -> dict[str, list[str]]:
    """Where videos lie, by their names without ending. A folder of a wanted name is one, of
    frames, and is not listed."""
    places: dict[str, list[str]] = {}
    folders = [(str(root), 0)]
    while folders:
        folder, depth = folders.pop()
        with os.scandir(folder) as entries:
            # Of most files the name says enough.
            inside = [(e.name, not is_video(e.name) and e.is_dir()) for e in entries]
        tell(len(inside))
        for name, is_folder in inside:
            stem = name if is_folder else os.path.splitext(name)[0]
            path = os.path.join(folder, name)
            # ActivityNet's files are named v_ID.
            own = stem if stem in wanted else stem.removeprefix("v_")
            if own in wanted and (is_folder or is_video(name)):
                places.setdefault(own, []).append(path)
            elif is_folder and not name.startswith(".") and depth < _DEPTH:
                folders.append((path, depth + 1))
    return places


def _place(
    root: Path, row: Row, split: str, classes: Sequence[str], places: Mapping[str, list[str]]
) -> str | None:
    """The one place of a video. Of several, those in a folder of its class, then of its split."""
    paths = places.get(row.name, [])
    names = {_plain(classes[label]) for label in row.labels}
    for wanted in (names, set(SPLITS[split])):
        if len(paths) < 2:
            break
        inside = [p for p in paths if wanted & set(map(_plain, Path(p).relative_to(root).parts))]
        paths = inside or paths
    if len(paths) > 1:
        raise DataError(
            f"{row.name} lies in several places: {', '.join(sorted(paths))}; say in which folder "
            "the videos are (data.videos, --videos)"
        )
    return paths[0] if paths else None


def _plain(name: str) -> str:
    return name.replace("_", " ").lower()
