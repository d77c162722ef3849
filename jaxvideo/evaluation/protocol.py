"""Testing: every view of a protocol, averaged per video. Knows no model, only `predict`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.pipeline import Loading, Share
from jaxvideo.data.protocol_reader import protocol_clips, read_tests
from jaxvideo.data.video import open_video
from jaxvideo.evaluation import scores as metrics
from jaxvideo.types import DataError, Preprocessing, Protocol, VideoError

Predict = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Result:
    """Scores of a data set under a protocol.

    Attributes:
      scores: f32 `[videos, classes]` of the videos that could be read, in the data set's order.
      labels: int `[videos]`; of several labels, the first.
      broken: path and reason of the videos that could not be read, which no number counts.
      clips: that were scored, each with all its crops.
      seconds: in all; `data_wait` of them for data.
      videos: int `[videos]`, their indices in the data set.
      label_sets: bool `[videos, classes]` of a multi-label data set, else None.
      expected: videos that the annotations name.
      aggregation: of the protocol: what the scores are.
    """

    scores: np.ndarray
    labels: np.ndarray
    broken: dict[str, str]
    clips: int
    seconds: float
    data_wait: float
    videos: np.ndarray
    label_sets: np.ndarray | None
    expected: int
    aggregation: str

    @property
    def truth(self) -> np.ndarray:
        """The labels as `evaluation.scores` takes them: int `[videos]`, or all of each video."""
        return self.labels if self.label_sets is None else self.label_sets

    @property
    def top1(self) -> float:
        return metrics.topk_accuracy(self.scores, self.truth, 1)

    @property
    def top5(self) -> float:
        return metrics.topk_accuracy(self.scores, self.truth, 5)

    @functools.cached_property
    def losses(self) -> np.ndarray:
        """Loss of each video's averaged scores `[videos]`, see `scores.losses`."""
        return metrics.losses(self.scores, self.truth, self.aggregation)

    @property
    def loss(self) -> float:
        """Mean of `losses`."""
        return float(self.losses.mean())

    @property
    def confusion(self) -> np.ndarray:
        return metrics.confusion_matrix(self.scores, self.labels)

    @property
    def coverage(self) -> float:
        """Share of the expected videos that were scored."""
        return len(self.labels) / self.expected


def score_video(
    predict: Predict, video: Any, preprocessing: Preprocessing, protocol: Protocol
) -> np.ndarray:
    """Scores `[classes]` of one video, whatever `open_video` takes: the mean over the protocol's
    views.

    Clip by clip, because thirty views of 64 x 224 x 224 at once need gigabytes; `predict` always
    sees the crops of one clip.

    Raises:
      VideoError: it cannot be read.
    """
    p = protocol.apply(preprocessing)
    with open_video(video) as file:
        scores = [np.asarray(predict(views)) for views in protocol_clips(file, p, protocol)]
    return np.concatenate(scores).mean(0)


def evaluate(
    predict: Predict,
    dataset: VideoDataset,
    preprocessing: Preprocessing,
    protocol: Protocol,
    *,
    batch_size: int,
    loading: Loading = Loading(),
    share: Share = Share(),
    progress: Callable[[int, int, float], None] | None = None,
) -> Result:
    """Scores every video of a data set.

    Args:
      preprocessing: of training; the protocol says where a test clip differs from it.
      predict: uint8 `[batch_size, T, H, W, C]` to scores `[batch_size, classes]`, each of its
        own view alone. It may answer before it is done: its answer is read after the next call.
      batch_size: views per call, always: views of a video that are fewer share a call with the
        next one's, more take several calls; the last call is filled up.
      share: which videos this host scores, every `count`-th; `join` puts the parts together.
      progress: called with (clips done, clips in all, seconds waited for data so far). Where
        the protocol leaves their number to the video, a video counts as one clip.

    Raises:
      DataError: no video could be read; it names the first. A share may have none.
    """
    started = time.perf_counter()
    videos = range(share.index, len(dataset), share.count)
    broken: dict[int, str] = {}
    clips, waited = 0, 0.0

    def read() -> Iterator[tuple[int, np.ndarray]]:
        """The clips, with their videos; keeps the books beside."""
        nonlocal clips, waited
        each = max(protocol.clips, 1)
        before = within = 0
        stream = read_tests(
            dataset,
            videos,
            protocol.apply(preprocessing),
            protocol,
            ahead=loading.prefetch * batch_size,
            loading=loading,
        )
        with contextlib.closing(stream):
            while True:
                asked = time.perf_counter()
                video, piece = next(stream, (-1, None))
                waited += time.perf_counter() - asked
                if video < 0:
                    return
                if isinstance(piece, VideoError):
                    broken[video] = str(piece)
                    continue
                if piece is None:
                    before, within = before + each, 0
                else:
                    yield video, piece
                    clips, within = clips + 1, min(within + 1, each)
                if progress:
                    progress(before + within, each * len(videos), waited)

    sums: dict[int, np.ndarray] = {}
    views: Counter[int] = Counter()

    def add(answer: np.ndarray, owners: Sequence[int]) -> None:
        for video, row in zip(owners, np.asarray(answer, np.float64), strict=False):
            sums[video] = sums.get(video, 0) + row
            views[video] += 1

    pending = None
    for batch, owners in _calls(read(), batch_size):
        answer = predict(batch)
        if pending:
            add(*pending)
        pending = (answer, owners)
    if pending:
        add(*pending)
    scored = [video for video in videos if video in sums and video not in broken]
    classes = len(next(iter(sums.values()))) if sums else len(dataset.classes)
    means = [sums[video] / views[video] for video in scored]
    sets = dataset.label_sets
    result = Result(
        scores=np.array(means, np.float32).reshape(len(scored), classes),
        labels=np.asarray(dataset.labels, np.int64)[scored],
        broken={dataset.paths[video]: why for video, why in broken.items()},
        clips=clips,
        seconds=time.perf_counter() - started,
        data_wait=waited,
        videos=np.array(scored, np.int64),
        label_sets=metrics.label_matrix([sets[v] for v in scored], classes) if sets else None,
        # Videos that the annotations name and nobody found are the first host's to count.
        expected=len(videos) + (0 if share.index else dataset.annotated - len(dataset)),
        aggregation=protocol.aggregation,
    )
    return result if share.count > 1 else join([result])


def join(results: Sequence[Result]) -> Result:
    """The result of all shares of a data set, of theirs in any order.

    Raises:
      DataError: no video could be read; it names the first.
    """
    order = np.argsort(np.concatenate([result.videos for result in results]), kind="stable")
    sets = [result.label_sets for result in results if result.label_sets is not None]
    whole = Result(
        scores=np.concatenate([result.scores for result in results])[order],
        labels=np.concatenate([result.labels for result in results])[order],
        broken={path: why for result in results for path, why in result.broken.items()},
        clips=sum(result.clips for result in results),
        seconds=max(result.seconds for result in results),
        data_wait=max(result.data_wait for result in results),
        videos=np.concatenate([result.videos for result in results])[order],
        label_sets=np.concatenate(sets)[order] if sets else None,
        expected=sum(result.expected for result in results),
        aggregation=results[0].aggregation,
    )
    if not len(whole.labels):
        reason = next(iter(whole.broken.values()), "the data set is empty")
        raise DataError(f"none of {whole.expected} videos could be read; the first: {reason}")
    return whole


def _calls(
    clips: Iterable[tuple[int, np.ndarray]], batch_size: int
) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Views in calls of one size, and whose they are; the last one's rest is nobody's."""
    batch, owners = None, []
    for video, views in clips:
        for view in views:
            if batch is None:
                # A new one for each call: the device may read the last one still.
                batch = np.zeros((batch_size, *view.shape), np.uint8)
            batch[len(owners)] = view
            owners.append(video)
            if len(owners) == batch_size:
                yield batch, owners
                batch, owners = None, []
    if batch is not None:
        yield batch, owners
