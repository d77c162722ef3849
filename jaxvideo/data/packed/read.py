"""Videos out of TFDS: the shards that `packing` wrote, and anybody else's records.

Names and labels of what is packed lie in the `metadata.json` of the folder, because they are
wanted for all videos at once and no record must be read for them. TensorFlow is needed only
where a data set of TFDS's own wants it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxvideo.data.datasets import VideoDataset
from jaxvideo.data.decode import VideoFile, open_video
from jaxvideo.data.records import read_picture, record_file, video_file
from jaxvideo.types import DataError, VideoError

PLAN = "packing.json"  # of a folder whose packing is not finished


@dataclasses.dataclass(frozen=True)
class PackedDataset(VideoDataset):
    """Videos in ArrayRecord shards; `paths` are the names they had. Sent to another process,
    it opens the shards there."""

    folder: str = ""
    source: Any = dataclasses.field(default=None, compare=False, repr=False)

    @contextlib.contextmanager
    def open(self, index: int) -> Iterator[VideoFile]:
        path = f"{self.folder}: {self.paths[index]}"
        yield record_file(_element(self.source, index, path), path)


def load_packed(root: str | os.PathLike[str], split: str) -> PackedDataset:
    """A split of a folder that `pack` or `PackedVideos` wrote.

    Raises:
      DataError: no such folder, it is not finished or not of ours, or has no such split.
    """
    builder = _open_folder(root)
    metadata = builder.info.metadata
    if "packing" not in metadata:
        raise DataError(
            f"{root} holds the TFDS data set {builder.name!r}, which was not packed here"
        )
    table = metadata["splits"][_known(builder, split, root)]
    source = builder.as_data_source(split)
    names, label_sets = table["names"], tuple(map(tuple, table["label_sets"]))
    if len(source) != len(names):
        raise DataError(f"{root}: {len(source)} records and {len(names)} names in its {split!r}")
    several = any(len(labels) != 1 for labels in label_sets)
    return PackedDataset(
        paths=tuple(names),
        labels=tuple(labels[0] for labels in label_sets),
        classes=tuple(metadata["classes"]),
        label_sets=label_sets if several else (),
        missing=(*table["missing"], *table["left_out"]),
        folder=os.fspath(root),
        source=source,
    )


@dataclasses.dataclass(frozen=True)
class ForeignDataset(VideoDataset):
    """Videos of any random access source whose elements are dicts. `paths` are made up.

    Attributes:
      source: `source[i][key]` is a video: uint8 `[T, H, W, C]`, a list of frames (arrays or
        encoded pictures), or the bytes of a file.
      rate: frames per second, where only frames are given; 0 is unknown.
    """

    source: Any = dataclasses.field(default=None, compare=False, repr=False)
    key: str = "video"
    rate: float = 0.0

    @contextlib.contextmanager
    def open(self, index: int) -> Iterator[VideoFile]:
        path = self.paths[index]
        value = _element(self.source, index, path)[self.key]
        if isinstance(value, bytes):
            with open_video(value, name=path) as file:
                yield file
            return
        yield _frames_file(value, path, self.rate)


def load_foreign(
    source: Any,
    classes: Sequence[str] = (),
    *,
    labels: Sequence[int] | None = None,
    video: str = "video",
    label: str = "label",
    fps: float = 0.0,
    name: str = "record",
) -> ForeignDataset:
    """A data set of somebody else's records, for instance of TFDS's `as_data_source`.

    Args:
      source: `len(source)` elements `source[i]`, each a dict; see `ForeignDataset`.
      classes: class names; empty takes the indices up to the largest label.
      labels: if they are known; None reads every record once.
      video, label: the names of these two fields.
      fps: of videos that are only frames; 0 is unknown.
      name: what errors call a record, before its number.

    Raises:
      DataError: no record, or one without these fields.
    """
    if not len(source):
        raise DataError(f"{name}: holds no record")
    first = source[0]
    for field in (video, label) if labels is None else (video,):
        if field not in first:
            raise DataError(f"{name}: its records have no {field!r}, only {', '.join(first)}")
    if labels is None:
        labels = [int(source[i][label]) for i in range(len(source))]
    if min(labels) < 0:
        raise DataError(f"{name}: a label is {min(labels)}; a set for tests has none")
    names = tuple(classes) or tuple(str(i) for i in range(max(labels) + 1))
    if max(labels) >= len(names):
        raise DataError(f"{name}: a label is {max(labels)}, of {len(names)} classes")
    paths = tuple(f"{name} {i}" for i in range(len(source)))
    return ForeignDataset(paths, tuple(labels), names, source=source, key=video, rate=fps)


def load_tfds(root: str | os.PathLike[str], split: str, *, fps: float = 0.0) -> VideoDataset:
    """A split of TFDS's: a folder that was packed here, any other prepared folder, or the name
    of a data set of TFDS's own, such as "ucf101/ucf101_1" (prepared before; extra [tf]).

    Raises:
      DataError: none of these, no such split, or TensorFlow is missing where it is needed.
    """
    builder = _builder(root)
    if os.path.isdir(root) and "packing" in (builder.info.metadata or {}):
        return load_packed(root, split)
    _known(builder, split, root)
    features: Any = builder.info.features
    for field in ("video", "label"):
        if field not in features:
            raise DataError(f"{root}: its records have no {field!r}, only {', '.join(features)}")
    with _opened_by_tfds(root):
        source = builder.as_data_source(split)
        # The labels alone: a video would be decoded as a whole.
        raw = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        only: Any = tfds.features.FeaturesDict({"label": features["label"]})
        labels = [int(only.deserialize_example_np(record)["label"]) for record in raw]
    return load_foreign(
        source, features["label"].names or (), labels=labels, fps=fps, name=f"{root} {split}"
    )


def split_names(root: str | os.PathLike[str]) -> dict[str, str]:
    """TFDS's names of the splits of `root`, as for `load_tfds`, by ours: "train", "val", "test"."""
    found = {}
    for name in _builder(root).info.splits:
        found[{"validation": "val"}.get(name, name)] = name
    return found


def _builder(root: str | os.PathLike[str]):
    with _opened_by_tfds(root):
        return _open_folder(root) if os.path.isdir(root) else tfds.builder(os.fspath(root))


@contextlib.contextmanager
def _opened_by_tfds(name) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Without TensorFlow some of TFDS's own are not even found.
        if isinstance(error, ImportError) or importlib.util.find_spec("tensorflow") is None:
            raise DataError(
                f"{name}: TFDS cannot open it ({_first_line(error)}); its own data sets need "
                "TensorFlow: pip install 'jaxvideo[tf]'"
            ) from error
        raise DataError(f"{name}: TFDS cannot open it ({_first_line(error)})") from error


def _open_folder(root: str | os.PathLike[str]) -> Any:
    folder = os.fspath(root)
    if not os.path.exists(os.path.join(folder, "dataset_info.json")):
        what = "does not exist"
        if os.path.exists(os.path.join(folder, PLAN)):
            what = "is not finished: the same `python -m jaxvideo pack` goes on with it"
        elif os.path.isdir(folder):
            what = "is no prepared data set (dataset_info.json is missing)"
        raise DataError(f"{folder} {what}")
    return tfds.builder_from_directory(folder)


def _known(builder, split: str, root) -> str:
    if split not in builder.info.splits:
        raise DataError(f"{root}: no split {split!r}, only {', '.join(builder.info.splits)}")
    return split


def _element(source, index: int, path: str) -> dict[str, Any]:
    # TFDS and ArrayRecord raise what they like at a shard that is damaged or gone.
    try:
        return source[index]
    except Exception as error:
        raise VideoError(f"{path}: cannot be read ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _frames_file(frames, path: str, rate: float) -> VideoFile:
    """A `VideoFile` of frames at hand: arrays or encoded pictures."""
    count = len(frames)
    if not count:
        raise VideoError(f"{path}: has no frames")

    def picture(index: int) -> np.ndarray:
        frame = frames[index]
        if isinstance(frame, bytes):
            return read_picture(frame, path, index)
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] not in (1, 3):
            raise VideoError(
                f"{path}: frame {index} is {frame.dtype} {list(frame.shape)}, not uint8 [H, W, 3]"
            )
        return frame if frame.shape[-1] == 3 else np.repeat(frame, 3, axis=-1)

    def read(wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        return ((index, picture(index)) for index in wanted)

    height, width, _ = picture(0).shape
    everyone = np.arange(count)
    file = video_file(path, read, everyone / (rate or 1.0), everyone, height, width)
    return dataclasses.replace(file, fps=rate)
