"""The driver of prediction and evaluation: clips of videos, then batches of views, then scores.

`read_tests` reads the clips of several videos in parallel; the device computes one batch while the
next one is read. `Network.predict`, the commands and the validation of a run all use this driver.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from jaxvideo.data.protocol_reader import Clip
from jaxvideo.types import VideoError

#: uint8 views `[batch_size, ...]`, planes or RGB (`Preprocessing.transfer_shape`), to scores
#: `[batch_size, classes]`.
Predict = Callable[[np.ndarray], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class ClipScores:
    """Scores of one distinct clip, the mean over its crops.

    Attributes:
      scores: f64 `[classes]`.
      repeats: number of clips of the protocol that this one represents, see `Clip.repeats`.
      frames: indices of the first and of the last frame.
      seconds: start and end of the clip; None if the video has no frame rate.
    """

    scores: np.ndarray
    repeats: int
    frames: tuple[int, int]
    seconds: tuple[float, float] | None


def score_videos(
    predict: Predict, clips: Iterable[tuple[int, Clip | VideoError | None]], batch_size: int
) -> Iterator[tuple[int, list[ClipScores] | VideoError]]:
    """Scores the clips of videos, and yields each video when its last clip is scored.

    Args:
      predict: the score of a view must not depend on the other views. It may return before the
        computation has finished: its result is read after the next call.
      clips: the clips of `read_tests`.
      batch_size: views per call. Views of several clips and videos share a call; the last call is
        zero-padded.

    Yields:
      (video, its clips), or (video, the error) if the video could not be read to its end; in the
      order of reading.
    """
    videos: collections.deque[_Video] = collections.deque()
    launched = None
    for batch, owners in _batches(_views(clips, videos), batch_size):
        answer = predict(batch)
        if launched:
            _add(*launched)
        launched = answer, owners
        while videos and videos[0].complete:
            yield videos.popleft().result()
    if launched:
        _add(*launched)
    for video in videos:
        yield video.result()


def mean_scores(clips: Iterable[ClipScores]) -> np.ndarray:
    """Averages the scores of a video over all clips of the protocol: f32 `[classes]`."""
    clips = list(clips)
    total = sum(clip.scores * clip.repeats for clip in clips)
    return np.asarray(total / sum(clip.repeats for clip in clips), np.float32)


class _Sum:
    """Sum of the scores of a clip's crops, of which some are not known yet."""

    def __init__(self, clip: Clip):
        self.about = clip.repeats, clip.frames, clip.seconds
        self.crops = self.missing = len(clip.views)
        self.total: Any = 0.0


class _Video:
    def __init__(self, number: int):
        self.number = number
        self.sums: list[_Sum] = []
        self.error: VideoError | None = None
        self.ended = False

    @property
    def complete(self) -> bool:
        return self.ended and not any(one.missing for one in self.sums)

    def result(self) -> tuple[int, list[ClipScores] | VideoError]:
        found = [ClipScores(one.total / one.crops, *one.about) for one in self.sums]
        return self.number, self.error or found


def _views(clips, videos: collections.deque[_Video]) -> Iterator[tuple[np.ndarray, _Sum]]:
    """Yields each view with the sum that its scores belong to. Appends new videos to `videos`."""
    video = None
    for number, piece in clips:
        if video is None:
            video = _Video(number)
            videos.append(video)
        if piece is None:
            video.ended, video = True, None
        elif isinstance(piece, VideoError):
            video.error = piece
        else:
            video.sums.append(_Sum(piece))
            for view in piece.views:
                yield view, video.sums[-1]


def _batches(
    views: Iterable[tuple[np.ndarray, _Sum]], batch_size: int
) -> Iterator[tuple[np.ndarray, list[_Sum]]]:
    """Packs views of one shape into batches of fixed size together with their owners."""
    batch, owners = None, []
    for view, owner in views:
        if batch is not None and view.shape != batch.shape[1:]:  # planes after RGB, or RGB after
            yield batch, owners
            batch, owners = None, []
        if batch is None:
            # A new array per batch, because the device may still read the previous one.
            batch = np.zeros((batch_size, *view.shape), np.uint8)
        batch[len(owners)] = view
        owners.append(owner)
        if len(owners) == batch_size:
            yield batch, owners
            batch, owners = None, []
    if batch is not None:
        yield batch, owners


def _add(answer: Any, owners: list[_Sum]) -> None:
    for owner, row in zip(owners, np.asarray(answer, np.float64), strict=False):
        owner.total = owner.total + row
        owner.missing -= 1
