"""Features of two sets of videos for the Frechet video distance, see `evaluation.frechet`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxvideo.data.video import open_video
from jaxvideo.types import DataError, VideoError

#: Shows the progress over videos, such as `progress.track`.
Watch = Callable[[Sequence[str]], Iterable[str]]


@dataclasses.dataclass(frozen=True)
class VideoSet:
    """The videos of one side of a comparison.

    Attributes:
      name: name in messages, such as the directory.
      videos: videos that have at least as many frames as a clip.
      short: number of frames of each video that is shorter than a clip.
      unreadable: reason for each video that cannot be read.
      frames: number of frames of a clip.
    """

    name: str
    videos: tuple[str, ...]
    short: Mapping[str, int]
    unreadable: Mapping[str, str]
    frames: int

    def reasons(self) -> Iterator[tuple[str, str]]:
        """Yields (video, reason) of every video that is left out."""
        yield from self.unreadable.items()
        for video, count in self.short.items():
            plural = "s" * (count != 1)
            yield video, f"{video}: has {count} frame{plural}, fewer than {self.frames}"

    def check(self) -> None:
        """Raises a DataError if fewer than two videos are left."""
        if len(self.videos) >= 2:
            return
        total = len(self.videos) + len(self.short) + len(self.unreadable)
        text = f"{self.name}: {len(self.videos)} of {total} videos can be used, and a covariance "
        text += "needs at least 2"
        if self.short:
            longest = max(self.short.values())
            text += (
                f"; {len(self.short)} have fewer than {self.frames} frames, the longest of them "
                f"{longest}. --frames sets the length of a clip"
            )
        if self.unreadable:
            first = next(iter(self.unreadable.values()))
            text += f"; {len(self.unreadable)} cannot be read, the first: {first}"
        raise DataError(text)


def survey(name: str, paths: Sequence[str], frames: int, watch: Watch = iter) -> VideoSet:
    """Opens all videos and sorts out those that cannot be compared.

    A video that is shorter than a clip would have to be looped, which is another motion.

    Args:
      name: name of the set in messages.
      paths: the videos.
      frames: number of frames of a clip.
      watch: shows the progress.

    Example:
      survey("real", ["a.mp4", "b.mp4"], 16).videos
    """
    usable, short, unreadable = [], {}, {}
    for path in watch(paths):
        try:
            with open_video(path) as video:
                count = video.num_frames
        except VideoError as error:
            unreadable[path] = str(error)
            continue
        if count < frames:
            short[path] = count
        else:
            usable.append(path)
    return VideoSet(name, tuple(usable), short, unreadable, frames)


def features_of(
    found: VideoSet, extract: Callable[[Any], Mapping[str, np.ndarray]], watch: Watch = iter
) -> tuple[np.ndarray, VideoSet]:
    """Extracts features, and leaves out videos that turn out to be damaged.

    Args:
      found: result of `survey`.
      extract: result of `make_extractor`.
      watch: shows the progress.

    Returns:
      f32 `[M, C]`, and the set with the M videos that were read.

    Raises:
      DataError: fewer than two videos could be read.
    """
    rows, unreadable = {}, dict(found.unreadable)
    for path in watch(found.videos):
        try:
            rows[path] = extract(path)["features"]
        except VideoError as error:
            unreadable[path] = str(error)
    left = dataclasses.replace(found, videos=tuple(rows), unreadable=unreadable)
    left.check()
    return np.stack(list(rows.values())), left
