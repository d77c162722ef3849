"""The data sets that a config's data section names."""

from __future__ import annotations

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.datasets.load import load_splits, pick_split
from jaxvideo.data.motion.folder import ensure_motion
from jaxvideo.progress import LOG
from jaxvideo.training.schema import Data
from jaxvideo.types import DataError


def splits_of(data: Data) -> dict[str, VideoDataset]:
    """All splits that there are, by the names "train", "val" and "test".

    Raises:
      DataError: the data are not there, or in another form; with the config's hint.
    """
    root, form = data.root, data.source
    if form == "tfds":
        from jaxvideo.data.packed.read import load_tfds, split_names  # a second to import

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
    """One of them; UCF101 and others that have no validation split are validated on "test"."""
    name = "test" if split == "val" and "val" not in splits else split
    try:
        return pick_split(splits, data.root, name)
    except DataError as error:
        raise _with_hint(error, data) from error


def _with_hint(error: DataError, data: Data) -> DataError:
    hint = f". Another folder: --config.data.root=FOLDER. {data.hint}".rstrip()
    return DataError(f"{error}{hint if data.source != 'motion' else ''}")


def load_data(data: Data) -> tuple[VideoDataset, VideoDataset]:
    """Training and validation set; logs missing videos."""
    splits = splits_of(data)
    sets = pick(splits, data, "train"), pick(splits, data, "val")
    for name, dataset in zip(("training", "validation"), sets, strict=True):
        if dataset.missing or dataset.quarantined:
            LOG.info(f"{name}: {dataset.coverage}")
    return sets
