"""From a list of videos to batches of uint8 clips, through Grain.

What stands at position p of the stream is a pure function of (seed, p): the epoch, the place
in that epoch's order, and the random numbers, which come from (seed, epoch, video, view).
So the stream is the same for any number of threads, workers and hosts, and the state of a
loader is one integer, the index of the next batch.

Reader threads are the default, because PyAV and OpenCV release Python's lock: two threads
do what two processes do, and start at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Generator, Sequence
from typing import Any

import grain
import numpy as np

from jaxvideo.data import flow
from jaxvideo.data.datasets import VideoDataset
from jaxvideo.data.decode import VideoFile, open_video, read_clip
from jaxvideo.data.views import RandomCrop, protocol_views, random_view
from jaxvideo.types import ConfigError, DataError, Preprocessing, Protocol, VideoError, View

Batch = dict[str, np.ndarray]

# Bytes of a broken video's error that travel with the batch, zero padded.
_ERROR_BYTES = 240


@dataclasses.dataclass(frozen=True)
class Loading:
    """How the host reads; none of it changes what is read.

    Attributes:
      threads: decoding threads of a process.
      workers: worker processes, each with its own threads; 0 reads in this process.
      prefetch: batches held ready.
    """

    threads: int = 2
    workers: int = 0
    prefetch: int = 2

    def __post_init__(self):
        if self.threads < 1 or self.workers < 0 or self.prefetch < 1:
            raise ConfigError(f"{self}: threads and prefetch from 1, workers from 0")


@dataclasses.dataclass(frozen=True)
class Share:
    """Which part of every global batch this host reads: the `index`-th of `count`."""

    index: int = 0
    count: int = 1


def train_batches(
    dataset: VideoDataset,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    seed: int,
    first_batch: int = 0,
    last_batch: int,
    views_per_video: int = 1,
    crop: RandomCrop = RandomCrop(),
    loading: Loading = Loading(),
    share: Share = Share(),
) -> Generator[Batch]:
    """Random views in random order, batches `first_batch` to `last_batch` (exclusive).

    A batch: `video` uint8 `[N, T, H, W, C]` (`Preprocessing.video_shape`); `label` int32 `[N]`;
    `weight` f32 `[N]`, 0 where a video could not be read (its place holds another clip of the
    batch, which then counts only once); `sample` int32 `[N, 3]`, (epoch, video, view); `error`
    uint8 `[N, 240]`, the reason as text, zeros where there is none. N is this host's share of
    `batch_size`.

    An epoch is `views_per_video` views of every video, in an order of its own.
    """
    positions = _host_positions(batch_size, share)
    if not len(dataset):
        raise DataError("the data set holds no video")

    def load(position: int) -> Batch:
        # Python's whole numbers, because positions of a long run overflow 32 bits.
        place = first_batch * batch_size + positions(position)
        epoch, within = divmod(place, len(dataset) * views_per_video)
        ticket = int(_order(seed, epoch, len(dataset) * views_per_video)[within])
        video, view = divmod(ticket, views_per_video)
        rng = np.random.default_rng((seed, epoch, video, view))

        def choose(file):
            drawn = random_view(
                file.num_frames,
                file.height,
                file.width,
                file.fps,
                preprocessing,
                rng,
                crop=crop,
            )
            return [drawn]

        sample = _read(dataset, video, preprocessing, 1, choose)
        sample["video"] = sample["video"][0]
        sample["sample"] = np.asarray((epoch, video, view), np.int32)
        return sample

    count = (last_batch - first_batch) * (batch_size // share.count)
    return _batches(load, count, batch_size // share.count, loading)


def protocol_batches(
    dataset: VideoDataset,
    preprocessing: Preprocessing,
    protocol: Protocol,
    *,
    batch_size: int,
    loading: Loading = Loading(),
    share: Share = Share(),
) -> Generator[Batch]:
    """Every view of a protocol, of every video, once.

    A batch: `video` uint8 `[N, crops, T, H, W, C]`, `label`, `weight`, `error` as in
    `train_batches`, and `sample` int32 `[N, 2]`, (video, clip). `weight` is 0 also for the
    filling of the last batch, whose `error` is empty.
    """
    positions = _host_positions(batch_size, share)
    total = len(dataset) * protocol.clips

    def load(position: int) -> Batch:
        place = positions(position)
        video, clip = divmod(min(place, total - 1), protocol.clips)

        def choose(file):
            views = protocol_views(
                file.num_frames, file.height, file.width, file.fps, preprocessing, protocol
            )
            return views[clip]

        if place < total:
            sample = _read(dataset, video, preprocessing, protocol.crops, choose)
        else:
            sample = _blank(dataset.labels[video], preprocessing, protocol.crops)
        sample["sample"] = np.asarray((video, clip), np.int32)
        return sample

    batches = -(-total // batch_size)
    return _batches(load, batches * (batch_size // share.count), batch_size // share.count, loading)


def read_views(file: VideoFile, views: Sequence[View], preprocessing: Preprocessing) -> np.ndarray:
    """What the host ships of views that share their frames: uint8 `[views, T, H, W, C]`, of the
    preprocessing's `video_shape`: frames, or flow where the host has it to do.

    Raises:
      VideoError: a frame cannot be decoded, or there is no stored flow.
    """
    p = preprocessing
    if not p.host_flow:
        return read_clip(file, views, p.crop)
    if p.flow == "stored":
        # Field i is the motion from frame i to the next; a segment's last frame has none.
        indices = np.reshape(views[0].frames, (p.segments, p.snippet))[:, :-1].ravel()
        fields = np.stack([_stored_flow(file, indices, view, p.crop) for view in views])
        if p.modality == "flow":
            return fields
        frames = read_clip(
            file, [dataclasses.replace(view, frames=tuple(indices)) for view in views], p.crop
        )
    else:
        frames = read_clip(file, views, p.crop)
        snippets = frames.reshape(-1, p.snippet, *frames.shape[2:])
        method, warped = p.flow.removeprefix("warped_"), p.flow.startswith("warped_")
        compute = flow.warped_flow if warped else flow.host_flow
        fields = np.stack([flow.quantise(compute(snippet, method)) for snippet in snippets])
        frames = snippets[:, :-1].reshape(len(views), -1, *frames.shape[2:])
        fields = fields.reshape(*frames.shape[:-1], 2)
    return fields if p.modality == "flow" else np.concatenate([frames, fields], -1)


def _stored_flow(file: VideoFile, indices: np.ndarray, view: View, size: int) -> np.ndarray:
    path = flow.flow_path(file.path)
    if not path.exists():
        raise VideoError(f"{path} does not exist; `python -m jaxvideo flow` makes it")
    # A video that is looped has no motion from its last frame to its first.
    fields = np.minimum(indices, max(file.num_frames - 2, 0))
    clip = flow.read_flow_clip(path, fields.tolist(), view.window, size)
    return flow.mirror(clip) if view.mirrored else clip


def error_text(row: np.ndarray) -> str:
    """The text of one row of a batch's `error`; empty if the video was read."""
    return bytes(row).rstrip(b"\0").decode("utf-8", "replace")


def _host_positions(batch_size: int, share: Share):
    """From a host's own positions to global ones: contiguous parts of every global batch, so
    that normalisation groups, which are contiguous too, do not depend on the hosts."""
    if batch_size < 1 or batch_size % share.count:
        raise ConfigError(f"a batch of {batch_size} cannot be shared by {share.count} hosts")
    local = batch_size // share.count

    def position(own: int) -> int:
        batch, within = divmod(own, local)
        return batch * batch_size + share.index * local + within

    return position


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def _read(dataset, video, preprocessing, crops, choose) -> Batch:
    label, path = dataset.labels[video], dataset.paths[video]
    try:
        with open_video(path) as file:
            clip = read_views(file, choose(file), preprocessing)
    except VideoError as error:
        sample = _blank(label, preprocessing, crops)
        text = str(error).encode()[:_ERROR_BYTES]
        sample["error"][: len(text)] = np.frombuffer(text, np.uint8)
        return sample
    return _sample(clip, label, 1.0)


def _blank(label: int, preprocessing: Preprocessing, crops: int) -> Batch:
    return _sample(np.zeros((crops, *preprocessing.video_shape), np.uint8), label, 0.0)


def _sample(clip: np.ndarray, label: int, weight: float) -> Batch:
    return {
        "video": clip,
        "label": np.asarray(label, np.int32),
        "weight": np.asarray(weight, np.float32),
        "error": np.zeros(_ERROR_BYTES, np.uint8),
    }


def _collate(samples: Sequence[Batch]) -> Batch:
    """Stacks samples. A video that could not be read gets a neighbour's pixels: its weight
    keeps it out of loss and metrics, and black frames must not enter BN's statistics."""
    batch = {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    broken = np.flatnonzero(batch["weight"] == 0)
    whole = np.flatnonzero(batch["weight"])
    for number, place in enumerate(broken if len(whole) else ()):
        batch["video"][place] = batch["video"][whole[number % len(whole)]]
    return batch


def _batches(load, count: int, batch_size: int, loading: Loading) -> Generator[Batch]:
    if count <= 0:
        return
    stream: Any = grain.MapDataset.range(count).map(load).batch(batch_size, batch_fn=_collate)
    # Grain reads whole batches per thread here; the buffer is counted in batches too.
    stream = stream.to_iter_dataset(
        grain.ReadOptions(num_threads=loading.threads, prefetch_buffer_size=loading.prefetch)
    )
    if loading.workers:
        _mark_flags_parsed()
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=loading.workers))
    iterator = iter(stream)
    try:
        yield from iterator
    finally:
        with contextlib.suppress(AttributeError):
            iterator.close()


def _mark_flags_parsed() -> None:
    # Grain's workers read absl flags, which nobody has parsed in a notebook or under pytest.
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
