"""Confidence intervals of metrics: Wilson's for proportions, else the bootstrap. NumPy only."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from jaxvideo.evaluation.metrics import METRICS, Metric
from jaxvideo.types import ConfigError, DataError

# Largest number of resampling weights in memory at a time (one byte each).
_BLOCK = 2**23

# With 30 videos and an accuracy of 70 % the interval is 31 points wide.
_FEW = 30


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Value of a metric with the ends of its interval.

    The ends are None if every resample of the bootstrap gives the same value, as with videos that
    are all right; such an interval of width 0 would claim certainty.
    """

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return f"{100 * self.value:.2f} %{self.ends(' [{:.2f}, {:.2f}]')}"

    def ends(self, form: str) -> str:
        """Formats both ends in percent by a format string; "" without an interval."""
        if self.low is None or self.high is None:
            return ""
        return form.format(100 * self.low, 100 * self.high)


def wilson(right: float, total: int, level: float = 0.95) -> tuple[float, float]:
    """Computes the score interval of a proportion (Wilson, 1927, without continuity correction).

    Unlike the bootstrap it has its nominal coverage for few videos and near 0 and 1, and is never
    empty (Newcombe, Statistics in Medicine 17, 1998, method 3).

    Args:
      right: number of videos that count, 0 to `total`.
      total: number of videos, at least 1.
      level: coverage of the interval, between 0 and 1.

    Example:
      >>> [round(end, 4) for end in wilson(81, 263)]
      [0.2553, 0.3662]
    """
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    share, squared = right / total, z * z / total
    center = share + squared / 2
    half = z * math.sqrt(share * (1 - share) / total + squared / (4 * total))
    low, high = ((center + sign * half) / (1 + squared) for sign in (-1, 1))
    # At 0 and 1 an end is exact; rounding must not move it.
    return 0.0 if right <= 0 else low, 1.0 if right >= total else high


def few_videos(total: int) -> str:
    """Returns a warning if a test set is too small to compare results; otherwise ""."""
    if total >= _FEW:
        return ""
    return (
        f"Only {total} test video{'s' * (total != 1)}: the intervals are wide, and differences of "
        f"a few points mean nothing. Test on at least {_FEW} videos."
    )


def interval(
    metric: Metric | Callable[[np.ndarray, np.ndarray, np.ndarray], float],
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Computes a metric and its interval: `wilson` for a proportion, else the bootstrap.

    The percentile bootstrap resamples videos with replacement (Efron and Tibshirani, "An
    Introduction to the Bootstrap", 1993, section 13.3). Both intervals cover the choice of the test
    videos, not the randomness of training. The same seed gives the same resamples for every metric.

    Average precision grows if a video repeats, so the interval of a `biased` metric is shifted by
    the difference between the value and the mean of the resampled values.

    Args:
      metric: a row of `METRICS`, or any function `(scores, labels, weights) -> float`.
      scores: `[M, classes]`.
      labels: int `[M]` or bool `[M, classes]`.
      draws: number of resamples.
      seed: seed of the resamples.
      level: coverage of the interval, between 0 and 1.

    Raises:
      ConfigError: fewer than two draws, or a level outside (0, 1).
      DataError: there are no videos.

    Example:
      >>> from jaxvideo.evaluation.metrics import METRICS
      >>> str(interval(METRICS["top1"], np.eye(3), np.arange(3)))
      '100.00 % [43.85, 100.00]'
    """
    row = metric if isinstance(metric, Metric) else Metric("", metric)
    return _estimates({"": row}, scores, labels, draws, seed, level)[""]


def estimates(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    metrics: Mapping[str, Metric] = METRICS,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """Computes `interval` for all metrics that are reported for these labels and classes.

    Args:
      scores: `[M, classes]`.
      labels: int `[M]` or bool `[M, classes]`.
      metrics: metrics by name.
      draws: number of resamples.
      seed: seed of the resamples.
      level: coverage of the intervals, between 0 and 1.

    Raises:
      ConfigError: fewer than two draws, or a level outside (0, 1).
      DataError: there are no videos.
    """
    chosen = {name: metric for name, metric in metrics.items() if metric.applies(scores, labels)}
    return _estimates(chosen, scores, labels, draws, seed, level)


def _estimates(metrics, scores, labels, draws, seed, level) -> dict[str, Estimate]:
    if draws < 2 or not 0 < level < 1:
        raise ConfigError(
            f"draws={draws}, level={level}: draws must be at least 2, level between 0 and 1"
        )
    if not len(labels):
        raise DataError("there are no videos to estimate a metric from")
    results = {}
    for name, metric in metrics.items():
        if metric.proportion:
            value = metric(scores, labels)
            results[name] = Estimate(value, *wilson(value * len(labels), len(labels), level))
    drawn = {name: metric for name, metric in metrics.items() if name not in results}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in drawn}
    for weights in _resamples(len(labels), draws, seed) if drawn else ():
        for name, metric in drawn.items():
            if metric.batched:
                found = metric.function(scores, labels, weights)
            else:
                found = [metric(scores, labels, column) for column in weights.T]
            parts[name].append(np.asarray(found, np.float64))
    tails = (50 * (1 - level), 50 * (1 + level))
    for name, metric in drawn.items():
        value, redrawn = metric(scores, labels), np.concatenate(parts[name])
        if np.nanmin(redrawn) == np.nanmax(redrawn):
            results[name] = Estimate(value, None, None)
            continue
        ends = np.nanpercentile(redrawn, tails)
        if metric.biased:
            ends = np.clip(ends + value - np.nanmean(redrawn), *metric.bounds)
        results[name] = Estimate(value, *map(float, ends))
    return {name: results[name] for name in metrics}


def _resamples(videos: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Yields how often each video is drawn, uint8 `[videos, block]`, for all draws in blocks."""
    rng = np.random.default_rng(seed)
    block = max(min(draws, _BLOCK // videos), 1)
    for first in range(0, draws, block):
        # uint8 is enough: no video is drawn 256 times.
        times = np.empty((videos, min(block, draws - first)), np.uint8)
        for draw in range(times.shape[1]):
            times[:, draw] = np.bincount(rng.integers(videos, size=videos), minlength=videos)
        yield times
