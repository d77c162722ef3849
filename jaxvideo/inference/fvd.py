"""Features of two sets of videos for the Frechet video distance, see `evaluation.frechet`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxvideo.data.video import open_video
from jaxvideo.evaluation.partial import Partial, Row
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


def merge(parts: Sequence[VideoSet], paths: Sequence[str]) -> VideoSet:
    """Combines the sets of all processes, each of a share of `paths`, in their order."""
    place = {path: number for number, path in enumerate(paths)}

    def in_order(found: Iterable[str]) -> list[str]:
        return sorted(found, key=place.__getitem__)

    short = {path: count for part in parts for path, count in part.short.items()}
    unreadable = {path: why for part in parts for path, why in part.unreadable.items()}
    return dataclasses.replace(
        parts[0],
        videos=tuple(in_order(path for part in parts for path in part.videos)),
        short={path: short[path] for path in in_order(short)},
        unreadable={path: unreadable[path] for path in in_order(unreadable)},
    )


def features_of(
    videos: Sequence[str],
    extract: Callable[[Any], Mapping[str, np.ndarray]],
    partial: Partial | None = None,
    watch: Watch = iter,
) -> tuple[dict[str, Row], dict[str, str]]:
    """Extracts features of videos.

    Args:
      videos: the videos.
      extract: result of `make_extractor`.
      partial: features on disk, from which an interrupted call resumes.
      watch: shows the progress.

    Returns:
      The features f32 `[C]` (with the number of clips, 1) by video, and the reason for each video
      that turns out to be damaged.
    """
    known = partial.read() if partial else {}
    rows = {path: known[path] for path in videos if path in known}
    unreadable: dict[str, str] = {}
    writer = partial.writer() if partial else contextlib.nullcontext(lambda path, row: None)
    with writer as keep:
        for path in watch([path for path in videos if path not in rows]):
            try:
                rows[path] = extract(path)["features"], 1
            except VideoError as error:
                unreadable[path] = str(error)
                continue
            keep(path, rows[path])
    return rows, unreadable
