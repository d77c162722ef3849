"""Videos packed into ArrayRecord shards, which TFDS writes and reads; TensorFlow is not needed.

One record is one video, small and quick to cut clips from: H.264 at a chosen short side with a
key frame every few frames and no B-frames, tuned for decoders (no CABAC, no deblocking: half
the time for 7 % more bytes), or JPEG frames one after another. Beside the bytes stands where
each frame lies in them, so that a clip needs neither an open container nor a demuxer: the
decoder is fed the bytes of its frames from the key frame on. The bytes are nevertheless a
whole file that any player shows.

Names, labels and the settings lie in the `metadata.json` of the folder, which TFDS writes and
reads itself, because they are wanted for all videos at once and no record must be read for
them. `tensorflow_datasets.builder_from_directory(folder)` opens what is packed here.

Two ways write the same shards: `pack`, on the cores of one machine and resumable, and the TFDS
builder `PackedVideos`, alone or on Apache Beam.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import io
import itertools
import json
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from array_record.python.array_record_module import ArrayRecordWriter
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from etils import epath
from tensorflow_datasets.core import dataset_info as tfds_info
from tensorflow_datasets.core import example_serializer
from tensorflow_datasets.core import writer as tfds_writer

from jaxvideo.data import decode
from jaxvideo.data.datasets import VideoDataset
from jaxvideo.data.decode import VideoFile, open_video
from jaxvideo.types import ConfigError, DataError, VideoError

NAME, VERSION = "packed_videos", "1.0.0"
FORMATS = ("mp4", "jpeg")

_PLAN = "packing.json"  # of a folder that is not finished
_TICKS = 90_000  # of an mp4's clock, per second
# ArrayRecord would compress what is compressed; a group of one is what random access wants.
_WRITER = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True)
class Packing:
    """How videos are packed.

    Attributes:
      format: "mp4" (H.264) or "jpeg".
      size: short side in pixels that frames are scaled to; smaller ones stay as they are.
      crf: H.264's quality, 0 (exact) to 51; about 6 more halve the bytes.
      gop: frames from one key frame to the next; a clip decodes half as many for nothing.
      quality: JPEG's, 1 to 100.
      per_shard: videos of a shard.
    """

    format: str = "mp4"
    size: int = 128
    crf: int = 20
    gop: int = 12
    quality: int = 90
    per_shard: int = 256

    def __post_init__(self):
        if self.format not in FORMATS:
            raise ConfigError(f"format={self.format!r}: allowed are {', '.join(FORMATS)}")
        for name, low, high in (
            ("size", 16, 4096),
            ("crf", 0, 51),
            ("gop", 1, 1000),
            ("quality", 1, 100),
            ("per_shard", 1, 1_000_000),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}={getattr(self, name)}: from {low} to {high}")
        if self.format == "mp4" and "libx264" not in av.codecs_available:
            raise ConfigError("format='mp4': this PyAV has no libx264; 'jpeg' needs none")


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `pack` did: videos written, the reason of each that was left out by "split: name", and
    bytes of the videos before and after (0 before where they are no files)."""

    videos: int
    left_out: dict[str, str]
    bytes_before: int
    bytes_after: int


# Packing one video.


def pack_video(video: VideoFile, packing: Packing) -> dict[str, Any]:
    """The fields of a record that are of the video itself.

    `video` bytes; `extradata` bytes, what the decoder must know first (empty for JPEG);
    `offsets` int64 `[T + 1]`, frame i is `video[offsets[i]:offsets[i + 1]]`; `keyframes` int64,
    ascending; `times` float64 `[T]`, seconds; `shape` int64 `[2]`, height and width.

    Raises:
      VideoError: a frame cannot be decoded.
    """
    height, width = scaled_shape(video.height, video.width, packing.size)
    pictures = scaled_frames(video, height, width)
    fields = {"times": _times(video), "shape": np.asarray((height, width), np.int64)}
    if packing.format == "jpeg":
        frames = [_jpeg(picture, packing.quality) for picture in pictures]
        offsets = np.cumsum([0, *map(len, frames)])
        everyone = np.arange(len(frames))
        return fields | {
            "video": b"".join(frames),
            "extradata": b"",
            "offsets": offsets.astype(np.int64),
            "keyframes": everyone.astype(np.int64),
        }
    content = _mp4(pictures, fields["times"], height, width, packing)
    return fields | {"video": content} | _packet_table(content, video)


def scaled_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) with the short side `size`, if it was longer; even, as H.264 wants."""
    scale = min(size / min(height, width), 1)
    h, w = (max(2 * round(side * scale / 2), 2) for side in (height, width))
    return h, w


def scaled_frames(video: VideoFile, height: int, width: int) -> Iterator[np.ndarray]:
    """All frames, one after another: uint8 `[height, width, 3]`, averaged over areas, which is
    antialiased and too slow for anything done more than once."""
    for _, frame in decode.decode_frames(video, range(video.num_frames)):
        if frame.shape[:2] == (height, width):
            yield frame
        else:
            yield cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def _times(video: VideoFile) -> np.ndarray:
    """Seconds of every frame from the first, each later than the one before."""
    times = np.asarray(video.times, np.float64)
    step = 1 / _TICKS
    later = np.maximum.accumulate(times - np.arange(len(times)) * step)
    return later + np.arange(len(times)) * step


def _mp4(pictures, times: np.ndarray, height: int, width: int, packing: Packing) -> bytes:
    options = {
        "preset": "veryfast",
        "tune": "fastdecode",
        "crf": str(packing.crf),
        "g": str(packing.gop),
        "bf": "0",
        "sc_threshold": "0",
        # With it x264's bytes are now and then others in the next run.
        "mbtree": "0",
    }
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.thread_count = 1
        clock = Fraction(1, _TICKS)
        stream.codec_context.time_base = clock
        for time, picture in zip(times, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(time * _TICKS), clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def _packet_table(content: bytes, video: VideoFile) -> dict[str, Any]:
    """Where the frames of an mp4 without B-frames lie in it."""
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        extradata = stream.codec_context.extradata
    starts = np.asarray([packet.pos for packet in packets])
    ends = starts + np.asarray([packet.size for packet in packets])
    if len(packets) != video.num_frames or (starts[1:] != ends[:-1]).any():
        raise VideoError(f"{video.path}: its packed frames do not lie one after another")
    return {
        "extradata": extradata or b"",
        "offsets": np.append(starts, ends[-1]).astype(np.int64),
        "keyframes": np.flatnonzero([packet.is_keyframe for packet in packets]).astype(np.int64),
    }


def _jpeg(picture: np.ndarray, quality: int) -> bytes:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


# Reading one video.


# Gives (index, uint8 RGB [H, W, 3]) of ascending indices.
_Reader = Callable[[Sequence[int]], Iterator[tuple[int, np.ndarray]]]


def record_file(record: Mapping[str, Any], path: str) -> VideoFile:
    """A `VideoFile` of a record's fields (see `pack_video`); `path` names it in errors."""
    read = _read_h264 if record["extradata"] else _read_jpeg
    height, width = (int(side) for side in record["shape"])
    times, keyframes = np.asarray(record["times"]), np.asarray(record["keyframes"])
    return _file(path, functools.partial(read, record, path), times, keyframes, height, width)


def _file(path, reader: _Reader, times, keyframes, height: int, width: int) -> VideoFile:
    span = float(times[-1] - times[0])
    return VideoFile(
        path=path,
        container=None,
        stream=None,
        pts=np.arange(len(times)),
        times=times,
        keyframes=keyframes,
        height=height,
        width=width,
        fps=(len(times) - 1) / span if span > 0 else 0.0,
        rotation=0,
        seekable=True,
        reader=reader,
    )


def _read_h264(
    record: Mapping[str, Any], path: str, wanted: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    content, offsets, keyframes = record["video"], record["offsets"], record["keyframes"]
    # Shared by the frames: to set one up takes longer than to convert a frame of this size.
    reformatter = VideoReformatter()
    codec, position = _h264_codec(record), 0
    for index in wanted:
        key = int(keyframes[np.searchsorted(keyframes, index, "right") - 1])
        if position < key:
            codec, position = _h264_codec(record), key
        frames: list[Any] = []
        try:
            for place in range(position, index + 1):
                # Without B-frames every packet gives its frame at once.
                frames = codec.decode(av.Packet(content[offsets[place] : offsets[place + 1]]))
        except FFmpegError as error:
            reason = error.strerror
            raise VideoError(f"{path}: frame {index} cannot be decoded ({reason})") from error
        position = index + 1
        if len(frames) != 1 or frames[0].is_corrupt:
            raise VideoError(f"{path}: frame {index} is corrupt")
        yield index, reformatter.reformat(frames[0], format="rgb24").to_ndarray()


def _h264_codec(record: Mapping[str, Any]) -> Any:
    codec: Any = av.CodecContext.create("h264", "r")
    codec.extradata = record["extradata"]
    codec.thread_type, codec.thread_count = "NONE", 1
    return codec


def _read_jpeg(
    record: Mapping[str, Any], path: str, wanted: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    content, offsets = record["video"], record["offsets"]
    for index in wanted:
        yield index, _picture(content[offsets[index] : offsets[index + 1]], path, index)


def _picture(content: bytes, path: str, index: int) -> np.ndarray:
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        picture = None
    if picture is None:
        raise VideoError(f"{path}: frame {index} cannot be read as a picture")
    return picture


# Reading a data set.


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
        if os.path.exists(os.path.join(folder, _PLAN)):
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
            return _picture(frame, path, index)
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
    file = _file(path, read, everyone / (rate or 1.0), everyone, height, width)
    return dataclasses.replace(file, fps=rate)


# Packing a data set.


def pack(
    splits: Mapping[str, VideoDataset],
    folder: str | os.PathLike[str],
    packing: Packing = Packing(),
    *,
    root: str | os.PathLike[str] = "",
    workers: int = 0,
    watch: Callable[[Sequence[int]], Iterable[int]] = iter,
    note: Callable[[str], None] = lambda text: None,
) -> Summary:
    """Packs data sets with the same classes into a folder, which TFDS then reads.

    Stopped at any moment, it is completed by the same call: whole shards are kept, the others
    are written again. Until it is complete TFDS does not take the folder for a data set. The
    shards depend on nothing but the videos and `packing`.

    Args:
      splits: a data set for each name, e.g. "train" and "val".
      root: the part of the videos' paths that their names leave out.
      workers: processes that pack; 0 does it in this one.
      watch: is given the videos still to do, as a sequence, and gives them one by one.
      note: is told of each video that is left out, and why.

    Raises:
      DataError: the splits have other classes, the folder holds something else or the same with
        other settings, it cannot be written, or no video of a split can be read.
    """
    folder = Path(folder)
    plan = _plan(splits, packing)
    try:
        tables = _finished(folder, plan)
        if tables is None:
            info = _new_info(folder, plan["classes"])
            for split, dataset in splits.items():
                _pack_split(info, split, dataset, folder, packing, root, workers, watch, note)
            tables = _gather(folder, splits, packing)
            _finish(info, folder, plan, tables)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return Summary(
        videos=sum(len(table["names"]) for table in tables.values()),
        left_out={
            f"{split}: {name}": reason
            for split, table in tables.items()
            for name, reason in table["left_out"].items()
        },
        bytes_before=sum(table["bytes_before"] for table in tables.values()),
        bytes_after=sum(path.stat().st_size for path in folder.glob(f"{NAME}-*")),
    )


def psnr(before: VideoFile, after: VideoFile, frames: int = 300) -> float:
    """PSNR in dB of a packed video against the scaled frames of its original, over the RGB values
    of its first `frames` frames (infinite if they are the same)."""
    error = count = 0.0
    ours, theirs = (scaled_frames(file, after.height, after.width) for file in (after, before))
    for one, other in itertools.islice(zip(ours, theirs, strict=True), frames):
        error += float(np.square(one.astype(np.float32) - other).sum())
        count += one.size
    return 10 * math.log10(255**2 * count / error) if error else math.inf


def _same_classes(splits: Mapping[str, VideoDataset]) -> list[str]:
    (first, one), *others = splits.items()
    for name, other in others:
        if other.classes != one.classes:
            raise DataError(
                f"{first!r} and {name!r} have other classes: they cannot be one data set"
            )
    for name, dataset in splits.items():
        if not len(dataset):
            raise DataError(f"{name!r} holds no video")
    return list(one.classes)


def _plan(splits: Mapping[str, VideoDataset], packing: Packing) -> dict[str, Any]:
    """What the shards are a function of, in JSON's own types, to be compared with a file's."""
    return {
        "packing": dataclasses.asdict(packing),
        "classes": _same_classes(splits),
        "videos": {name: _digest(dataset) for name, dataset in splits.items()},
    }


def _digest(dataset: VideoDataset) -> str:
    text = json.dumps([dataset.paths, _label_sets(dataset)])
    return f"{len(dataset)} videos, {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _label_sets(dataset: VideoDataset) -> Sequence[Sequence[int]]:
    return dataset.label_sets or [(label,) for label in dataset.labels]


def _finished(folder: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """The tables of the finished folder, None if it is to be written; its plan is kept there."""
    if (folder / "dataset_info.json").exists():
        metadata: Any = tfds.builder_from_directory(folder).info.metadata
        found = {key: metadata.get(key) for key in ("packing", "classes", "videos")}
        _check_plan(folder, found, plan)
        return metadata["splits"]
    if (folder / _PLAN).exists():
        _check_plan(folder, json.loads((folder / _PLAN).read_text()), plan)
    elif folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty and holds nothing packed: name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / _PLAN, json.dumps(plan))
    return None


def _check_plan(folder: Path, found: dict[str, Any], plan: dict[str, Any]) -> None:
    for key in plan:
        if found.get(key) != plan[key]:
            raise DataError(
                f"{folder} holds videos packed with other {key}: {_short(found.get(key))}, not "
                f"{_short(plan[key])}; name another folder, or delete it"
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 200 else text[:200] + " ..."


def _features(classes: Sequence[str]) -> tfds.features.FeaturesDict:
    numbers = functools.partial(tfds.features.Tensor, shape=(None,))
    return tfds.features.FeaturesDict(
        {
            # Text takes bytes as they are, and needs no TensorFlow, as Video and Image do.
            "video": tfds.features.Text(),
            "extradata": tfds.features.Text(),
            "offsets": numbers(dtype=np.int64),
            "keyframes": numbers(dtype=np.int64),
            "times": numbers(dtype=np.float64),
            "shape": tfds.features.Tensor(shape=(2,), dtype=np.int64),
            "label": tfds.features.ClassLabel(names=list(classes)),
            "labels": numbers(dtype=np.int64),
            "class": tfds.features.Text(),
            "name": tfds.features.Text(),
        }
    )


def _new_info(folder: Path, classes: Sequence[str]) -> tfds.core.DatasetInfo:
    identity = tfds_info.DatasetIdentity(
        name=NAME,
        version=tfds.core.Version(VERSION),
        data_dir=os.fspath(folder),
        module_name=__name__,
    )
    return _info(identity, classes)


def _info(builder: Any, classes: Sequence[str]) -> tfds.core.DatasetInfo:
    info = tfds.core.DatasetInfo(
        builder=builder,
        description="Videos packed by jaxvideo; see jaxvideo.data.tfds.",
        features=_features(classes),
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict(),
    )
    info.set_file_format("array_record")
    return info


def _shard_ranges(dataset: VideoDataset, packing: Packing) -> list[range]:
    step = packing.per_shard
    return [range(i, min(i + step, len(dataset))) for i in range(0, len(dataset), step)]


def _shard_paths(folder, split: str, dataset: VideoDataset, packing: Packing) -> list[Path]:
    count = len(_shard_ranges(dataset, packing))
    name = f"{NAME}-{split}.array_record"
    return [Path(folder, f"{name}-{i:05d}-of-{count:05d}") for i in range(count)]


def _pack_split(info, split, dataset, folder, packing, root, workers, watch, note) -> None:
    ranges = _shard_ranges(dataset, packing)
    paths = _shard_paths(folder, split, dataset, packing)
    # A shard gets its name as the last thing, after its table.
    missing = [i for i, path in enumerate(paths) if not path.exists()]
    todo = [index for i in missing for index in ranges[i]]
    serializer = example_serializer.ExampleSerializer(info.features.get_serialized_info())
    with contextlib.closing(_attempts(dataset, todo, packing, root, workers)) as attempts:
        watched = iter(watch(todo)) if todo else iter(())

        def records(shard: int) -> Iterator[tuple[dict[str, Any], bytes | None]]:
            for _ in ranges[shard]:
                next(watched)
                row, example = next(attempts)
                if example is None:
                    note(row["reason"])
                    yield row, None
                    continue
                encoded: Any = serializer.get_tf_example(info.features.encode_example(example))
                # A map of protocol buffers has no order of its own.
                yield row, encoded.SerializeToString(deterministic=True)

        for shard in missing:
            _write_shard(paths[shard], records(shard))
        for _ in watched:  # its last line
            pass


def _write_shard(path: Path, records: Iterable[tuple[dict[str, Any], bytes | None]]) -> None:
    """A shard and its table, whole or not at all. A row without a record was left out."""
    temporary = path.with_name(f"incomplete-{os.getpid()}-{path.name}")
    rows = []
    try:
        writer = ArrayRecordWriter(os.fspath(temporary), _WRITER)
        try:
            for row, record in records:
                rows.append(row)
                if record is not None:
                    writer.write(record)
        finally:
            writer.close()
        _replace(_table_path(path), json.dumps(rows))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _table_path(path: Path) -> Path:
    return path.with_name(f"table-{path.name}.json")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f"incomplete-{os.getpid()}-{path.name}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _gather(
    folder: str | os.PathLike[str], splits: Mapping[str, VideoDataset], packing: Packing
) -> dict[str, Any]:
    """The tables of the splits, each from those of its shards."""
    gathered = {}
    for split, dataset in splits.items():
        paths = _shard_paths(folder, split, dataset, packing)
        tables = [json.loads(_table_path(path).read_text(encoding="utf-8")) for path in paths]
        rows = [row for table in tables for row in table if "reason" not in row]
        left_out = {row["name"]: row["reason"] for t in tables for row in t if "reason" in row}
        if not rows:
            some = "\n  ".join(list(left_out.values())[:5])
            raise DataError(f"no video of {split!r} can be read:\n  {some}")
        gathered[split] = {
            "names": [row["name"] for row in rows],
            "label_sets": [row["labels"] for row in rows],
            "left_out": left_out,
            "missing": [*dataset.missing, *dataset.quarantined],
            "bytes_before": sum(row["bytes"] for row in rows),
            "shards": [sum("reason" not in row for row in table) for table in tables],
        }
    return gathered


def _finish(info: Any, folder: Path, plan: dict[str, Any], tables: dict[str, Any]) -> None:
    """Writes what TFDS knows a data set by; its `dataset_info.json` comes last."""
    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(folder), dataset_name=NAME, filetype_suffix="array_record"
    )
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=table["shards"],
            num_bytes=sum(path.stat().st_size for path in folder.glob(f"{NAME}-{split}.*")),
            filename_template=template.replace(split=split),
        )
        for split, table in tables.items()
    ]
    info.set_splits(tfds.core.splits.SplitDict(infos))
    info.metadata.update(plan, splits=tables)
    aside = folder / "incomplete-info"
    aside.mkdir(exist_ok=True)
    info.write_to_directory(aside)
    for path in sorted(aside.iterdir(), key=lambda path: path.name == "dataset_info.json"):
        path.replace(folder / path.name)
    aside.rmdir()
    _clean(folder)


def _clean(folder: Path) -> None:
    for pattern in ("table-*", "incomplete-*", _PLAN):
        for path in folder.glob(pattern):
            path.unlink()


# The videos, one after another, in this process or in others.


def _attempts(
    dataset, indices, packing, root, workers: int
) -> Generator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """(row, record) of the videos in order; the record is None where the row has a `reason`."""
    if not workers:
        for index in indices:
            yield _attempt(dataset, index, packing, root)
        return
    pending: collections.deque[Any] = collections.deque()
    with ProcessPoolExecutor(
        min(workers, len(indices)) or 1,
        # A fork of a process with threads may stop for ever.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
        initargs=(dataset, packing, root),
    ) as pool:
        try:
            for place, index in enumerate(indices):
                pending.append((place, pool.submit(_attempt_in_worker, index)))
                if len(pending) > 4 * workers:
                    yield pending.popleft()[1].result()
            while pending:
                yield pending.popleft()[1].result()
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process died, perhaps of a video, perhaps for want of memory; "
                "--workers 0 shows at which video"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_worker: tuple[Any, ...] = ()  # what this process packs


def _begin_worker(*what: Any) -> None:
    global _worker
    _worker = what
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _attempt_in_worker(index: int) -> tuple[dict[str, Any], dict[str, Any] | None]:
    dataset, packing, root = _worker
    return _attempt(dataset, index, packing, root)


def _attempt(dataset, index, packing, root) -> tuple[dict[str, Any], dict[str, Any] | None]:
    path, labels = dataset.paths[index], [int(label) for label in _label_sets(dataset)[index]]
    row: dict[str, Any] = {"name": _name(path, root), "labels": labels}
    try:
        with dataset.open(index) as video:
            fields = pack_video(video, packing)
    except VideoError as error:
        return {**row, "reason": str(error)}, None
    row["bytes"] = _bytes_of(path)
    label = dataset.labels[index]
    rest = {"label": label, "labels": np.asarray(labels, np.int64)}
    return row, {**fields, **rest, "class": dataset.classes[label], "name": row["name"]}


def _name(path: str, root: str | os.PathLike[str]) -> str:
    return path.removeprefix(os.path.join(root, "")) if root else path


def _bytes_of(path: str) -> int:
    if os.path.isdir(path):
        return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())
    return os.path.getsize(path) if os.path.isfile(path) else 0


# The same as a builder of TFDS's.


@dataclasses.dataclass(frozen=True)
class _Shard:
    """Makes the examples of one shard, wherever TFDS calls it: here, or on a worker of Beam."""

    dataset: VideoDataset
    indices: range
    packing: Packing
    root: str

    def __call__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for index in self.indices:
            row, example = _attempt(self.dataset, index, self.packing, self.root)
            if example is None:
                logging.warning("left out: %s", row["reason"])
            else:
                yield json.dumps(row), example


class _TableWriter(tfds_writer.ExampleWriter):
    """Writes a shard with its table beside it; the keys of the examples are its rows."""

    def write(self, path: Any, examples: Iterable[tuple[Any, Any]]) -> None:
        _write_shard(Path(path), ((json.loads(key), record) for key, record in examples))


class PackedVideos(tfds.core.ShardBasedBuilder):
    """`pack` as a TFDS builder: `PackedVideos(splits, data_dir=DIR).download_and_prepare()`.

    With `download_config=tfds.download.DownloadConfig(beam_runner=..., beam_options=...)` the
    shards are made by Apache Beam, each as a whole by one worker. `load_packed` opens the
    builder's `data_dir`. Videos that cannot be read are left out and named in the metadata.
    """

    VERSION = tfds.core.Version(VERSION)
    code_path = None  # TFDS looks there for checksums of downloads

    def __init__(
        self,
        splits: Mapping[str, VideoDataset],
        packing: Packing = Packing(),
        *,
        root: str = "",
        data_dir: str | os.PathLike[str] | None = None,
    ):
        self._parts, self._packing, self._root = dict(splits), packing, root
        self._classes = _same_classes(splits)
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self, self._classes)

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        folder = Path(self.data_dir)
        tables = _gather(folder, self._parts, self._packing)
        for split, dataset in self._parts.items():
            # Their reasons are in the logs of whoever made the shards.
            lost = collections.Counter(_name(path, self._root) for path in dataset.paths)
            lost.subtract(tables[split]["names"])
            tables[split]["left_out"] = {n: "cannot be read" for n, k in lost.items() if k > 0}
        metadata: Any = self.info.metadata
        metadata.update(_plan(self._parts, self._packing), splits=tables)
        _clean(folder)

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[_Shard]]:
        del dl_manager
        return {
            split: [
                _Shard(dataset, indices, self._packing, self._root)
                for indices in _shard_ranges(dataset, self._packing)
            ]
            for split, dataset in self._parts.items()
        }

    def _example_writer(self) -> _TableWriter:
        return _TableWriter(tfds.core.FileFormat.ARRAY_RECORD)
