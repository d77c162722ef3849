"""Checks of a data set before training or evaluation, and the record of a run's training videos."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.stored_flow import describe_stored
from jaxvideo.progress import LOG, replacing
from jaxvideo.types import DataError, Preprocessing

#: File in a run directory with a hash of the path of each training video, uint64, ascending.
TRAINED = "training_videos.npy"


def check_classes(dataset: VideoDataset, root: str) -> None:
    """Raises a DataError if all videos have the same class.

    Every network is then right, and the loss is 0.
    """
    if dataset.label_sets or len(set(dataset.labels)) != 1:
        return
    (label,) = set(dataset.labels)
    raise DataError(
        f"{root or 'the data set'}: all {len(dataset)} training videos have the class "
        f"{dataset.classes[label]!r}; classification needs videos of at least 2 classes"
    )


def check_overlap(train: VideoDataset, val: VideoDataset) -> None:
    """Warns if validation videos are training videos, too."""
    known = {_location(train, path) for path in train.paths}
    shared = [path for path in val.paths if _location(val, path) in known]
    if shared:
        LOG.warning(
            f"{len(shared)} of {len(val)} validation videos are training videos, too; the "
            f"validation accuracy is too high. The first: {shared[0]}"
        )


def check_inputs(preprocessing: Preprocessing, *datasets: VideoDataset) -> None:
    """Warns about frames that are enlarged, and refuses stored flow of different settings.

    Raises:
      DataError: see `describe_stored`.
    """
    p = preprocessing
    if "flow" in p.modality and p.flow == "stored":
        describe_stored([path for dataset in datasets for path in dataset.paths])
    needed = min(p.size, p.width or p.size)
    for dataset in datasets:
        size = getattr(dataset, "size", 0)  # of a packed data set
        if 0 < size < needed:
            LOG.warning(
                f"the packed videos have a short side of {size} pixels and are enlarged to "
                f"{needed}; pack them again with --size {needed}"
            )
            return


def record_videos(workdir: Path, train: VideoDataset) -> None:
    """Writes the hashes of the training videos, so that `shared_videos` knows them.

    Raises:
      OSError: the file cannot be written.
    """
    with replacing(workdir / TRAINED) as temporary, open(temporary, "wb") as file:
        np.save(file, np.unique(_hashes(train)), allow_pickle=False)


def shared_videos(run: str | os.PathLike[str], dataset: VideoDataset) -> list[str]:
    """Returns the videos of a data set that a run was trained on.

    A video that was moved or copied since is not recognized.

    Args:
      run: run directory. The result is empty if it does not record its videos, or if it is a file.
      dataset: the data set to test on.
    """
    try:
        trained = np.load(Path(run) / TRAINED, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return []
    found = np.isin(_hashes(dataset), trained)
    return [path for path, shared in zip(dataset.paths, found, strict=True) if shared]


def _hashes(dataset: VideoDataset) -> np.ndarray:
    """Returns a hash of the location of each video, uint64 `[videos]`."""
    locations = (os.fsencode(_location(dataset, path)) for path in dataset.paths)
    digests = b"".join(hashlib.blake2b(one, digest_size=8).digest() for one in locations)
    return np.frombuffer(digests, "<u8")


def _location(dataset: VideoDataset, path: str) -> str:
    # A packed video has a name in its folder.
    return os.path.abspath(os.path.join(getattr(dataset, "folder", ""), path))
