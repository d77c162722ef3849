"""The files of a packed folder: its plan, shards, tables and TFDS metadata.

While a folder is incomplete it contains `packing.json`, the plan, and a table beside each shard
with one row per video. At the end the tables are gathered in TFDS's `metadata.json`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from tensorflow_datasets.core import dataset_info as tfds_info

from jaxvideo.data import beam
from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.packed.read import PLAN
from jaxvideo.data.packed.record import Packing
from jaxvideo.data.packed.workers import label_sets
from jaxvideo.names import escape
from jaxvideo.progress import TEMPORARY, replacing, write_file
from jaxvideo.types import DataError

NAME, VERSION = "packed_videos", "1.1.0"

# The videos are already compressed, or meant to be read as they are; groups of one record make
# random access fast.
_WRITER = "group_size:1,uncompressed"


def make_plan(splits: Mapping[str, VideoDataset], packing: Packing) -> dict[str, Any]:
    """Returns everything that determines the shards, as JSON types, to compare with a file."""
    return {
        "packing": dataclasses.asdict(packing),
        "classes": same_classes(splits),
        "videos": {name: _digest(dataset) for name, dataset in splits.items()},
        "version": VERSION,
    }


def same_classes(splits: Mapping[str, VideoDataset]) -> list[str]:
    """Returns the classes that all splits share.

    Raises:
      DataError: the splits have different classes, or one is empty.
    """
    (first, one), *others = splits.items()
    for name, other in others:
        if other.classes != one.classes:
            raise DataError(
                f"{first!r} and {name!r} have different classes: pack them into separate folders"
            )
    for name, dataset in splits.items():
        if not len(dataset):
            raise DataError(f"{name!r} contains no video")
    return list(one.classes)


def _digest(dataset: VideoDataset) -> str:
    text = json.dumps([dataset.paths, label_sets(dataset)])
    return f"{len(dataset)} videos, {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def read_finished(folder: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the tables of a complete folder; otherwise stores the plan in it and returns None.

    Raises:
      DataError: the folder contains other files, or has another plan.
    """
    if (folder / "dataset_info.json").exists():
        metadata: Any = tfds.builder_from_directory(folder).info.metadata
        # Complete folders of older versions are read as before.
        _check_plan(folder, metadata, {**plan, "version": metadata.get("version")})
        return metadata["splits"]
    if (folder / PLAN).exists():
        _check_plan(folder, json.loads((folder / PLAN).read_text()), plan)
    elif folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty and not a packed folder: use another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / PLAN, json.dumps(plan))
    return None


def _check_plan(folder: Path, found: dict[str, Any], plan: dict[str, Any]) -> None:
    for key in plan:
        if found.get(key) != plan[key]:
            raise DataError(
                f"{folder} was packed with other {key}: {_short(found.get(key))}, not "
                f"{_short(plan[key])}; use another folder, or delete it"
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 200 else text[:200] + " ..."


def features_of(classes: Sequence[str]) -> tfds.features.FeaturesDict:
    """Returns the features of a record, as TFDS describes them."""
    numbers = functools.partial(tfds.features.Tensor, shape=(None,))
    return tfds.features.FeaturesDict(
        {
            "format": tfds.features.Text(),
            # Text stores arbitrary bytes without TensorFlow, which Video and Image require.
            "video": tfds.features.Text(),
            "extradata": tfds.features.Text(),
            "offsets": numbers(dtype=np.int64),
            "keyframes": numbers(dtype=np.int64),
            "parts": numbers(dtype=np.int64),
            "times": numbers(dtype=np.float64),
            "shape": tfds.features.Tensor(shape=(2,), dtype=np.int64),
            "colors": tfds.features.Tensor(shape=(2,), dtype=np.int64),
            "label": tfds.features.ClassLabel(names=[escape(name) for name in classes]),
            "labels": numbers(dtype=np.int64),
            "class": tfds.features.Text(),
            "name": tfds.features.Text(),
        }
    )


def new_info(folder: Path, classes: Sequence[str]) -> tfds.core.DatasetInfo:
    """Returns the TFDS info of a folder that is written without a builder."""
    identity = tfds_info.DatasetIdentity(
        name=NAME,
        version=tfds.core.Version(VERSION),
        data_dir=os.fspath(folder),
        module_name=__name__,
    )
    return make_info(identity, classes)


def make_info(builder: Any, classes: Sequence[str]) -> tfds.core.DatasetInfo:
    """Returns the TFDS info of a builder or a dataset identity."""
    info = tfds.core.DatasetInfo(
        builder=builder,
        description="Videos packed by jaxvideo; see jaxvideo.data.packed.",
        features=features_of(classes),
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict(),
    )
    info.set_file_format("array_record")
    return info


def shard_ranges(dataset: VideoDataset, packing: Packing) -> list[range]:
    """Returns the indices of the videos of each shard."""
    step = packing.per_shard
    return [range(i, min(i + step, len(dataset))) for i in range(0, len(dataset), step)]


def shard_paths(folder, split: str, dataset: VideoDataset, packing: Packing) -> list[Path]:
    """Returns the path of each shard."""
    count = len(shard_ranges(dataset, packing))
    name = f"{NAME}-{split}.array_record"
    return [Path(folder, f"{name}-{i:05d}-of-{count:05d}") for i in range(count)]


def write_shard(path: Path, records: Iterable[tuple[dict[str, Any] | None, bytes | None]]) -> None:
    """Writes a shard and its table atomically.

    Args:
      path: the shard.
      records: (row of the table, serialized record); the record of a video that is left out is
        None. A further record of the same video has no row.
    """
    rows = []
    with replacing(path) as temporary:
        writer = ArrayRecordWriter(os.fspath(temporary), _WRITER)
        try:
            for row, record in records:
                if row is not None:
                    rows.append(row)
                if record is not None:
                    writer.write(record)
        finally:
            writer.close()
        write_file(_table_path(path), json.dumps(rows))


def _table_path(path: Path) -> Path:
    return path.with_name(f"table-{path.name}.json")


def gather(
    folder: str | os.PathLike[str], splits: Mapping[str, VideoDataset], packing: Packing
) -> dict[str, Any]:
    """Merges the tables of all shards, by split.

    Raises:
      DataError: no video of a split can be read.
    """
    gathered = {}
    for split, dataset in splits.items():
        paths = shard_paths(folder, split, dataset, packing)
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
            "records": [row["records"] for row in rows],
            "shards": [
                sum(row["records"] for row in table if "reason" not in row) for table in tables
            ],
        }
    return gathered


def finish(info: Any, folder: Path, plan: dict[str, Any], tables: dict[str, Any]) -> None:
    """Writes the TFDS metadata, `dataset_info.json` last, and removes temporary files."""
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
    clean(folder)


def clean(folder: Path) -> None:
    """Removes the plan, tables and temporary files."""
    for pattern in ("table-*", f"{TEMPORARY}*", PLAN):
        for path in folder.glob(pattern):
            path.unlink()
    for path in folder.glob(f"{beam.TEMPORARY}*"):  # of a run that was killed
        shutil.rmtree(path)
