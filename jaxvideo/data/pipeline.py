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
import itertools
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np

from jaxvideo.data import flow
from jaxvideo.data.datasets import VideoDataset
from jaxvideo.data.decode import VideoFile, read_clip
from jaxvideo.data.views import RandomCrop, random_view
from jaxvideo.types import BLACK, ConfigError, DataError, Loading, Preprocessing, VideoError, View

Batch = dict[str, np.ndarray]

# Bytes of a broken video's error that travel with the batch, zero padded.
_ERROR_BYTES = 240


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
    repeated: int = 1,
    crop: RandomCrop = RandomCrop(),
    loading: Loading = Loading(),
    share: Share = Share(),
) -> Generator[Batch]:
    """Random views in random order, batches `first_batch` to `last_batch` (exclusive).

    A batch: `video` uint8 `[N, T, H, W, C]` (`Preprocessing.video_shape`); `label` int32 `[N]`,
    or of a data set with `label_sets` f32 `[N, classes]`, 1 for each label of the video;
    `weight` f32 `[N]`, 0 where a video could not be read (its place holds the pixels of the next
    clip of the global batch that could); `sample` int32 `[N, 3]`, (epoch, video, view); `error`
    uint8 `[N, 240]`, the reason as text, zeros where there is none. N is this host's share of
    `batch_size`.

    An epoch is `views_per_video` views of every video, in an order of its own. `repeated` of
    them at a time stand next to each other in the batch: the same frames, decoded once, under
    crops (and all that the step draws) of their own: repeated augmentation (arXiv 1901.09335).
    """
    if repeated < 1 or views_per_video < 1 or views_per_video % repeated:
        raise ConfigError(
            f"views_per_video={views_per_video}, repeated={repeated}: "
            "both at least 1, and the second must divide the first"
        )
    places_of = _host_places(batch_size, share)
    if not len(dataset):
        raise DataError("the data set holds no video")
    draws = views_per_video // repeated

    def ticket(place: int) -> tuple[int, int, int, int]:
        """Epoch, video, which draw of it, which of the views that share that."""
        # Python's whole numbers, because places in a long run overflow 32 bits.
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
                    times=file.times,
                )
                windows = [view.window]
                windows += [crop.window(*size, preprocessing, rng) for _ in range(repeated - 1)]
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
                # Its weight keeps it out of loss and metrics; but black frames must not enter
                # BN's statistics.
                sample["video"] = _stand_in(place, batch_size, samples, read)
        return _stack(list(samples.values()))

    return _batches(load, last_batch - first_batch, loading)


def read_views(file: VideoFile, views: Sequence[View], preprocessing: Preprocessing) -> np.ndarray:
    """What the host ships of views that share their frames: uint8 `[views, T, H, W, C]`, of the
    preprocessing's `video_shape`: frames, or flow where the host has it to do.

    Raises:
      VideoError: a frame cannot be decoded, or there is no stored flow.
    """
    p = preprocessing
    if not p.host_flow:
        return _frames(file, views, p.crop)
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
        fields = np.stack([flow.quantize(compute(snippet, method)) for snippet in snippets])
        frames = snippets[:, :-1].reshape(len(views), -1, *frames.shape[2:])
        fields = fields.reshape(*frames.shape[:-1], 2)
    return fields if p.modality == "flow" else np.concatenate([frames, fields], -1)


def _frames(file: VideoFile, views: Sequence[View], size: int) -> np.ndarray:
    black = np.asarray(views[0].frames) == BLACK
    if black.any():
        # The first frame in their places, to be painted over.
        first, *_ = views[0].frames
        shown = tuple(first if index == BLACK else index for index in views[0].frames)
        views = [dataclasses.replace(view, frames=shown) for view in views]
    frames = read_clip(file, views, size)
    frames[:, black] = 0
    return frames


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


def _host_places(batch_size: int, share: Share) -> Callable[[int], range]:
    """From a batch's index to the places of the stream that are this host's: contiguous parts
    of every global batch, so that normalization groups, which are contiguous too, do not depend
    on the hosts."""
    if batch_size < 1 or batch_size % share.count:
        raise ConfigError(f"a batch of {batch_size} cannot be shared by {share.count} hosts")
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
    """Samples of one video: the `clips` views that `choose` makes, which share their frames."""
    try:
        with dataset.open(video) as file:
            read = read_views(file, choose(file), preprocessing)
    except VideoError as error:
        text = np.frombuffer(str(error).encode()[:_ERROR_BYTES], np.uint8)
        blank = np.zeros(preprocessing.video_shape, np.uint8)
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
    """Pixels for a clip that could not be read: those of the next one of the global batch that
    can, whoever's share that is in, so that hosts do not matter."""
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
    # A thread reads whole batches; the buffer is counted in batches too.
    import grain  # half a second, which tests and predictions do without

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
    # Grain's workers read absl flags, which nobody has parsed in a notebook or under pytest.
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
