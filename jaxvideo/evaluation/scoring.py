"""The driver of prediction and evaluation: clips of videos, then batches of views, then scores.

`read_tests` reads the clips of several videos in parallel; the device computes one batch while the
next one is read. `Network.predict`, the commands and the validation of a run all use this driver.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
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
    before: Any = ()
    waiting: list[list[np.ndarray]] = []
    batches = _batches(clips, videos, batch_size)
    for batch, owners in itertools.chain(batches, [(None, [])]):
        answer = () if batch is None else predict(batch)
        known: Any = np.asarray(before, np.float64)
        for rows, row in zip(waiting, known, strict=False):
            rows.append(row)
        before, waiting = answer, owners
        while videos and videos[0].complete:
            yield videos.popleft().result()


def mean_scores(clips: Iterable[ClipScores]) -> np.ndarray:
    """Averages the scores of a video over all clips of the protocol: f32 `[classes]`."""
    clips = list(clips)
    total = sum(clip.scores * clip.repeats for clip in clips)
    return np.asarray(total / sum(clip.repeats for clip in clips), np.float32)


@dataclasses.dataclass(eq=False)
class _Video:
    """A video whose scores are not complete.

    Attributes:
      number: its index.
      clips: for each clip the known rows of scores, the number of crops, and the other fields of
        `ClipScores`.
      error: the error if it cannot be read.
      ended: True if its last clip was read.
    """

    number: int
    clips: list[tuple[list[np.ndarray], int, tuple]] = dataclasses.field(default_factory=list)
    error: VideoError | None = None
    ended: bool = False

    @property
    def complete(self) -> bool:
        return self.ended and all(len(rows) == crops for rows, crops, _ in self.clips)

    def result(self) -> tuple[int, list[ClipScores] | VideoError]:
        found = [ClipScores(np.mean(rows, 0), *about) for rows, _, about in self.clips]
        return self.number, self.error or found


def _batches(
    clips: Iterable[tuple[int, Clip | VideoError | None]],
    videos: collections.deque[_Video],
    batch_size: int,
) -> Iterator[tuple[np.ndarray, list[list[np.ndarray]]]]:
    """Packs views of one shape into batches of fixed size, with the lists that receive the scores.

    New videos are appended to `videos`.
    """
    batch, owners, video = None, [], None
    for number, piece in clips:
        if video is None:
            video = _Video(number)
            videos.append(video)
        if piece is None:
            video.ended, video = True, None
        elif isinstance(piece, VideoError):
            video.error = piece
        else:
            rows: list[np.ndarray] = []
            about = piece.repeats, piece.frames, piece.seconds
            video.clips.append((rows, len(piece.views), about))
            for view in piece.views:
                if batch is not None and view.shape != batch.shape[1:]:
                    # Planes after RGB, or RGB after planes.
                    yield batch, owners
                    batch, owners = None, []
                if batch is None:
                    # A new array per batch, because the device may still read the previous one.
                    batch = np.zeros((batch_size, *view.shape), np.uint8)
                batch[len(owners)] = view
                owners.append(rows)
                if len(owners) == batch_size:
                    yield batch, owners
                    batch, owners = None, []
    if batch is not None:
        yield batch, owners
