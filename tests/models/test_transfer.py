"""Supervision transfer: pairs, loss, and who learns."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvideo.layers import BatchNorm
from jaxvideo.models.densenet3d import VARIANTS, DenseNet3D
from jaxvideo.models.inception import InceptionTrunk
from jaxvideo.models.transfer import SupervisionTransfer, matched_pairs, matching_loss
from jaxvideo.types import ConfigError


class Teacher(nn.Module):
    """Features of each frame that depend on every parameter and statistic."""

    @nn.compact
    def __call__(self, x, *, train):
        x = BatchNorm(name="bn")(nn.Dense(6, name="fc")(x), train=train)
        return x, {"fc": x}


class Student(nn.Module):
    """What a network of `models` answers, in three layers."""

    @nn.compact
    def __call__(self, x, *, train):
        x = BatchNorm(name="bn0")(nn.Dense(10, name="conv0")(x), train=train)
        pool = nn.relu(x).mean((1, 2, 3))
        logits = nn.Dense(5, name="fc")(pool)
        return logits, {"conv0": x, "pool": pool, "fc": logits}


STUDENT = Student()
MODEL = SupervisionTransfer(Teacher(), STUDENT, hidden=(8, 4))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((3, 2, 4, 4, 3), np.float32)
    clip = rng.standard_normal((3, 5, 8, 8, 3), np.float32)
    return frames, clip


@pytest.fixture(scope="module")
def variables(batch):
    return jax.jit(lambda key: MODEL.init(key, *batch, train=False))(jax.random.key(0))


@pytest.fixture(scope="module")
def step(batch, variables):
    """(logits, endpoints, changed variables, gradients) of one training step."""

    def loss_of(params):
        (logits, ends), changed = MODEL.apply(
            {**variables, "params": params}, *batch, train=True, mutable=["batch_stats", "losses"]
        )
        (loss,) = jax.tree.leaves(changed["losses"])
        return loss, (logits, ends, changed)

    (_, (logits, ends, changed)), grads = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(
        variables["params"]
    )
    return logits, ends, changed, grads


@pytest.mark.fast
def test_pairs_are_own_frames_then_anothers():
    frames, clips, labels = matched_pairs(jnp.array([[1], [2], [3]]), jnp.array([10, 20, 30]))
    assert frames[:, 0].tolist() == [1, 2, 3, 3, 1, 2]
    assert clips.tolist() == [10, 20, 30, 10, 20, 30]
    assert labels.tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.fast
@pytest.mark.parametrize(("frames", "clips"), [(1, 1), (3, 2)])
def test_pairs_need_two_videos(frames, clips):
    with pytest.raises(ConfigError, match=f"frames of {frames} videos, clips of {clips}"):
        matched_pairs(jnp.zeros((frames, 4)), jnp.zeros((clips, 5)))


@pytest.mark.fast
def test_loss_is_binary_cross_entropy():
    logits, labels = np.array([0.3, -2.0, 1.5, 80.0]), np.array([1.0, 0.0, 0.0, 1.0])
    p = 1 / (1 + np.exp(-logits))
    expected = -np.where(labels == 1, np.log(p), np.log(1 - p + 1e-300)).mean()
    np.testing.assert_allclose(matching_loss(logits, labels), expected, rtol=1e-5)
    assert np.isfinite(matching_loss(jnp.array([-1e4, 1e4]), jnp.array([1.0, 0.0])))


def test_classifier_is_numpys(step, variables):
    logits, ends, changed, _ = step
    teacher, student = np.asarray(ends["teacher"]), np.asarray(ends["student"])
    assert (teacher.shape, student.shape) == ((3, 6), (3, 10))
    x = np.concatenate([teacher[[0, 1, 2, 2, 0, 1]], student[[0, 1, 2, 0, 1, 2]]], axis=1)
    for name in ("fc1", "fc2", "match"):
        p = variables["params"][name]
        x = x @ p["kernel"] + p["bias"]
        x = x if name == "match" else np.maximum(x, 0)
    np.testing.assert_allclose(logits, x[:, 0], atol=1e-6)
    (loss,) = changed["losses"]["matching"]
    signed = np.where(np.arange(6) < 3, -x[:, 0], x[:, 0])
    np.testing.assert_allclose(loss, np.log1p(np.exp(signed)).mean(), rtol=1e-5)


def test_features_are_the_networks_own(step, variables, batch):
    """The teacher's as at test, its mean over frames and positions; the student's in training."""
    _, ends, _, _ = step
    frames, clip = batch
    parts = {
        name: {kind: tree[name] for kind, tree in variables.items()}
        for name in ("teacher", "student")
    }
    taught, _ = Teacher().apply(parts["teacher"], frames, train=False)
    np.testing.assert_allclose(ends["teacher"], taught.mean((1, 2, 3)), atol=1e-6)
    (_, own), _ = STUDENT.apply(parts["student"], clip, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(ends["student"], own["pool"], atol=1e-5)


def test_only_the_student_and_the_classifier_learn(step, variables):
    _, _, changed, grads = step

    def moves(tree):
        return [bool(np.abs(leaf).max() > 0) for leaf in jax.tree.leaves(tree)]

    assert set(grads) == {"teacher", "student", "fc1", "fc2", "match"}
    assert not any(moves(grads["teacher"]))
    student = dict(grads["student"])
    assert not any(moves(student.pop("fc")))  # its own classes have no part in it
    for part in (student, grads["fc1"], grads["fc2"], grads["match"]):
        assert all(moves(part))
    before, after = variables["batch_stats"], changed["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, after["teacher"], before["teacher"])
    assert not np.array_equal(after["student"]["bn0"]["mean"], before["student"]["bn0"]["mean"])


@pytest.mark.fast
def test_nothing_is_sown_at_test(batch, variables):
    _, changed = jax.eval_shape(
        lambda v: MODEL.apply(v, *batch, train=False, mutable=["losses"]), variables
    )
    assert not changed


@pytest.mark.fast
def test_unknown_feature(batch):
    model = SupervisionTransfer(Teacher(), STUDENT, feature="avg_pool")
    with pytest.raises(ConfigError, match="feature='avg_pool': allowed are conv0, pool, fc"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), *batch, train=False))


@pytest.mark.fast
def test_t3d_and_a_2d_network():
    """Shapes of the paper: 8 frames, a clip of 32, features of 1024 and (T3D-121's) 896."""
    model = SupervisionTransfer(InceptionTrunk(per_frame=True), DenseNet3D(**VARIANTS["t3d_121"]))
    frames, clip = (jax.ShapeDtypeStruct((2, t, 224, 224, 3), jnp.float32) for t in (8, 32))
    (logits, ends), variables = jax.eval_shape(
        lambda *x: model.init_with_output(jax.random.key(0), *x, train=False), frames, clip
    )
    assert logits.shape == (4,)
    shapes = {"teacher": (2, 1024), "student": (2, 896), "fc1": (4, 512), "fc2": (4, 128)}
    assert {name: end.shape for name, end in ends.items()} == shapes | {"match": (4,)}
    assert {len(tree) for tree in (variables["params"], variables["batch_stats"])} == {5, 2}
