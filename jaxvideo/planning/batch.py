"""Batch sizes: which ones a run allows, and the largest that fits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from jaxvideo.training.config import Run
from jaxvideo.types import ConfigError


def batch_unit(run: Run, devices: int) -> int:
    """What a global batch must be a multiple of, if BN sees as many clips as the config says."""
    return run.parallel.accumulate * math.lcm(devices // run.parallel.split, _bn_size(run))


def with_batch(run: Run, batch: int) -> Run:
    """The run with another global batch. BN groups keep their size, so there are more or fewer of
    them; a single group stays single."""
    groups, model = run.model.get("bn_groups", 1), run.model
    if groups > 1:
        if batch % _bn_size(run):
            raise ConfigError(
                f"a batch of {batch}: must be a multiple of the {_bn_size(run)} clips that a BN "
                f"group of the config has (batch_size={run.batch_size}, model.bn_groups={groups})"
            )
        model = {**model, "bn_groups": batch // _bn_size(run)}
    return dataclasses.replace(run, batch_size=batch, model=model)


def _bn_size(run: Run) -> int:
    groups = run.model.get("bn_groups", 1)
    return run.batch_size // groups if groups > 1 else 1


def largest(fits: Callable[[int], bool], first: int) -> int:
    """The largest number from 1 that fits, to 3 % where it is large; 0 if none does. By doubling
    and bisection, as every question is a compilation; whatever is below one that fits does."""
    low, high, number = 0, None, first
    while high is None or high - low > max(low // 32, 1):
        if fits(number):
            low = number
        else:
            high = number
        number = 2 * low if high is None else (low + high) // 2
    return low
