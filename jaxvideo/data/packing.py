"""Videos packed into ArrayRecord shards, which TFDS writes and reads; TensorFlow is not needed.

One record is one video (see `records`). Names, labels and the settings lie in the
`metadata.json` of the folder, which TFDS writes and reads itself;
`tensorflow_datasets.builder_from_directory(folder)` opens what is packed here.

Two ways write the same shards: `pack`, on the cores of one machine and resumable, and the TFDS
builder `PackedVideos`, alone or on Apache Beam.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
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
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from tensorflow_datasets.core import dataset_info as tfds_info
from tensorflow_datasets.core import example_serializer
from tensorflow_datasets.core import writer as tfds_writer

from jaxvideo.data.datasets import VideoDataset
from jaxvideo.data.decode import VideoFile
from jaxvideo.data.records import Packing, pack_video, scaled_frames
from jaxvideo.data.tfds import PLAN
from jaxvideo.progress import LOG, TEMPORARY, replacing, write_file
from jaxvideo.types import DataError, VideoError

NAME, VERSION = "packed_videos", "1.0.0"

# ArrayRecord would compress what is compressed; a group of one is what random access wants.
_WRITER = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `pack` did: videos written, the reason of each that was left out by "split: name", and
    bytes of the videos before and after (0 before where they are no files)."""

    videos: int
    left_out: dict[str, str]
    bytes_before: int
    bytes_after: int


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
    if (folder / PLAN).exists():
        _check_plan(folder, json.loads((folder / PLAN).read_text()), plan)
    elif folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty and holds nothing packed: name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / PLAN, json.dumps(plan))
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
        description="Videos packed by jaxvideo; see jaxvideo.data.packing.",
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
    """Writes a shard and its table as a whole. A row without a record was left out."""
    rows = []
    with replacing(path) as temporary:
        writer = ArrayRecordWriter(os.fspath(temporary), _WRITER)
        try:
            for row, record in records:
                rows.append(row)
                if record is not None:
                    writer.write(record)
        finally:
            writer.close()
        write_file(_table_path(path), json.dumps(rows))


def _table_path(path: Path) -> Path:
    return path.with_name(f"table-{path.name}.json")


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
    aside = folder / f"{TEMPORARY}info"
    aside.mkdir(exist_ok=True)
    info.write_to_directory(aside)
    for path in sorted(aside.iterdir(), key=lambda path: path.name == "dataset_info.json"):
        path.replace(folder / path.name)
    aside.rmdir()
    _clean(folder)


def _clean(folder: Path) -> None:
    for pattern in ("table-*", f"{TEMPORARY}*", PLAN):
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
                LOG.warning("left out: %s", row["reason"])
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
