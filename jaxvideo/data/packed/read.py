"""Read videos from TFDS: packed folders, other prepared data sets, and records of any source.

Names and labels of packed videos are in the folder's `metadata.json`, so that no record is read to
list them. TensorFlow is only needed for TFDS's own data sets.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.packed.codecs import CODECS
from jaxvideo.data.packed.record import parse, record_video
from jaxvideo.data.video import VideoFile, open_video, reader_video
from jaxvideo.types import DataError, VideoError

#: File that marks a folder whose packing is not finished.
PLAN = "packing.json"

_BYTES = tfds.decode.DeserializeMethod.RAW_BYTES


@dataclasses.dataclass(frozen=True)
class _Part:
    """Elements of a source from an index on."""

    source: Any
    first: int

    def __getitem__(self, index: int) -> Any:
        return self.source[self.first + index]


@dataclasses.dataclass(frozen=True)
class PackedDataset(VideoDataset):
    """Videos in ArrayRecord shards; `paths` are their names before packing.

    In another process, a copy opens the shards again.

    Attributes:
      folder: directory of the shards.
      size: short side of the stored frames in pixels; smaller videos keep theirs. 0: unknown.
      format: how they are stored, a row of `codecs.CODECS`.
      places: first record of each video.
      source: TFDS's data source of serialized records.
    """

    folder: str = ""
    size: int = 0
    format: str = ""
    places: tuple[int, ...] = ()
    source: Any = dataclasses.field(default=None, compare=False, repr=False)

    def part(self, videos: range) -> VideoDataset:
        places = self.places[videos.start : videos.stop]
        return dataclasses.replace(super().part(videos), places=places)

    @property
    def stored(self) -> str:
        """Describes how the videos are stored."""
        return f"packed as {self.format} ({CODECS[self.format].about}), short side {self.size}"

    @contextlib.contextmanager
    def open(self, index: int) -> Iterator[VideoFile]:
        """Opens the video of an index, from its records."""
        path, place = f"{self.folder}: {self.paths[index]}", self.places[index]

        def fields(record: int) -> dict[str, Any]:
            return parse(_element(self.source, record, path))

        yield record_video(fields(place), path, lambda part: fields(place + 1 + part)["video"])


def load_packed(root: str | os.PathLike[str], split: str) -> PackedDataset:
    """Loads a split of a folder that `write.pack` or `builder.PackedVideos` wrote.

        train = load_packed("data/ucf101-packed", "train")

    Raises:
      DataError: the folder does not exist, is not finished, was not packed by jaxvideo, or has no
        such split.
    """
    builder = _open_folder(root)
    metadata = builder.info.metadata
    if "packing" not in metadata:
        raise DataError(
            f"{root} contains the TFDS data set {builder.name!r}, which was not packed by jaxvideo"
        )
    table = metadata["splits"][_known(builder, split, root)]
    source = builder.as_data_source(split, deserialize_method=_BYTES)
    names, label_sets = table["names"], tuple(map(tuple, table["label_sets"]))
    # Version 1.0.0 of the shards had one record per video.
    ends = list(itertools.accumulate(table.get("records", [1] * len(names))))
    if len(source) != ends[-1]:
        raise DataError(
            f"{root}: the split {split!r} has {len(source)} records instead of {ends[-1]}; pack it "
            "again"
        )
    several = any(len(labels) != 1 for labels in label_sets)
    return PackedDataset(
        paths=tuple(names),
        labels=tuple(labels[0] for labels in label_sets),
        classes=tuple(metadata["classes"]),
        label_sets=label_sets if several else (),
        missing=(*table["missing"], *table["left_out"]),
        folder=os.fspath(root),
        size=metadata["packing"]["size"],
        format=metadata["packing"]["format"],
        places=(0, *ends[:-1]),
        source=source,
    )


@dataclasses.dataclass(frozen=True)
class ForeignDataset(VideoDataset):
    """Videos of a random access source whose elements are dicts; `paths` are their numbers.

    Attributes:
      source: `source[i][key]` is a video: uint8 `[T, H, W, C]`, a list of frames (arrays or
        encoded images), or the bytes of a file.
      key: name of the video's field.
      rate: frames per second of videos that are only frames; 0 if unknown.
    """

    source: Any = dataclasses.field(default=None, compare=False, repr=False)
    key: str = "video"
    rate: float = 0.0

    def part(self, videos: range) -> VideoDataset:
        source = _Part(self.source, videos.start)
        return dataclasses.replace(super().part(videos), source=source)

    @contextlib.contextmanager
    def open(self, index: int) -> Iterator[VideoFile]:
        """Opens the video of an index, whose record has a file or frames."""
        path = self.paths[index]
        value = _element(self.source, index, path)[self.key]
        if isinstance(value, bytes):
            with open_video(value, name=path) as file:
                yield file
            return
        yield _frames_video(value, path, self.rate)


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
    """Returns a data set of records of any source, for example TFDS's `as_data_source`.

    Args:
      source: `len(source)` elements `source[i]`, each a dict; see `ForeignDataset`.
      classes: class names; empty (default): the indices up to the largest label.
      labels: the labels, if known; None (default) reads every record once.
      video, label: names of these fields.
      fps: frames per second of videos that are only frames; 0 (default): unknown.
      name: name of a record in error messages, before its number.

    Raises:
      DataError: no record, a field is missing, or a label is out of range.
    """
    if not len(source):
        raise DataError(f"{name}: the source contains no record")
    first = source[0]
    for field in (video, label) if labels is None else (video,):
        if field not in first:
            raise DataError(f"{name}: records have no field {field!r}, only {', '.join(first)}")
    if labels is None:
        labels = [int(source[i][label]) for i in range(len(source))]
    if min(labels) < 0:
        raise DataError(
            f"{name}: a label is {min(labels)}; test sets without labels cannot be used"
        )
    names = tuple(classes) or tuple(str(i) for i in range(max(labels) + 1))
    if max(labels) >= len(names):
        raise DataError(f"{name}: a label is {max(labels)}, but there are {len(names)} classes")
    paths = tuple(f"{name} {i}" for i in range(len(source)))
    return ForeignDataset(paths, tuple(labels), names, source=source, key=video, rate=fps)


def load_tfds(root: str | os.PathLike[str], split: str, *, fps: float = 0.0) -> VideoDataset:
    """Loads a split of a TFDS data set.

    Args:
      root: a packed folder, any other folder that TFDS has prepared, or the name of one of TFDS's
        own data sets, such as "ucf101/ucf101_1" (already prepared; needs the extra [tf]).
      split: name of the split in TFDS.
      fps: frames per second of videos that are only frames; 0 (default): unknown.

    Raises:
      DataError: no such data set or split, or TensorFlow is needed and not installed.
    """
    builder = _builder(root)
    if os.path.isdir(root) and "packing" in (builder.info.metadata or {}):
        return load_packed(root, split)
    _known(builder, split, root)
    features: Any = builder.info.features
    for field in ("video", "label"):
        if field not in features:
            raise DataError(f"{root}: records have no field {field!r}, only {', '.join(features)}")
    with _tfds_errors(root):
        source = builder.as_data_source(split)
        # Reads the labels alone: otherwise every video would be decoded completely.
        raw = builder.as_data_source(split, deserialize_method=_BYTES)
        only: Any = tfds.features.FeaturesDict({"label": features["label"]})
        labels = [int(only.deserialize_example_np(record)["label"]) for record in raw]
    return load_foreign(
        source, features["label"].names or (), labels=labels, fps=fps, name=f"{root} {split}"
    )


def split_names(root: str | os.PathLike[str]) -> dict[str, str]:
    """Returns TFDS's names of the splits by "train", "val" and "test"; `root` as in `load_tfds`."""
    found = {}
    for name in _builder(root).info.splits:
        found[{"validation": "val"}.get(name, name)] = name
    return found


def _builder(root: str | os.PathLike[str]):
    with _tfds_errors(root):
        return _open_folder(root) if os.path.isdir(root) else tfds.builder(os.fspath(root))


@contextlib.contextmanager
def _tfds_errors(name) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Without TensorFlow, TFDS does not even find some of its own data sets.
        if isinstance(error, ImportError) or importlib.util.find_spec("tensorflow") is None:
            raise DataError(
                f"{name}: TFDS cannot open it ({_first_line(error)}). TFDS's own data sets need "
                "TensorFlow: pip install 'jaxvideo[tf]'"
            ) from error
        raise DataError(f"{name}: TFDS cannot open it ({_first_line(error)})") from error


def _open_folder(root: str | os.PathLike[str]) -> Any:
    folder = os.fspath(root)
    if not os.path.exists(os.path.join(folder, "dataset_info.json")):
        problem = "does not exist"
        if os.path.exists(os.path.join(folder, PLAN)):
            problem = "is not finished: run the same `jaxvideo pack` again"
        elif os.path.isdir(folder):
            problem = "is not a prepared TFDS data set (dataset_info.json is missing)"
        raise DataError(f"{folder} {problem}")
    return tfds.builder_from_directory(folder)


def _known(builder, split: str, root) -> str:
    if split not in builder.info.splits:
        raise DataError(f"{root}: no split {split!r}, only {', '.join(builder.info.splits)}")
    return split


def _element(source, index: int, path: str) -> Any:
    # TFDS and ArrayRecord raise various exceptions if a shard is damaged or missing.
    try:
        return source[index]
    except Exception as error:
        raise VideoError(f"{path}: cannot be read ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _decode_picture(content: bytes, path: str, index: int) -> np.ndarray:
    """Decodes an encoded image, frame `index` of the video `path`: uint8 RGB `[H, W, 3]`."""
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        picture = None
    if picture is None:
        raise VideoError(f"{path}: frame {index} cannot be decoded as an image")
    return picture


def _frames_video(frames, path: str, rate: float) -> VideoFile:
    """Returns a video of frames that are arrays or encoded images."""
    count = len(frames)
    if not count:
        raise VideoError(f"{path}: has no frames")

    def picture(index: int) -> np.ndarray:
        frame = frames[index]
        if isinstance(frame, bytes):
            return _decode_picture(frame, path, index)
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] not in (1, 3):
            raise VideoError(
                f"{path}: frame {index} is {frame.dtype} {list(frame.shape)}; expected: uint8 "
                "[H, W, 3]"
            )
        return frame if frame.shape[-1] == 3 else np.repeat(frame, 3, axis=-1)

    def read(wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        return ((index, picture(index)) for index in wanted)

    height, width, _ = picture(0).shape
    numbers = np.arange(count)
    file = reader_video(path, read, numbers / (rate or 1.0), numbers, height, width)
    return dataclasses.replace(file, fps=rate)
