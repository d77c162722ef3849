"""Bootstrap confidence intervals of metrics. NumPy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from jaxvideo.evaluation.metrics import METRICS, Metric
from jaxvideo.types import ConfigError, DataError

# Largest number of resampling weights in memory at a time (one byte each).
_BLOCK = 2**23


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Value of a metric with the ends of its bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.2f} % [{100 * self.low:.2f}, {100 * self.high:.2f}]"


def interval(
    metric: Metric | Callable[[np.ndarray, np.ndarray, np.ndarray], float],
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Computes a metric and its percentile bootstrap interval.

    The bootstrap resamples videos with replacement (Efron and Tibshirani, "An Introduction to the
    Bootstrap", 1993, section 13.3). The interval covers the choice of the test videos, not the
    randomness of training. The same seed gives the same resamples for every metric.

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
      '100.00 % [100.00, 100.00]'
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
    """Computes `interval` for all metrics that are defined for these labels.

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
    chosen = {name: metric for name, metric in metrics.items() if metric.applies(labels)}
    return _estimates(chosen, scores, labels, draws, seed, level)


def _estimates(metrics, scores, labels, draws, seed, level) -> dict[str, Estimate]:
    if draws < 2 or not 0 < level < 1:
        raise ConfigError(
            f"draws={draws}, level={level}: draws must be at least 2, level between 0 and 1"
        )
    if not len(labels):
        raise DataError("there are no videos to estimate a metric from")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    for weights in _resamples(len(labels), draws, seed):
        for name, metric in metrics.items():
            if metric.batched:
                found = metric.function(scores, labels, weights)
            else:
                found = [metric(scores, labels, column) for column in weights.T]
            parts[name].append(np.asarray(found, np.float64))
    tails = (50 * (1 - level), 50 * (1 + level))
    results = {}
    for name, metric in metrics.items():
        value, redrawn = metric(scores, labels), np.concatenate(parts[name])
        ends = np.nanpercentile(redrawn, tails)
        if metric.biased:
            ends = np.clip(ends + value - np.nanmean(redrawn), *metric.bounds)
        results[name] = Estimate(value, *map(float, ends))
    return results


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
