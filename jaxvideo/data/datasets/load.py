"""Load the splits of a data folder in any form of `forms.FORMS`.

`load_splits` recognizes the form, reads the annotations and finds the videos by one listing per
folder: checking each of 250,000 files takes minutes on a network disk. Videos that do not exist or
are in the quarantine file are left out and recorded.

The plainest form, "csv", has one line `path label` per video, separated by tabs, commas, semicolons
or blanks, with or without a header. The path is relative to the data folder or absolute; the label
is a class name or an index from 0. `#` begins a comment line, unless a video with that name exists.
`classes.txt` contains the class names in the order of their indices, one per line; without it they
follow from the labels. One line of the log says how each file was read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jaxvideo.data.datasets.annotations import SPLITS, classes_of, index_of
from jaxvideo.data.datasets.dataset import VideoDataset, wrong_count
from jaxvideo.data.datasets.form import Source
from jaxvideo.data.datasets.forms import FORMS, annotation_files, folder_form, form_named
from jaxvideo.data.datasets.locate import locate
from jaxvideo.data.datasets.pair_lists import read_pairs
from jaxvideo.data.datasets.text import PAIR
from jaxvideo.data.video import frames_in
from jaxvideo.names import unescape
from jaxvideo.progress import LOG
from jaxvideo.types import ConfigError, DataError, UsageError

#: Default name of the quarantine file.
QUARANTINE = "quarantine.txt"

# Number of folders of frames per split that are counted when a data set is loaded.
_SAMPLED = 20

# Files of a folder that TFDS has prepared, and of an unfinished one that `pack` writes.
_PREPARED = ("dataset_info.json", "packing.json")


def read_annotations(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
) -> VideoDataset:
    """Loads one annotation file of the form "csv", including videos that do not exist.

    Args:
      path: the annotation file, relative to `root` or absolute.
      root: the folder that the paths in it are relative to.
      classes: the class names; None takes them from the labels of the file (names sorted, or the
        indices 0 ... max).

    Raises:
      DataError: a folder or file is missing or empty, a line has another form, a label is not a
        class, or no video exists. The message names file and line.
    """
    root, path = Path(root), Path(root, path)
    if not root.is_dir():
        raise DataError(
            f"the data folder {root} does not exist; expected: a folder with {path.name} of lines "
            f"'{PAIR}'"
        )
    listed = read_pairs(path, lambda name: (root / name).exists())
    LOG.info(f"{path}: {listed.reading}")
    rows = listed.pairs
    if not rows:
        raise DataError(f"{path}: {listed.reading}; expected: lines '{PAIR}'")
    if classes is None:
        classes = classes_of(row.label for row in rows)
    find = index_of(classes)
    labels = tuple(find(row.label, f"{path}, line {row.line}") for row in rows)
    paths = tuple(str(root / row.name) for row in rows)
    some = paths[:: max(len(paths) // 20, 1)]
    if not any(os.path.exists(p) for p in some):
        raise DataError(
            f"{path}: none of {len(some)} sampled videos exists, for example {some[0]}; the paths "
            f"must be relative to {root}"
        )
    return VideoDataset(paths, labels, tuple(classes))


def autodetect(root: str | os.PathLike[str]) -> str:
    """Returns the form of a data folder, a row of `forms.FORMS`, or "tfds".

    "tfds" is a folder that `jaxvideo pack` or TFDS wrote. Annotation files take precedence over
    class folders.

    Raises:
      DataError: no known form, or files of several forms; the message lists what was found.
    """
    root = _folder(Path(root), "auto")
    if any((root / name).is_file() for name in _PREPARED):
        return "tfds"
    with _readable(root):
        files = annotation_files(root)
    if len(files) == 1:
        return next(iter(files))
    if files:
        seen = "; ".join(f"{form}: {_names(root, paths)}" for form, paths in files.items())
        raise DataError(
            f"{root} contains annotations of several forms ({seen}); choose one explicitly, for "
            f"example {next(iter(files))!r}"
        )
    with _readable(root):
        form = folder_form(root)
    if form is not None:
        return form
    inside = sorted(os.listdir(root))
    seen = ", ".join(inside[:8]) + (", ..." if len(inside) > 8 else "") if inside else "nothing"
    known = "\n".join(f"  {name:<12} {form.layout}" for name, form in FORMS.items())
    raise DataError(f"{root} contains {seen}, but no data set of a known form:\n{known}")


def load_dataset(
    root: str | os.PathLike[str], form: str = "auto", split: str = "train", **how
) -> VideoDataset:
    """Loads one split of a data folder.

        train = load_dataset("data/ucf101", split="train", fold=2)

    Args:
      root, form: see `load_splits`.
      split: "train", "val" or "test".
      **how: other arguments of `load_splits`.

    Raises:
      ConfigError, DataError: see `load_splits`; also if the split does not exist, or none of its
        videos does.
    """
    if split not in SPLITS:
        raise UsageError(f"split {split!r}: allowed are {', '.join(SPLITS)}")
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
    check_frames: bool = True,
) -> dict[str, VideoDataset]:
    """Loads all splits of a data folder.

    All splits have the same class names: those of the data set's own list, or those of the
    training labels. Videos without a label (test sets with secret labels) are left out.

        splits = load_splits("data/hmdb51", "hmdb51", fold=1)

    Args:
      root: the folder with the annotations.
      form: a row of `forms.FORMS`, "tfds" (a folder that `pack` or TFDS wrote), or "auto".
      fold: number of the split into training and test, if the form has several; for class folders
        without splits, the seed of the division.
      videos: the folder of the videos, relative to `root` or absolute. Videos that are annotated
        by an id are found anywhere below it; paths are relative to it.
      lists: file names by split, if they differ from `train.csv` etc.; form "csv" only.
      classes: file with class names, if the form has no class list of its own.
      quarantine: file in `root` of lines `path<TAB>reason`, videos to leave out; "" is none.
      check_frames: compare declared numbers of frames with some folders of frames.

    Returns:
      Data sets by split, those of "train", "val" and "test" that exist.

    Raises:
      ConfigError: unknown form or fold.
      DataError: a file is missing or has another form; a label is not a class; a video exists in
        several places; no video exists; or a folder has another number of frames than declared.
    """
    if form not in ("auto", "tfds"):
        form_named(form)
    if form == "auto":
        form = autodetect(root)
    if form == "tfds":
        from jaxvideo.data.packed.read import load_tfds, split_names  # takes a second to import

        return {
            ours: load_tfds(os.fspath(root), theirs) for ours, theirs in split_names(root).items()
        }
    root = _folder(Path(root), form)
    chosen = FORMS[form]
    if lists and not chosen.lists:
        allowed = ", ".join(repr(name) for name, row in FORMS.items() if row.lists)
        raise ConfigError(f"lists={dict(lists)}: only for the form {allowed}, not {form!r}")
    if fold < 1 or (fold > 1 and not chosen.folds):
        raise ConfigError(f"fold={fold}: the form {form!r} has only fold 1")
    below = Path(root, videos)
    if not below.is_dir():
        raise DataError(f"the folder of videos {below} does not exist")
    has_files = chosen.matches_file is not None
    files = _files(root, form) if has_files and not lists else ()
    source = Source(root if has_files else below, files, fold, lists or {}, classes, below)
    with _readable(root):
        annotations = chosen.read(source)
    if not any(annotations.splits.values()):
        raise DataError(f"{root}: no annotated video has a label; expected: {chosen.layout}")
    with _readable(below):
        found = locate(below, annotations)
    excluded = _read_quarantine(root, quarantine)
    several = any(len(row.labels) > 1 for rows in annotations.splits.values() for row in rows)
    splits = {
        split: _dataset(rows, found[split], annotations, excluded, several)
        for split, rows in annotations.splits.items()
        if rows
    }
    if not any(dataset.annotated > len(dataset.missing) for dataset in splits.values()):
        _raise_missing(root, splits)
    if check_frames:
        _check_declared(splits)
    counts = ", ".join(f"{split} {dataset.annotated:,}" for split, dataset in splits.items())
    folds = f", fold {fold}" * chosen.folds
    LOG.info(f"{root}: form {form}{folds}; {len(annotations.classes):,} classes; videos: {counts}")
    _warn_classes(root, splits)
    return splits


def pick_split(
    splits: Mapping[str, VideoDataset], root: str | os.PathLike[str], split: str
) -> VideoDataset:
    """Returns a split that has videos.

    Raises:
      DataError: the split does not exist, or none of its videos does.
    """
    if split not in splits:
        raise DataError(
            f"{root} has no {split!r} annotations, only {', '.join(splits)}. Add a list or a "
            f"folder '{split}'; of class folders directly in {root}, a fifth is used for validation"
        )
    dataset = splits[split]
    if len(dataset.missing) == dataset.annotated:
        _raise_missing(root, {split: dataset})
    if not len(dataset):
        raise DataError(f"{root}, {split}: all {len(dataset.quarantined)} videos in quarantine")
    return dataset


def _check_declared(splits: Mapping[str, VideoDataset]) -> None:
    """Compares declared numbers of frames with some folders of frames.

    The others are compared when they are opened: listing 250,000 folders takes minutes on a
    network disk.

    Raises:
      DataError: a folder has another number of frames.
    """
    for split, dataset in splits.items():
        known = [i for i, count in enumerate(dataset.declared) if count]
        for index in known[:: max(len(known) // _SAMPLED, 1)]:
            path, declared = dataset.paths[index], dataset.declared[index]
            if os.path.isdir(path) and (found := len(frames_in(path))) != declared:
                raise DataError(f"{split}: {wrong_count(path, declared, found)}")


def _warn_classes(root, splits: Mapping[str, VideoDataset]) -> None:
    """Warns about classes without training videos, and about those without validation videos."""
    used = {
        split: {label for labels in _label_sets(dataset) for label in labels}
        for split, dataset in splits.items()
    }
    train = used.get("train", set())
    classes = next(iter(splits.values())).classes
    if train and (unused := [i for i in range(len(classes)) if i not in train]):
        hint = "; do the labels begin at 1?" if unused == [0] and classes[0] == "0" else ""
        LOG.warning(f"{root}: {_some(classes, unused)} no training video{hint}")
    tested = "val" if "val" in used else "test"
    if train and tested in used and (untested := sorted(train - used[tested])):
        LOG.warning(f"{root}: {_some(classes, untested)} no {tested} video")


def _label_sets(dataset: VideoDataset) -> Sequence[Sequence[int]]:
    return dataset.label_sets or [(label,) for label in dataset.labels]


def _some(classes: Sequence[str], indices: Sequence[int]) -> str:
    names = ", ".join(classes[index] for index in indices[:5]) + ", ..." * (len(indices) > 5)
    return f"{len(indices):,} of {len(classes):,} classes ({names}) have"


def _raise_missing(root, splits: Mapping[str, VideoDataset]) -> None:
    missing = [name for dataset in splits.values() for name in dataset.missing]
    raise DataError(
        f"{root}, {' and '.join(splits)}: none of {len(missing):,} videos exists, for example "
        f"{missing[0]}; videos and the paths in lists must be below {root}"
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
            f"{root} contains {seen or 'no annotations'}, but none of the form {form!r}; expected: "
            f"{FORMS[form].layout}"
        )
    return files[form]


def _names(root: Path, paths: Sequence[Path]) -> str:
    names = [str(path.relative_to(root)) for path in paths]
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _dataset(rows, found, annotations, excluded, several: bool) -> VideoDataset:
    there = [(row, path) for row, path in zip(rows, found, strict=True) if path is not None]
    kept = [(r, p) for r, p in there if os.path.abspath(p) not in excluded] if excluded else there
    frames = annotations.frames
    left_out = tuple(p for _, p in there if os.path.abspath(p) in excluded) if excluded else ()
    return VideoDataset(
        paths=tuple(path for _, path in kept),
        labels=tuple(row.labels[0] for row, _ in kept),
        classes=annotations.classes,
        label_sets=tuple(row.labels for row, _ in kept) if several else (),
        missing=tuple(r.name for r, path in zip(rows, found, strict=True) if path is None),
        quarantined=left_out,
        declared=tuple(frames.get(row.name, 0) for row, _ in kept) if frames else (),
    )


def _read_quarantine(root: Path, name: str) -> frozenset[str]:
    path = root / name
    if not name or (name == QUARANTINE and not path.exists()):
        return frozenset()
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise DataError(
            f"the quarantine file {path} cannot be read ({error.strerror}); '' disables it"
        ) from None
    # A line with a tab is an entry even if it begins with '#', as names in HMDB51 do.
    lines = [line for line in lines if line.strip() and ("\t" in line or line[0] != "#")]
    names = [line.partition("\t")[0] for line in lines]
    # Names in lists of other programs are not escaped.
    return frozenset(os.path.abspath(root / one) for n in names for one in (n, unescape(n)))
