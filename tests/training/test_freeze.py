"""Frozen layers: no gradients, and BatchNorm statistics that stay as they are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvideo.models import create_model, head_scopes
from jaxvideo.training.freeze import frozen_norms
from jaxvideo.training.optim import make_optimizer
from jaxvideo.training.schema import Optim
from jaxvideo.training.step import first_state, init_variables, make_train_step
from jaxvideo.types import ConfigError, Preprocessing
from jaxvideo.weights import tree
from tests.marks import some

# Small forms of one network per family with BatchNorm: arguments, frames and crop.
NETWORKS = {
    "f_r2d_10": ({"width": 1 / 16}, 4, 20),
    "r2plus1d_10": ({"width": 1 / 16}, 4, 20),
    "resnet10_3d_b": ({"width": 1 / 16}, 4, 20),
    "p3d_63": ({"width": 1 / 16}, 16, 32),
    "i3d_rgb": ({"width": 1 / 16}, 8, 32),
    "s3dg": ({"width": 1 / 16}, 8, 32),
    "slowfast_r50": ({"width": 1 / 8}, 32, 32),
    "x3d_xs": ({"width": 1 / 2}, 4, 32),
    "csn_r50": ({"width": 1 / 16}, 8, 32),
    "densenet3d_121": ({"width": 1 / 8}, 16, 32),
    "t3d_121": ({"width": 1 / 8}, 16, 32),
    "c3d_bn": ({"width": 1 / 16}, 16, 32),
    "convnet_lstm": ({"width": 1 / 8}, 4, 32),
}
BATCH = 4


@functools.cache
def case(name):
    """Returns the network, its clips and its variables, with statistics of a trained network."""
    arguments, frames, crop = NETWORKS[name]
    model = create_model(name, num_classes=3, **arguments)
    if getattr(model, "dropout_rate", 0):
        model = model.clone(dropout_rate=0.0)
    clips = Preprocessing(frames=frames, size=crop, crop=crop)
    variables = jax.jit(lambda: init_variables(model, clips, 0))()
    rng = np.random.default_rng(0)
    variables["batch_stats"] = jax.tree.map(
        lambda s: s + 0.1 * rng.random(s.shape, np.float32), variables["batch_stats"]
    )
    return model, clips, variables


def batch(clips, size=BATCH):
    rng = np.random.default_rng(1)
    return {
        "video": rng.integers(0, 256, (size, *clips.video_shape), np.uint8),
        "label": np.arange(size, dtype=np.int32) % 3,
        "weight": np.ones(size, np.float32),
        "sample": np.stack([np.zeros(size), np.arange(size), np.zeros(size)], 1).astype(np.int32),
    }


def body(model, variables):
    """Returns patterns of everything but the classifier."""
    heads = head_scopes(model)
    names = tree.flatten(variables["params"])
    return tuple(n for n in names if not any(n.startswith(f"{head}/") for head in heads))


def trained(name, frozen, steps=2, **options):
    """Returns variables before and after some steps, and the first metrics."""
    model, clips, variables = case(name)
    if groups := options.pop("bn_groups", 0):
        model = model.clone(bn_groups=groups)
    optimizer = make_optimizer(Optim(lr=0.1, frozen=frozen), 0.1, variables["params"])
    step = jax.jit(make_train_step(model, optimizer, clips, flip=False, frozen=frozen, **options))
    state, given = first_state(variables, optimizer), batch(clips, options.get("size", 6))
    first = None
    for _ in range(steps):
        state, metrics = step(state, given, jax.random.key(0))
        first = first or metrics
    return state, first, given


def changed(before, after):
    before, after = tree.flatten(before), tree.flatten(after)
    assert before.keys() == after.keys()
    return {n for n in before if not np.array_equal(before[n], after[n])}


@pytest.mark.parametrize("name", some(NETWORKS, ["f_r2d_10"]))
def test_statistics_of_frozen_layers_stay(name):
    model, _, variables = case(name)
    frozen = body(model, variables)
    state, metrics, given = trained(name, frozen)
    assert changed(variables["batch_stats"], state.batch_stats) == set()
    moved = changed(variables["params"], state.params)
    assert moved
    assert all(any(n.startswith(f"{head}/") for head in head_scopes(model)) for n in moved)
    # The frozen network computes what it computes at test.
    clip = (jnp.asarray(given["video"]) / 255.0).astype(jnp.float32)
    if model.__class__.__name__ != "ConvNetLSTM":  # whose loss in training is over all time steps
        logits, _ = jax.jit(functools.partial(model.apply, train=False))(variables, clip)
        expected = optax.softmax_cross_entropy_with_integer_labels(logits, given["label"]).mean()
        np.testing.assert_allclose(metrics["loss"], expected, rtol=2e-4)


def test_statistics_drift_if_asked():
    model, _, variables = case("f_r2d_10")
    frozen = body(model, variables)
    state, _, _ = trained("f_r2d_10", frozen, frozen_stats=False)
    assert changed(variables["batch_stats"], state.batch_stats) == set(
        tree.flatten(variables["batch_stats"])
    )


@pytest.mark.parametrize("options", [{}, {"accumulate": 3, "bn_groups": 3}, {"remat": True}])
def test_a_part_of_the_network(options):
    """Statistics of the other layers change; three micro-batches round nothing."""
    _, _, variables = case("f_r2d_10")
    frozen = ("conv1/*", "bn1/*", "conv2_x/*")
    state, _, _ = trained("f_r2d_10", frozen, **options)
    moved = changed(variables["batch_stats"], state.batch_stats)
    names = set(tree.flatten(variables["batch_stats"]))
    assert moved == {n for n in names if not n.startswith(("bn1/", "conv2_x/"))}
    assert 0 < len(moved) < len(names)


def test_no_gradients_of_frozen_layers_are_computed():
    model, clips, variables = case("f_r2d_10")

    def flops(frozen):
        optimizer = make_optimizer(Optim(lr=0.1, frozen=frozen), 0.1, variables["params"])
        step = make_train_step(model, optimizer, clips, flip=False, frozen=frozen)
        state = first_state(variables, optimizer)
        lowered = jax.jit(step).lower(state, batch(clips), jax.random.key(0))
        return lowered.cost_analysis()["flops"]

    assert flops(body(model, variables)) < 0.45 * flops(())


def test_patterns():
    params = ["a/bn/scale", "a/bn/bias", "a/kernel", "b/bn/scale", "b/bn/bias"]
    statistics = ["a/bn/mean", "a/bn/var", "b/bn/mean", "bare/mean"]
    assert frozen_norms(params, statistics, ["a/*"]) == {"a/bn"}
    assert frozen_norms(params, statistics, ["*/scale", "*/bias"]) == {"a/bn", "b/bn"}
    assert frozen_norms(params, statistics, ["*/bn/scale", "a/bn/bias", "bare/*"]) == {
        "a/bn",
        "bare",
    }
    assert frozen_norms(params, statistics, []) == set()


def test_a_pattern_that_matches_nothing():
    _, _, variables = case("f_r2d_10")
    optimizer = optax.sgd(0.1)
    model, clips, _ = case("f_r2d_10")
    step = make_train_step(model, optimizer, clips, flip=False, frozen=("conv9/*",))
    with pytest.raises(ConfigError, match=r"optim\.frozen: the pattern 'conv9/\*'"):
        jax.eval_shape(step, first_state(variables, optimizer), batch(clips), jax.random.key(0))
