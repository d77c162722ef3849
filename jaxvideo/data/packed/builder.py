"""Pack data sets by a TFDS builder, alone or on Apache Beam."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer as tfds_writer

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.packed import shards
from jaxvideo.data.packed.record import Packing
from jaxvideo.data.packed.workers import read_one, short_name
from jaxvideo.progress import LOG


@dataclasses.dataclass(frozen=True)
class _Shard:
    """Yields the examples of one shard, in this process or on a Beam worker."""

    dataset: VideoDataset  # the videos of the shard only
    packing: Packing
    root: str

    def __call__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for index in range(len(self.dataset)):
            row, examples = read_one(self.dataset, index, self.packing, self.root)
            if not examples:
                LOG.warning("left out: %s", row["reason"])
            for place, example in enumerate(examples):
                yield json.dumps(None if place else row), example


class _TableWriter(tfds_writer.ExampleWriter):
    """Writes a shard and its table; the keys of the examples are the table's rows, or null."""

    def write(self, path: Any, examples: Iterable[tuple[Any, Any]]) -> None:
        shards.write_shard(Path(path), ((json.loads(key), record) for key, record in examples))


class PackedVideos(tfds.core.ShardBasedBuilder):
    """TFDS builder that writes the same shards as `write.pack`.

        PackedVideos(splits, data_dir=DIR).download_and_prepare()

    With `download_config=tfds.download.DownloadConfig(beam_runner=..., beam_options=...)` the
    shards are written by Apache Beam, each by one worker. `read.load_packed` opens the builder's
    `data_dir`. Videos that cannot be read are left out and listed in the metadata.

    Args:
      splits: data sets by name.
      packing: the settings.
      root: prefix that is removed from the videos' paths to get their names.
      data_dir: the folder of TFDS data sets.
    """

    VERSION = tfds.core.Version(shards.VERSION)
    code_path = None  # TFDS would search there for checksums of downloads

    def __init__(
        self,
        splits: Mapping[str, VideoDataset],
        packing: Packing = Packing(),
        *,
        root: str = "",
        data_dir: str | os.PathLike[str] | None = None,
    ):
        self._parts, self._packing, self._root = dict(splits), packing, root
        self._classes = shards.same_classes(splits)
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return shards.make_info(self, self._classes)

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        folder = Path(self.data_dir)
        tables = shards.gather(folder, self._parts, self._packing)
        for split, dataset in self._parts.items():
            # The reasons are in the logs of the workers that wrote the shards.
            lost = collections.Counter(short_name(path, self._root) for path in dataset.paths)
            lost.subtract(tables[split]["names"])
            tables[split]["left_out"] = {n: "cannot be read" for n, k in lost.items() if k > 0}
        metadata: Any = self.info.metadata
        metadata.update(shards.make_plan(self._parts, self._packing), splits=tables)
        shards.clean(folder)

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[_Shard]]:
        del dl_manager
        return {
            split: [
                _Shard(dataset.part(videos), self._packing, self._root)
                for videos in shards.shard_ranges(dataset, self._packing)
            ]
            for split, dataset in self._parts.items()
        }

    def _example_writer(self) -> _TableWriter:
        return _TableWriter(tfds.core.FileFormat.ARRAY_RECORD)
