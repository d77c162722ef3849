"""Pack data sets into ArrayRecord shards on one machine or on Apache Beam, resumably.

A video is one record, or several if it is large (see `record`). Names, labels and settings are
stored in the folder's `metadata.json`, which TFDS writes and reads;
`tensorflow_datasets.builder_from_directory(folder)` opens a packed folder. `builder.PackedVideos`
writes the same shards as a TFDS builder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorflow_datasets.core import example_serializer

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.engines import Engine, map_here, map_items
from jaxvideo.data.packed import shards
from jaxvideo.data.packed.record import Packing
from jaxvideo.data.packed.workers import Result, read_one
from jaxvideo.types import DataError


@dataclasses.dataclass(frozen=True)
class Summary:
    """Result of `pack`.

    Attributes:
      videos: number of videos in the shards.
      left_out: reason for each video that cannot be read, by "split: name".
      bytes_before: size of the source files; 0 for sources that are not files.
      bytes_after: size of the shards.
    """

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
    engine: Engine = Engine(),
    watch: Callable[[Sequence[int]], Iterable[int]] = iter,
    note: Callable[[str], None] = lambda text: None,
) -> Summary:
    """Packs data sets with the same classes into a folder that TFDS can read.

    If it is stopped at any moment, the same call completes it: complete shards are kept, the
    others are written again. TFDS does not accept the folder as a data set until it is complete.
    The shards depend only on the videos and `packing`.

        pack(load_splits("data/ucf101"), "data/ucf101-packed", Packing(size=128))

    Args:
      splits: data sets by name, for example "train" and "val".
      folder: the folder to write.
      packing: the settings.
      root: prefix that is removed from the videos' paths to get their names.
      engine: where to read and encode, by default in this process. The workers of Beam write one
        shard each, and must see the videos and `folder` under the same paths.
      watch: wraps the sequence of videos to pack, for example in a progress bar.
      note: called with the reason for each video that is left out.

    Raises:
      DataError: the splits differ in their classes, the folder contains other files or other
        settings, it cannot be written, or no video of a split can be read.
    """
    folder = Path(folder)
    plan = shards.make_plan(splits, packing)
    try:
        tables = shards.read_finished(folder, plan)
        if tables is None:
            info = shards.new_info(folder, plan["classes"])
            for split, dataset in splits.items():
                _pack_split(info, split, dataset, folder, packing, root, engine, watch, note)
            tables = shards.gather(folder, splits, packing)
            shards.finish(info, folder, plan, tables)
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
        bytes_after=sum(path.stat().st_size for path in folder.glob(f"{shards.NAME}-*")),
    )


def _pack_split(info, split, dataset, folder, packing, root, engine, watch, note) -> None:
    ranges = shards.shard_ranges(dataset, packing)
    paths = shards.shard_paths(folder, split, dataset, packing)
    # A shard is renamed to its final name after its table is written.
    missing = [i for i, path in enumerate(paths) if not path.exists()]
    todo = [index for i in missing for index in ranges[i]]
    watched = iter(watch(todo)) if todo else iter(())
    read = functools.partial(read_one, packing=packing, root=os.fspath(root))
    if engine.name == "beam":
        write = functools.partial(_write_shard, read=read)
        jobs = [(paths[i], dataset.part(ranges[i])) for i in missing]
        with contextlib.closing(map_items(write, jobs, engine, folder=folder)) as written:
            for place, reasons in written:
                for _ in ranges[missing[place]]:
                    next(watched)
                for text in reasons:
                    note(text)
    else:
        # Processes share the videos of a shard, since there may be few shards.
        read_here = functools.partial(read, dataset)
        found = map_here(read_here, todo, engine.workers, ordered=True)
        with contextlib.closing(found) as results:

            def of_shard(shard: int) -> Iterator[Result]:
                for _ in ranges[shard]:
                    next(watched)
                    _, (row, examples) = next(results)
                    if not examples:
                        note(row["reason"])
                    yield row, examples

            for shard in missing:
                shards.write_shard(paths[shard], _serialized(of_shard(shard), info.features))
    for _ in watched:  # lets `watch` finish, for example a progress bar
        pass


def _write_shard(job: tuple[Path, VideoDataset], read: Callable[..., Result]) -> list[str]:
    """Writes the shard of a (path, data set); returns the reasons of videos that are left out."""
    path, dataset = job
    reasons: list[str] = []

    def results() -> Iterator[Result]:
        for index in range(len(dataset)):
            row, examples = read(dataset, index)
            if not examples:
                reasons.append(row["reason"])
            yield row, examples

    if not path.exists():  # Beam may compute a job twice
        shards.write_shard(path, _serialized(results(), shards.features_of(dataset.classes)))
    return reasons


def _serialized(
    results: Iterable[Result], features: Any
) -> Iterator[tuple[dict[str, Any] | None, bytes | None]]:
    """Yields the records of `shards.write_shard`."""
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    for row, examples in results:
        if not examples:
            yield row, None
        for place, example in enumerate(examples):
            encoded: Any = serializer.get_tf_example(features.encode_example(example))
            # Maps in protocol buffers have no order, unless asked for.
            yield None if place else row, encoded.SerializeToString(deterministic=True)
