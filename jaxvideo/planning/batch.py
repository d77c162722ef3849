"""Batch sizes: the divisor that a run requires, and the largest size that fits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from jaxvideo.training.config import Run
from jaxvideo.types import ConfigError


def batch_unit(run: Run, devices: int) -> int:
    """Returns the divisor that the global batch size must have.

    It keeps BN groups at the size in the config and divides the batch over the devices.
    """
    return run.parallel.accumulate * math.lcm(devices // run.parallel.split, _bn_size(run))


def with_batch(run: Run, batch: int) -> Run:
    """Returns the run with another global batch size.

    BN groups keep their size, so their number changes. A config with a single group keeps it.

    Raises:
      ConfigError: `batch` is not a multiple of the size of a BN group.
    """
    groups, model = run.model.get("bn_groups", 1), run.model
    if groups > 1:
        if batch % _bn_size(run):
            raise ConfigError(
                f"a batch of {batch}: must be a multiple of the {_bn_size(run)} clips per BN group "
                f"in the config (batch_size={run.batch_size}, model.bn_groups={groups})"
            )
        model = {**model, "bn_groups": batch // _bn_size(run)}
    return dataclasses.replace(run, batch_size=batch, model=model)


def _bn_size(run: Run) -> int:
    groups = run.model.get("bn_groups", 1)
    return run.batch_size // groups if groups > 1 else 1


def largest(fits: Callable[[int], bool], first: int) -> int:
    """Returns the largest positive number that fits, within 3 %; 0 if none does.

    Searches by doubling and bisection, because each call of `fits` may be a compilation.

    Args:
      fits: monotonic predicate: if a number fits, all smaller ones do.
      first: number to try first.

    Example:
      >>> largest(lambda number: number <= 21, first=4)
      21
    """
    low, high, number = 0, None, first
    while high is None or high - low > max(low // 32, 1):
        if fits(number):
            low = number
        else:
            high = number
        number = 2 * low if high is None else (low + high) // 2
    return low
