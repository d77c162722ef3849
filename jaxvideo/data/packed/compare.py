"""Measure the formats of packed videos on a sample of a data set."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.decode import scaled_planes
from jaxvideo.data.loading import Loading
from jaxvideo.data.packed.codecs import JFIF
from jaxvideo.data.packed.read import load_packed
from jaxvideo.data.packed.record import Packing, usable_formats
from jaxvideo.data.packed.workers import bytes_of
from jaxvideo.data.packed.write import pack
from jaxvideo.data.pipeline import train_batches
from jaxvideo.data.planes import convert_planes
from jaxvideo.data.video import VideoFile
from jaxvideo.types import DataError, Preprocessing, VideoError

#: Frames of a video that are packed to measure.
FRAMES = 300
#: Lengths of the clips that are read.
CLIPS = (16, 64)

_BATCH = 4


@dataclasses.dataclass(frozen=True)
class Measured:
    """A format on the sample.

    Attributes:
      format: a row of `codecs.CODECS`, or "files" for the videos as they are.
      clip_bytes: stored bytes of 16 frames; 0 for a source that is not a file.
      total_bytes: estimate for the whole data set.
      psnr, lowest_psnr: mean and minimum over the videos in dB, see `psnr`; None for files.
      speeds: clips per second of CPU time by number of frames, read as in training.
    """

    format: str
    clip_bytes: float
    total_bytes: float
    psnr: float | None
    lowest_psnr: float | None
    speeds: Mapping[int, float]


@dataclasses.dataclass(frozen=True)
class Sample(VideoDataset):
    """Videos of a data set, of which only the first frames are read.

    Attributes:
      whole: the data set.
      indices: the videos.
      frames: number of frames of each video in the data set.
    """

    whole: VideoDataset = dataclasses.field(kw_only=True)
    indices: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()

    @contextlib.contextmanager
    def open(self, index: int) -> Iterator[VideoFile]:
        """Opens the first frames of the video of an index."""
        with self.whole.open(self.indices[index]) as video:
            yield dataclasses.replace(
                video,
                pts=video.pts[:FRAMES],
                times=video.times[:FRAMES],
                keyframes=video.keyframes[video.keyframes < FRAMES],
                images=video.images[:FRAMES],
            )


def draw_sample(dataset: VideoDataset, count: int) -> Sample:
    """Returns up to `count` random videos that can be opened; the same in each call."""
    found: dict[int, int] = {}
    for index in map(int, np.random.default_rng(0).permutation(len(dataset))):
        if len(found) == count:
            break
        with contextlib.suppress(VideoError), dataset.open(index) as video:
            found[index] = video.num_frames
    return Sample(
        paths=tuple(dataset.paths[index] for index in found),
        labels=tuple(dataset.labels[index] for index in found),
        classes=dataset.classes,
        whole=dataset,
        indices=tuple(found),
        frames=tuple(found.values()),
    )


def compare(
    sample: Sample, packing: Packing, videos: int, folder: Path, seconds: float = 1.0
) -> Iterator[Measured]:
    """Packs a sample in every format and measures size, quality and speed.

    Args:
      sample: the videos.
      packing: the settings; `format` is ignored.
      videos: number of videos of the whole data set.
      folder: an empty directory for the shards.
      seconds: CPU time of each measurement of speed.

    Yields:
      The videos as they are, then each format.

    Raises:
      DataError: no video of the sample can be read.
    """
    if not len(sample):
        raise DataError("no video can be read")
    per_video, size = sum(sample.frames) / len(sample), packing.size
    stored = sum(map(bytes_of, sample.paths)) / sum(sample.frames)
    speeds = _speeds(sample, size, seconds)
    yield Measured("files", 16 * stored, stored * per_video * videos, None, None, speeds)
    for name in usable_formats():
        out = folder / name
        result = pack({"sample": sample}, out, dataclasses.replace(packing, format=name))
        packed, quality, frames = load_packed(out, "sample"), [], 0
        for place, path in enumerate(packed.paths):
            index = sample.paths.index(path)
            with sample.open(index) as before, packed.open(place) as after:
                quality.append(psnr(before, after))
                frames += after.num_frames
        stored = result.bytes_after / frames
        mean, lowest = sum(quality) / len(quality), min(quality)
        speeds = _speeds(packed, size, seconds)
        yield Measured(name, 16 * stored, stored * per_video * videos, mean, lowest, speeds)


def recommend(found: Sequence[Measured], memory: float) -> Measured:
    """Returns the fastest format for 16 frames among those that fit, or the smallest if none does.

    A format fits if its estimate for the whole data set is at most half of the memory: the system
    then keeps all shards in its cache. Otherwise the disk limits the speed, and bytes count.

    Args:
      found: the formats.
      memory: bytes of the machine that trains.
    """
    fitting = [one for one in found if one.total_bytes <= memory / 2]
    if fitting:
        return max(fitting, key=lambda one: one.speeds[CLIPS[0]])
    return min(found, key=lambda one: one.total_bytes)


def psnr(before: VideoFile, after: VideoFile, frames: int = FRAMES) -> float:
    """Returns the PSNR of a packed video in dB, relative to the scaled frames of its original.

    Args:
      before, after: the original and the packed video.
      frames: number of frames to compare, from the first.

    Returns:
      PSNR over the values of Y, Cb and Cr (4:2:0, BT.601, full range); infinite if they are equal.
    """
    error = count = 0.0
    both = (scaled_planes(file, after.height, after.width) for file in (before, after))
    for _, *pair in zip(range(frames), *both, strict=False):
        theirs, ours = (convert_planes(frame, JFIF).planes for frame in pair)
        for one, other in zip(theirs, ours, strict=True):
            error += float(np.square(one.astype(np.float32) - other).sum())
            count += one.size
    return 10 * math.log10(255**2 * count / error) if error else math.inf


def _speeds(dataset: VideoDataset, size: int, seconds: float) -> dict[int, float]:
    return {frames: _speed(dataset, size, frames, seconds) for frames in CLIPS}


def _speed(dataset: VideoDataset, size: int, frames: int, seconds: float) -> float:
    """Returns random clips per second of CPU time, cropped to 7/8 of the short side."""
    batches = train_batches(
        dataset,
        Preprocessing(frames=frames, size=size, crop=size * 7 // 8),
        batch_size=_BATCH,
        seed=0,
        last_batch=10**6,
        loading=Loading(threads=1, prefetch=1),
    )
    with contextlib.closing(batches):
        next(batches)  # imports, and fills the cache of the system
        count, started = 0, time.process_time()
        while not count or time.process_time() - started < seconds:
            next(batches)
            count += 1
        return count * _BATCH / max(time.process_time() - started, 1e-9)
