"""The pure step: on 8 devices as on 1, and each ingredient alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxvideo.models.resnet3d import KINDS, ResNet3D
from jaxvideo.training.optim import Optim, make_optimizer, make_schedule
from jaxvideo.training.preprocess import normalise, random_flip, sample_keys
from jaxvideo.training.step import (
    TrainState,
    init_variables,
    make_predict_step,
    make_train_step,
    weighted_mean,
)
from jaxvideo.types import Lowering, Preprocessing

PRE = Preprocessing(frames=4, size=16, crop=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def setup(kind="r2plus1d", **arguments):
    """Two stages of one block: all ingredients, and compiled in seconds."""
    model = ResNet3D(KINDS[kind][:3], blocks=(1, 1), num_classes=5, width=8, **arguments)
    light = model.clone(lowering=Lowering.DIRECT)
    variables = jax.jit(lambda: init_variables(light, PRE, 0))()
    optim = Optim(lr=0.1, schedule="constant", weight_decay=1e-3)
    schedule = make_schedule(optim, steps_per_epoch=1, epochs=1)
    optimizer = make_optimizer(optim, schedule, variables["params"])
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        plateau=None,
    )
    return model, optimizer, state


def batch(n=16):
    rng = np.random.default_rng(0)
    return {
        "video": rng.integers(0, 256, (n, *PRE.shape), dtype=np.uint8),
        "label": (np.arange(n) % 5).astype(np.int32),
        "weight": np.ones(n, np.float32),
        "sample": np.stack([np.zeros(n), np.arange(n), np.zeros(n)], 1).astype(np.int32),
    }


@pytest.mark.parametrize("groups", [1, 4])
def test_eight_devices_equal_one(groups):
    model, optimizer, state = setup(bn_groups=groups)
    step = make_train_step(model, optimizer, PRE, flip=True)
    results = []
    for count in (1, 8):
        mesh = jax.make_mesh(
            (count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count]
        )
        whole, split = (
            NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("data"))
        )
        compiled = jax.jit(step, out_shardings=(whole, whole))
        new, metrics = compiled(
            jax.device_put(state, whole), jax.device_put(batch(), split), jax.random.key(1)
        )
        moved = jax.tree.map(
            lambda a, b: (np.asarray(b) - np.asarray(a)) / 0.1, state.params, new.params
        )
        results.append((metrics, moved, new.batch_stats))
    for one, eight in zip(*map(jax.tree.leaves, results), strict=True):
        scale = max(1.0, np.abs(one).max())
        np.testing.assert_allclose(np.asarray(eight), np.asarray(one), rtol=0, atol=1e-5 * scale)


def test_a_step_learns_and_moves_statistics():
    model, optimizer, state = setup()
    step = jax.jit(make_train_step(model, optimizer, PRE, flip=False, label_smoothing=0.1))
    data, losses = batch(), []
    for _ in range(40):
        state, metrics = step(state, data, jax.random.key(0))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert int(state.step) == 40
    assert all(float(np.abs(m).max()) > 0 for m in jax.tree.leaves(state.batch_stats))


def test_samples_without_weight_do_not_count():
    model, optimizer, state = setup("f_r2d")
    step = jax.jit(make_train_step(model, optimizer, PRE, flip=False))
    data = batch()
    data["weight"][8:] = 0
    other = {**data, "label": np.where(data["weight"] > 0, data["label"], 0).astype(np.int32)}
    results = [step(state, one, jax.random.key(0)) for one in (data, other)]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(a, b)


def test_prediction_is_a_distribution():
    model, _, state = setup("f_r2d")
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    video = batch(4)["video"]
    scores = make_predict_step(model, PRE, "softmax")(variables, video)
    logits = make_predict_step(model, PRE, "logits")(variables, video)
    np.testing.assert_allclose(scores.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(jax.nn.softmax(logits), scores, rtol=1e-5)


@pytest.mark.fast
def test_normalise():
    video = jnp.asarray([0, 51, 255], jnp.uint8).reshape(1, 1, 1, 1, 3)
    pre = Preprocessing(frames=1, size=1, crop=1, mean=(0.5, 0.0, 0.25), std=(0.5, 2.0, 0.25))
    np.testing.assert_allclose(normalise(video, pre, jnp.float32).ravel(), [-1, 0.1, 3], rtol=1e-5)
    pre = Preprocessing(frames=1, size=1, crop=1, range=(-1.0, 1.0))
    np.testing.assert_allclose(normalise(video, pre, "float32").ravel(), [-1, -0.6, 1], rtol=1e-5)


@pytest.mark.fast
def test_flip_depends_on_the_sample_and_not_on_its_place():
    video = jnp.arange(6, dtype=jnp.uint8).reshape(1, 1, 1, 6, 1) * jnp.ones(
        (64, 1, 1, 1, 1), jnp.uint8
    )
    samples = np.stack([np.zeros(64), np.arange(64), np.zeros(64)], 1).astype(np.int32)
    key = jax.random.key(0)
    flipped = random_flip(video, sample_keys(key, samples))
    mirrored = np.asarray(flipped[:, 0, 0, 0, 0] == 5)
    assert 16 < mirrored.sum() < 48
    np.testing.assert_array_equal(flipped[mirrored], video[mirrored][:, :, :, ::-1])
    np.testing.assert_array_equal(flipped[~mirrored], video[~mirrored])
    order = np.random.default_rng(0).permutation(64)
    again = random_flip(video, sample_keys(key, samples[order]))
    np.testing.assert_array_equal(again, flipped[order])
    next_epoch = random_flip(video, sample_keys(key, samples + np.asarray([1, 0, 0])))
    assert (np.asarray(next_epoch) != np.asarray(flipped)).any()


@pytest.mark.fast
def test_weighted_mean_of_nothing_is_zero():
    assert weighted_mean(jnp.ones(3), jnp.zeros(3)) == 0
