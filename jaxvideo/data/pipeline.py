"""Load batches of uint8 clips from a data set, through Grain.

The sample at position p of the stream is a pure function of (seed, p): its epoch, its place in the
order of that epoch, and its random numbers, which depend on (seed, epoch, video, view). The stream
is therefore the same for any number of threads, workers and hosts, and the state of a loader is one
integer, the index of the next batch.

Reader threads are the default: PyAV and OpenCV release the GIL, so two threads are as fast as two
processes and start at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np

from jaxvideo.data import flow, stored_flow
from jaxvideo.data.cache import cache_frames, indexed
from jaxvideo.data.crops import RandomCrop
from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.decode import read_clip
from jaxvideo.data.loading import Loading
from jaxvideo.data.samplers import find_sampler
from jaxvideo.data.video import VideoFile
from jaxvideo.data.views import random_view
from jaxvideo.types import BLACK, ConfigError, DataError, Preprocessing, VideoError, View

#: The arrays of a batch by name, see `train_batches`.
Batch = dict[str, np.ndarray]

# Length of the `error` of a sample in bytes, zero-padded.
_ERROR_BYTES = 240


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of every global batch that this host reads: part `index` of `count`, from 0."""

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
    repeated: int = 1,
    crop: RandomCrop = RandomCrop(),
    sampler: str = "",
    loading: Loading = Loading(),
    share: Share = Share(),
) -> Generator[Batch]:
    """Yields batches of random views in random order.

        for batch in train_batches(dataset, preprocessing, batch_size=8, seed=0, last_batch=100):
            print(batch["video"].shape, batch["label"])

    An epoch contains `views_per_video` views of every video. Each epoch has another random order.

    Args:
      dataset: the videos.
      preprocessing: what the network expects.
      batch_size: size of the global batch, over all hosts.
      seed: determines the stream.
      first_batch, last_batch: range of the batches, `last_batch` exclusive.
      views_per_video: views of each video in an epoch.
      repeated: number of augmented copies per decoded clip, adjacent in the batch, with different
        crops (repeated augmentation, arXiv 1901.09335). It must divide `views_per_video`.
      crop: distribution of the crops.
      sampler: a row of `samplers.SAMPLERS`; "" (default): as the preprocessing needs.
      loading: threads, processes and caches.
      share: the part of the global batch that this host reads.

    Yields:
      Arrays of this host's N samples. `video`: uint8 `[N, *Preprocessing.transfer_shape]`, which
      `inference.prepare.to_rgb` converts to RGB. `label`: int32 `[N]`; if the data set has
      `label_sets`, f32 `[N, classes]` with 1 for each label. `weight`: f32 `[N]`, 0 for a video
      that cannot be read; its pixels are those of the next readable clip of the global batch.
      `sample`: int32 `[N, 3]`, (epoch, video, view). `error`: uint8 `[N, 240]`, see `error_text`.

    Raises:
      ConfigError: invalid `repeated`, `views_per_video`, `sampler`, or batch size for `share`.
      DataError: the data set contains no video.
    """
    if repeated < 1 or views_per_video < 1 or views_per_video % repeated:
        raise ConfigError(
            f"views_per_video={views_per_video}, repeated={repeated}: both must be at least 1, and "
            "repeated must divide views_per_video"
        )
    # Looked up here: a worker process does not have the rows that a program has added.
    drawing = find_sampler(sampler, preprocessing)
    places_of = _host_places(batch_size, share)
    if not len(dataset):
        raise DataError("the data set contains no video")
    draws = views_per_video // repeated
    (dataset,) = cache_frames([indexed(dataset, loading)], preprocessing, loading)

    def ticket(place: int) -> tuple[int, int, int, int]:
        """Maps a position of the stream to (epoch, video, draw, copy)."""
        # Python integers: positions of a long run exceed 32 bits.
        epoch, within = divmod(place, len(dataset) * views_per_video)
        within, copy = divmod(within, repeated)
        drawn = int(_order(seed, epoch, len(dataset) * draws)[within])
        return epoch, *divmod(drawn, draws), copy

    def read(places: Sequence[int]) -> list[Batch]:
        samples = []
        for drawn, group in itertools.groupby(map(ticket, places), lambda found: found[:3]):
            epoch, video, draw = drawn
            copies = [copy for *_, copy in group]

            def choose(file: VideoFile, drawn=drawn, copies=copies) -> list[View]:
                rng = np.random.default_rng((seed, *drawn))
                size = file.height, file.width
                view = random_view(
                    file.num_frames,
                    *size,
                    file.fps,
                    preprocessing,
                    rng,
                    crop=crop,
                    sampler=drawing,
                    times=file.times,
                    pixel_aspect=file.pixel_aspect,
                )
                windows = [view.window]
                windows += [
                    crop.window(*size, preprocessing, rng, file.pixel_aspect)
                    for _ in range(repeated - 1)
                ]
                return [dataclasses.replace(view, window=windows[copy]) for copy in copies]

            clips = _read(dataset, video, preprocessing, len(copies), choose)
            for copy, sample in zip(copies, clips, strict=True):
                view = draw * repeated + copy
                sample["sample"] = np.asarray((epoch, video, view), np.int32)
            samples += clips
        return samples

    def load(batch: int) -> Batch:
        places = places_of(first_batch + batch)
        samples = dict(zip(places, read(places), strict=True))
        for place, sample in samples.items():
            if not sample["weight"]:
                # Weight 0 excludes it from loss and metrics, but BN statistics include its pixels.
                sample["video"] = _stand_in(place, batch_size, samples, read)
        return _stack(list(samples.values()))

    return _batches(load, last_batch - first_batch, loading)


def read_views(file: VideoFile, views: Sequence[View], preprocessing: Preprocessing) -> np.ndarray:
    """Reads the input of the device for views with the same frames.

    Args:
      file: an open video.
      views: views with the same `frames`.
      preprocessing: what the network expects.

    Returns:
      uint8 `[views, *preprocessing.transfer_shape]`: planes or RGB frames, or quantized flow if
      the host computes or loads it (`Preprocessing.host_flow`).

    Raises:
      VideoError: a frame cannot be decoded, or the stored flow does not exist.
    """
    p = preprocessing
    if not p.host_flow:
        return _frames(file, views, p)
    if p.flow == "stored":
        # Field i is the motion from frame i to i + 1; the last frame of a segment has none.
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
        fields = np.stack([flow.quantize(compute(snippet, method)) for snippet in snippets])
        frames = snippets[:, :-1].reshape(len(views), -1, *frames.shape[2:])
        fields = fields.reshape(*frames.shape[:-1], 2)
    return fields if p.modality == "flow" else np.concatenate([frames, fields], -1)


def as_stored(file: VideoFile, preprocessing: Preprocessing) -> Preprocessing:
    """Returns the preprocessing with `pixels="rgb"` if the frames are RGB already.

    Arrays and images would lose color resolution as planes. Batches of several videos use one
    form for all.
    """
    return preprocessing if file.planar else dataclasses.replace(preprocessing, pixels="rgb")


def _frames(file: VideoFile, views: Sequence[View], p: Preprocessing) -> np.ndarray:
    black = np.asarray(views[0].frames) == BLACK
    if black.any():
        # Decodes the first frame in their place, which is then overwritten.
        first, *_ = views[0].frames
        shown = tuple(first if index == BLACK else index for index in views[0].frames)
        views = [dataclasses.replace(view, frames=shown) for view in views]
    frames = read_clip(file, views, p.crop, p.pixels)
    frames[:, black] = 0
    return frames


def _stored_flow(file: VideoFile, indices: np.ndarray, view: View, size: int) -> np.ndarray:
    path = stored_flow.find_flow(file.path)
    if not path:
        beside = stored_flow.flow_path(file.path)
        raise VideoError(f"{beside} does not exist; create it by `jaxvideo flow`")
    # There is no field from the last frame to the first, which a looped video would need.
    fields = np.minimum(indices, max(file.num_frames - 2, 0))
    clip = stored_flow.read_flow_clip(path, fields.tolist(), view.window, size)
    return flow.mirror(clip) if view.mirrored else clip


def error_text(row: np.ndarray) -> str:
    """Decodes one row of a batch's `error`; empty if the video was read."""
    return bytes(row).rstrip(b"\0").decode("utf-8", "replace")


def _host_places(batch_size: int, share: Share) -> Callable[[int], range]:
    """Returns a function from a batch's index to this host's positions of the stream.

    Hosts read contiguous parts of a global batch. BN groups are contiguous too, so they do not
    depend on the number of hosts.
    """
    if batch_size < 1 or batch_size % share.count:
        raise ConfigError(
            f"batch_size={batch_size} must be positive and divisible by the {share.count} hosts"
        )
    local = batch_size // share.count

    def places(batch: int) -> range:
        first = batch * batch_size + share.index * local
        return range(first, first + local)

    return places


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def _read(
    dataset: VideoDataset,
    video: int,
    preprocessing: Preprocessing,
    clips: int,
    choose: Callable[[VideoFile], Sequence[View]],
) -> list[Batch]:
    """Reads the samples of one video: `clips` views with the same frames, drawn by `choose`."""
    try:
        with dataset.open(video) as file:
            read = read_views(file, choose(file), preprocessing)
    except VideoError as error:
        text = np.frombuffer(str(error).encode()[:_ERROR_BYTES], np.uint8)
        blank = np.zeros(preprocessing.transfer_shape, np.uint8)
        samples = [_sample(dataset, video, blank, 0.0) for _ in range(clips)]
        for sample in samples:
            sample["error"][: len(text)] = text
        return samples
    return [_sample(dataset, video, clip, 1.0) for clip in read]


def _sample(dataset: VideoDataset, video: int, clip: np.ndarray, weight: float) -> Batch:
    label = np.asarray(dataset.labels[video], np.int32)
    if dataset.label_sets:
        label = np.zeros(len(dataset.classes), np.float32)
        label[list(dataset.label_sets[video])] = 1
    return {
        "video": clip,
        "label": label,
        "weight": np.asarray(weight, np.float32),
        "error": np.zeros(_ERROR_BYTES, np.uint8),
    }


def _stand_in(
    place: int, batch_size: int, known: dict[int, Batch], read: Callable[[Sequence[int]], list]
) -> np.ndarray:
    """Returns the pixels of the next readable clip of the global batch, from any host.

    The result does not depend on the number of hosts.
    """
    start = place // batch_size * batch_size
    for further in range(1, batch_size):
        other = start + (place - start + further) % batch_size
        sample = known.get(other) or read([other])[0]
        if sample["weight"]:
            return sample["video"]
    return known[place]["video"]


def _stack(samples: Sequence[Batch]) -> Batch:
    return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}


def _batches(load: Callable[[int], Batch], count: int, loading: Loading) -> Generator[Batch]:
    if count <= 0:
        return
    # A thread reads a whole batch, so `prefetch` also counts batches.
    import grain  # imported here: it takes half a second, and tests and inference do not need it

    stream: Any = grain.MapDataset.range(count).map(load)
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
    # Grain's workers read absl flags, which are not parsed in a notebook or under pytest.
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
