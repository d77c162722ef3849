"""The jitted training step of a run."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxvideo.training.parallel import Parallel, make_layout
from jaxvideo.training.program import batch_shapes, jit_step
from jaxvideo.training.schema import Run
from tests.marks import some
from tests.training.test_step import PRE, setup

PLANES = dataclasses.replace(PRE, pixels="yuv")


def loss_of(parallel, run, batch):
    model, optimizer, state = setup(bn_groups=2)
    devices = jax.devices()[: 2 * parallel.split]
    layout = make_layout(parallel, {"batch_size": run.batch_size}, devices)
    shardings = layout.state(state, False)
    step = jit_step(
        dataclasses.replace(run, parallel=parallel), model, optimizer, layout, shardings
    )
    given = {name: layout.put(name, array) for name, array in batch.items()}
    for name, expected in batch_shapes(run, layout).items():
        assert given[name].shape == expected.shape, name
        assert given[name].sharding.is_equivalent_to(expected.sharding, expected.ndim), name
    state, metrics = step(jax.device_put(state, shardings), given, jax.random.key(0))
    return float(metrics["loss"]), state.params


@pytest.mark.parametrize("axis", some(["height", "time"], ["height"]))
def test_planes_of_a_clip_over_two_devices(axis):
    """Two devices per clip compute the step of one device per clip."""
    run = Run(batch_size=4, preprocessing=PLANES)
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 256, (4, *PLANES.transfer_shape), dtype=np.uint8)
    planes[..., -1] = 0  # the index of the matrix
    batch = {
        "video": planes,
        "label": np.arange(4, dtype=np.int32),
        "weight": np.ones(4, np.float32),
        "sample": np.zeros((4, 3), np.int32),
    }
    loss, params = loss_of(Parallel(), run, batch)
    split_loss, split_params = loss_of(Parallel(split=2, axis=axis), run, batch)
    assert split_loss == pytest.approx(loss, rel=1e-5)
    for one, two in zip(jax.tree.leaves(params), jax.tree.leaves(split_params), strict=True):
        np.testing.assert_allclose(np.asarray(two), np.asarray(one), atol=1e-4)
