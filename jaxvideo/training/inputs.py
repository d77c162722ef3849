"""Loads the data sets of `config.data`."""

from __future__ import annotations

import dataclasses

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.datasets.load import load_splits, pick_split
from jaxvideo.data.motion.folder import check_motion, ensure_motion
from jaxvideo.data.motion.spec import CLASSES
from jaxvideo.progress import LOG
from jaxvideo.training.data_checks import check_classes, check_overlap
from jaxvideo.training.schema import Data
from jaxvideo.types import DataError


def splits_of(data: Data) -> dict[str, VideoDataset]:
    """Returns all existing splits, by the names "train", "val" and "test".

    Raises:
      DataError: the data do not exist or have another form. The message ends with `data.hint`.
    """
    root, form = data.root, data.source
    if form == "tfds":
        from jaxvideo.data.packed.read import load_tfds, split_names  # takes a second to import

        return {ours: load_tfds(root, theirs) for ours, theirs in split_names(root).items()}
    if form == "motion":
        root = ensure_motion(data.root or None, train=data.train_videos, val=data.val_videos)
        form = "csv"
    try:
        return load_splits(
            root,
            form,
            fold=data.fold,
            videos=data.videos,
            lists={"train": data.train, "val": data.val} if form == "csv" else None,
            classes=data.classes,
            quarantine=data.quarantine,
        )
    except DataError as error:
        raise _with_hint(error, data) from error


def pick(splits: dict[str, VideoDataset], data: Data, split: str) -> VideoDataset:
    """Returns one split. If there is no "val", as for UCF101, "test" replaces it."""
    name = "test" if split == "val" and "val" not in splits and "test" in splits else split
    try:
        return pick_split(splits, data.root, name)
    except DataError as error:
        raise _with_hint(error, data) from error


def _with_hint(error: DataError, data: Data) -> DataError:
    hint = f". Set the data directory: --config.data.root=DIR. {data.hint}".rstrip()
    return DataError(f"{error}{hint if data.source != 'motion' else ''}")


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a run needs to know of its data before it starts.

    Attributes:
      classes: class names in the order of the labels.
      videos, val_videos: number of training and of validation videos.
      several: True if videos have several labels.
      sets: training and validation set; None if they are not rendered yet.
    """

    classes: tuple[str, ...]
    videos: int
    val_videos: int
    several: bool = False
    sets: tuple[VideoDataset, VideoDataset] | None = None


def survey(data: Data) -> Survey:
    """Reads the annotations of a data set. The motion data set is checked, but not rendered.

    Raises:
      DataError: the data do not exist or have another form.
    """
    if data.source == "motion":
        check_motion(data.root or None, train=data.train_videos, val=data.val_videos)
        if not data.train_videos or not data.val_videos:
            raise DataError(
                f"config.data.train_videos={data.train_videos}, val_videos={data.val_videos}: "
                "both must be at least 8"
            )
        return Survey(CLASSES, data.train_videos, data.val_videos)
    sets = load_data(data)
    train_set, val_set = sets
    several = bool(train_set.label_sets)
    return Survey(train_set.classes, len(train_set), len(val_set), several, sets)


def load_data(data: Data) -> tuple[VideoDataset, VideoDataset]:
    """Returns the training and the validation set; logs missing and quarantined videos.

    Raises:
      DataError: as `splits_of`, or all training videos have the same class.
    """
    splits = splits_of(data)
    sets = pick(splits, data, "train"), pick(splits, data, "val")
    for name, dataset in zip(("training", "validation"), sets, strict=True):
        if dataset.missing or dataset.quarantined:
            LOG.info(f"{name}: {dataset.coverage}")
    check_classes(sets[0], data.root)
    check_overlap(*sets)
    return sets
