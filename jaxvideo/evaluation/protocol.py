"""Testing: every view of a protocol, averaged per video. Knows no model, only `predict`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from jaxvideo.data.datasets import VideoDataset
from jaxvideo.data.decode import open_video
from jaxvideo.data.pipeline import Loading, error_text, protocol_batches, read_views
from jaxvideo.data.views import protocol_views
from jaxvideo.evaluation.scores import confusion_matrix, topk_accuracy
from jaxvideo.types import DataError, Preprocessing, Protocol

Predict = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Result:
    """Scores of a data set under a protocol.

    `scores` f32 `[videos, classes]` and `labels` `[videos]` are of the videos that could be
    read; `broken` has the path and reason of the others, which no number counts.
    """

    scores: np.ndarray
    labels: np.ndarray
    broken: dict[str, str]
    clips: int
    seconds: float
    data_wait: float

    @property
    def top1(self) -> float:
        return topk_accuracy(self.scores, self.labels, 1)

    @property
    def top5(self) -> float:
        return topk_accuracy(self.scores, self.labels, 5)

    @property
    def loss(self) -> float:
        """Mean negative log likelihood of the averaged probabilities (softmax scores only)."""
        own = self.scores[np.arange(len(self.labels)), self.labels]
        return float(-np.log(np.maximum(own, 1e-12)).mean())

    @property
    def confusion(self) -> np.ndarray:
        return confusion_matrix(self.scores, self.labels)


def score_video(
    predict: Predict, path: str, preprocessing: Preprocessing, protocol: Protocol
) -> np.ndarray:
    """Scores `[classes]` of one video: the mean over the protocol's views.

    Clip by clip, because thirty views of 64 x 224 x 224 at once need gigabytes; `predict` always
    sees the crops of one clip.

    Raises:
      VideoError: it cannot be read.
    """
    p = protocol.apply(preprocessing)
    with open_video(path) as video:
        clips = protocol_views(video.num_frames, video.height, video.width, video.fps, p, protocol)
        scores = [np.asarray(predict(read_views(video, views, p))) for views in clips]
    return np.concatenate(scores).mean(0)


def evaluate(
    predict: Predict,
    dataset: VideoDataset,
    preprocessing: Preprocessing,
    protocol: Protocol,
    *,
    batch_size: int,
    loading: Loading = Loading(),
    progress: Callable[[int, int, float], None] | None = None,
) -> Result:
    """Scores every video of a data set.

    Args:
      preprocessing: of training; the protocol says where a test clip differs from it.
      predict: uint8 `[N, T, H, W, C]` to scores `[N, classes]`; always the same N, which is
        `batch_size * protocol.crops`.
      batch_size: clips (each with all its crops) per call.
      progress: called with (clips done, clips in all, seconds waited for data so far).

    Raises:
      DataError: no video could be read; it names the first.
    """
    started = time.perf_counter()
    preprocessing = protocol.apply(preprocessing)
    total = len(dataset) * protocol.clips
    sums: np.ndarray | None = None
    views = np.zeros(len(dataset))
    broken: dict[str, str] = {}
    done, waited = 0, 0.0
    batches = protocol_batches(
        dataset, preprocessing, protocol, batch_size=batch_size, loading=loading
    )
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        if batch is None:
            break
        video = batch["video"]
        scores = np.asarray(predict(video.reshape(-1, *video.shape[2:])))
        scores = scores.reshape(len(video), protocol.crops, -1).mean(1)
        if sums is None:
            sums = np.zeros((len(dataset), scores.shape[-1]))
        for row, weight, (index, _), error in zip(
            scores, batch["weight"], batch["sample"], batch["error"], strict=True
        ):
            if weight:
                sums[index] += row
                views[index] += 1
            elif text := error_text(error):
                broken[dataset.paths[index]] = text
        done = min(done + len(video), total)
        if progress:
            progress(done, total, waited)
    read = np.flatnonzero(views)
    if sums is None or not len(read):
        reason = next(iter(broken.values()), "the data set is empty")
        raise DataError(f"none of {len(dataset)} videos could be read; the first: {reason}")
    return Result(
        scores=(sums[read] / views[read, None]).astype(np.float32),
        labels=np.asarray(dataset.labels)[read],
        broken=broken,
        clips=done,
        seconds=time.perf_counter() - started,
        data_wait=waited,
    )
