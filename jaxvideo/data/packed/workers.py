"""Read and encode single videos of a data set, in this process or in a worker."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.packed.record import Packing, pack_video, split_record
from jaxvideo.names import escape
from jaxvideo.types import VideoError

#: Row of a shard's table (name, labels, size, number of records, or the reason why the video cannot
#: be read), and the fields of its records, none if there is a reason.
Result = tuple[dict[str, Any], list[dict[str, Any]]]


def read_one(
    dataset: VideoDataset, index: int, packing: Packing, root: str | os.PathLike[str]
) -> Result:
    """Reads and encodes one video.

    Args:
      dataset: the data set.
      index: the video's index in it.
      packing: the settings.
      root: prefix that is removed from the video's path to get its name.
    """
    path, label = dataset.paths[index], dataset.labels[index]
    labels = [int(one) for one in (dataset.label_sets[index] if dataset.label_sets else (label,))]
    row: dict[str, Any] = {"name": short_name(path, root), "labels": labels}
    try:
        with dataset.open(index) as video:
            records = split_record(pack_video(video, packing))
    except VideoError as error:
        return {**row, "reason": str(error)}, []
    row |= {"bytes": bytes_of(path), "records": len(records)}
    label = dataset.labels[index]
    rest = {"label": label, "labels": np.asarray(labels, np.int64)}
    # Text of TFDS is UTF-8. The names as they are follow in the metadata of the folder.
    names = {"class": escape(dataset.classes[label]), "name": escape(row["name"])}
    return row, [{**fields, **rest, **names} for fields in records]


def label_sets(dataset: VideoDataset) -> Sequence[Sequence[int]]:
    """Returns all class indices of each video, also if each has only one."""
    return dataset.label_sets or [(label,) for label in dataset.labels]


def short_name(path: str, root: str | os.PathLike[str]) -> str:
    """Returns a path relative to `root`, if it is below."""
    return path.removeprefix(os.path.join(root, "")) if root else path


def bytes_of(path: str) -> int:
    """Returns the size of a file or a folder of frames; 0 if the path is neither."""
    if os.path.isdir(path):
        return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())
    return os.path.getsize(path) if os.path.isfile(path) else 0
