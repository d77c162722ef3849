"""Snippets and stacked flow, by hand."""

import numpy as np
import pytest

from jaxvideo.models.stacks import snippets, stack_both_ways, stack_fields, stack_trajectories
from jaxvideo.types import ConfigError


def clip_of(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def test_channels_of_a_stack():
    flow = clip_of((2, 3, 4, 5, 2))
    stack = stack_fields(flow)
    assert stack.shape == (2, 1, 4, 5, 6)
    for k in range(3):
        np.testing.assert_array_equal(stack[:, 0, ..., 2 * k], flow[:, k, ..., 0])
        np.testing.assert_array_equal(stack[:, 0, ..., 2 * k + 1], flow[:, k, ..., 1])


def bilinear(field, row, column):
    """Samples a field `[H, W, 2]` bilinearly, with border clamping."""
    h, w, _ = field.shape
    row, column = np.clip(row, 0, h - 1), np.clip(column, 0, w - 1)
    top, left = min(int(row), h - 2), min(int(column), w - 2)
    y, x = row - top, column - left
    return (
        (1 - y) * (1 - x) * field[top, left]
        + (1 - y) * x * field[top, left + 1]
        + y * (1 - x) * field[top + 1, left]
        + y * x * field[top + 1, left + 1]
    )


def test_trajectories_by_hand():
    """Equation 2 of arXiv 1406.2199, pixel by pixel; some trajectories leave the frame."""
    flow = clip_of((2, 4, 6, 7, 2)) / 10
    stack = np.asarray(stack_trajectories(flow, pixels=20.0))
    for n in range(2):
        for v in range(6):
            for u in range(7):
                column, row = float(u), float(v)
                for k in range(4):
                    x, y = bilinear(flow[n, k], row, column)
                    np.testing.assert_allclose(
                        stack[n, 0, v, u, 2 * k : 2 * k + 2], (x, y), atol=2e-5
                    )
                    column, row = column + 20 * x, row + 20 * y


def test_both_ways_by_hand():
    flow = clip_of((1, 4, 2, 2, 4))
    stack = stack_both_ways(flow)
    fields = [flow[0, 2, ..., :2], flow[0, 3, ..., :2], flow[0, 1, ..., 2:], flow[0, 0, ..., 2:]]
    np.testing.assert_array_equal(stack[0, 0], np.concatenate(fields, axis=-1))
    for wrong in (flow[:, :3], flow[..., :2]):
        with pytest.raises(ConfigError, match="even number of fields"):
            stack_both_ways(wrong)


def test_snippets_are_consecutive():
    x = np.arange(6).reshape(1, 6, 1, 1, 1)
    assert snippets(x, 2)[0, :, :, 0, 0, 0].tolist() == [[0, 1], [2, 3], [4, 5]]
