"""Evaluates a `predict` function: scores all views of a protocol and averages them per video."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxvideo.data import stored_flow
from jaxvideo.data.cache import indexed
from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.loading import Loading
from jaxvideo.data.pipeline import Share
from jaxvideo.data.protocol_reader import read_tests
from jaxvideo.evaluation import metrics
from jaxvideo.evaluation.partial import Partial
from jaxvideo.evaluation.scoring import Predict, mean_scores, score_videos
from jaxvideo.progress import bar
from jaxvideo.types import DataError, Preprocessing, Protocol, VideoError


@dataclasses.dataclass(frozen=True)
class Result:
    """Scores of a data set under a protocol.

    Attributes:
      scores: f32 `[videos, classes]` of the videos that could be read, in the order of the data
        set; of a share in any order.
      labels: int `[videos]`; the first label if a video has several.
      broken: path and reason of each unreadable video. They are excluded from all metrics.
      clips: number of scored clips; the crops of a clip count once, equal clips of a short video
        count each.
      seconds: total time; of a resumed call, since it resumed.
      data_wait: part of `seconds` spent waiting for data.
      videos: int `[videos]`, indices into the data set.
      label_sets: bool `[videos, classes]` of a multi-label data set, else None.
      expected: number of videos in the annotations.
      aggregation: `Protocol.aggregation`: "softmax", "sigmoid" or "logits" scores.
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
        """Labels as metrics take them: int `[videos]`, or bool `[videos, classes]`."""
        return self.labels if self.label_sets is None else self.label_sets

    @property
    def top1(self) -> float:
        """Top-1 accuracy, 0 to 1."""
        return float(metrics.topk_accuracy(self.scores, self.truth, 1))

    @property
    def top5(self) -> float | None:
        """Top-5 accuracy, 0 to 1; None if there are too few classes for it to mean something."""
        metric = metrics.METRICS["top5"]
        return metric(self.scores, self.truth) if metric.applies(self.scores, self.truth) else None

    @functools.cached_property
    def losses(self) -> np.ndarray:
        """Loss of the averaged scores of each video `[videos]`, see `metrics.losses`."""
        return metrics.losses(self.scores, self.truth, self.aggregation)

    @property
    def loss(self) -> float:
        """Mean of `losses`."""
        return float(self.losses.mean())

    @property
    def confusion(self) -> np.ndarray:
        """Confusion matrix `[classes, classes]`, see `metrics.confusion_matrix`."""
        return metrics.confusion_matrix(self.scores, self.labels)

    @property
    def coverage(self) -> float:
        """Share of the expected videos that were scored."""
        return len(self.labels) / self.expected


def describe_protocol(
    protocol: Protocol, preprocessing: Preprocessing, paths: Sequence[str]
) -> str:
    """Returns `Protocol.describe` with the method and size of the stored flow of the videos.

    Raises:
      DataError: the stored flow of two videos was computed by different methods or at different
        sizes.
    """
    stored = ""
    if "flow" in preprocessing.modality and preprocessing.flow == "stored":
        stored = stored_flow.describe_stored(paths)
    return protocol.describe(preprocessing, stored)


def evaluate(
    predict: Predict,
    dataset: VideoDataset,
    preprocessing: Preprocessing,
    protocol: Protocol,
    *,
    batch_size: int,
    loading: Loading = Loading(),
    share: Share = Share(),
    partial: Partial | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    log_seconds: float = 5.0,
) -> Result:
    """Scores every video of a data set, with a progress bar.

    Args:
      predict: uint8 `[batch_size, T, H, W, C]` to scores `[batch_size, classes]`; the score of a
        view must not depend on the other views. It may return before the computation has finished:
        its result is read after the next call.
      dataset: videos and labels.
      preprocessing: preprocessing of training; the protocol overrides parts of it.
      protocol: clips and crops.
      batch_size: views per call. Views of several videos share a call; the last call is padded.
      loading: reader threads, prefetching and index. `cache` has no effect, since every video is
        decoded once; pass the result of `cache_frames` to decode none.
      share: part of the videos that this host scores; `join` combines the parts.
      partial: scores of single videos on disk, from which an interrupted call resumes.
      progress: receives (clips done, all clips, seconds waited for data so far) instead of the
        progress bar. If the number of clips depends on the video, a video counts as one clip.
      log_seconds: seconds between two progress lines if there is no terminal.

    Returns:
      The scores, in the order of the data set.

    Raises:
      DataError: no video could be read; the message names the first one. A share may be empty.
    """
    started = time.perf_counter()
    own = range(share.index, len(dataset), share.count)
    known = partial.read() if partial else {}
    rows = {video: known[dataset.paths[video]] for video in own if dataset.paths[video] in known}
    videos = [video for video in own if video not in rows]
    waited = 0.0

    def read(report: Callable[[int, int, float], None]) -> Iterator[tuple[int, Any]]:
        """Yields the clips of `read_tests`; measures the waiting time."""
        nonlocal waited
        each = max(protocol.clips, 1)
        before, within = each * len(rows), 0
        stream = read_tests(
            indexed(dataset, loading).open,
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
                yield video, piece
                if isinstance(piece, VideoError):
                    continue
                if piece is None:
                    before, within = before + each, 0
                else:
                    within = min(within + piece.repeats, each)
                report(before + within, each * len(own), waited)

    broken: dict[str, str] = {}
    shown = _clip_bar(protocol, len(own), len(rows), log_seconds)
    writer = partial.writer() if partial else contextlib.nullcontext(lambda path, row: None)
    with contextlib.nullcontext(progress) if progress else shown as report, writer as keep:
        for video, found in score_videos(predict, read(report), batch_size):
            if isinstance(found, VideoError):
                broken[dataset.paths[video]] = str(found)
            else:
                rows[video] = mean_scores(found), sum(clip.repeats for clip in found)
                keep(dataset.paths[video], rows[video])
    scored = list(rows)
    classes = len(next(iter(rows.values()))[0]) if rows else len(dataset.classes)
    sets = dataset.label_sets
    result = Result(
        scores=np.array([row for row, _ in rows.values()], np.float32).reshape(-1, classes),
        labels=np.asarray(dataset.labels, np.int64)[scored],
        broken=broken,
        clips=sum(clips for _, clips in rows.values()),
        seconds=time.perf_counter() - started,
        data_wait=waited,
        videos=np.array(scored, np.int64),
        label_sets=metrics.label_matrix([sets[v] for v in scored], classes) if sets else None,
        # The first host also counts the videos in the annotations that do not exist.
        expected=len(own) + (0 if share.index else dataset.annotated - len(dataset)),
        aggregation=protocol.aggregation,
    )
    return result if share.count > 1 else join([result])


def join(results: Sequence[Result]) -> Result:
    """Combines the results of all shares of a data set, given in any order.

    Raises:
      DataError: no video could be read; the message names the first one.
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


@contextlib.contextmanager
def _clip_bar(
    protocol: Protocol, videos: int, finished: int, log_seconds: float
) -> Iterator[Callable[[int, int, float], None]]:
    """Shows clips done. Yields a function of (clips done, all clips, seconds waited so far)."""
    each, before = max(protocol.clips, 1), 0.0
    what = "clips" if protocol.clips else "videos"
    with bar(each * videos, what, done=each * finished, every=log_seconds) as update:

        def report(done: int, _: int, waited: float) -> None:
            nonlocal before
            update(done, waited=waited - before)
            before = waited

        yield report
