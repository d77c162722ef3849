"""Marks parameters of a test as `full`, so that they run with `-m full` only."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def some(values: Iterable[Any], chosen: Collection[Any]) -> list[Any]:
    """Returns parameters for all values; those that are not chosen have the marker `full`."""
    values = list(values)
    if missing := [value for value in chosen if value not in values]:
        raise ValueError(f"not among the values: {missing}")
    return [
        pytest.param(value, marks=() if value in chosen else pytest.mark.full) for value in values
    ]
