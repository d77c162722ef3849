"""Supervision transfer: pairs, loss, gradients and a training step; T3D on segments."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvideo import create_model
from jaxvideo.inference.prepare import prepare
from jaxvideo.layers import BatchNorm
from jaxvideo.layers.parameters import shapes_only
from jaxvideo.models import MODELS
from jaxvideo.models.densenet3d import BLOCKS, VARIANTS, DenseNet3D
from jaxvideo.models.inception import InceptionTrunk
from jaxvideo.models.transfer import (
    DenseNet2D,
    SegmentT3D,
    SupervisionTransfer,
    TransferT3D,
    matched_pairs,
    matching_loss,
)
from jaxvideo.training.optim import Optim, make_optimizer
from jaxvideo.training.step import first_state, make_train_step
from jaxvideo.types import ConfigError, Lowering, Preprocessing
from jaxvideo.weights import tree


class Teacher(nn.Module):
    """Features of each frame that depend on every parameter and statistic."""

    @nn.compact
    def __call__(self, x, *, train):
        x = BatchNorm(name="bn")(nn.Dense(6, name="fc")(x), train=train)
        return x, {"fc": x}


class Student(nn.Module):
    """A network of three layers with the outputs of those in `models`."""

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
    """Returns (logits, endpoints, changed variables, gradients) of one training step."""

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


def test_pairs_are_own_frames_then_anothers():
    frames, clips, labels = matched_pairs(jnp.array([[1], [2], [3]]), jnp.array([10, 20, 30]))
    assert frames[:, 0].tolist() == [1, 2, 3, 3, 1, 2]
    assert clips.tolist() == [10, 20, 30, 10, 20, 30]
    assert labels.tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(("frames", "clips"), [(1, 1), (3, 2)])
def test_pairs_need_two_videos(frames, clips):
    with pytest.raises(ConfigError, match=f"frames of {frames} videos and clips of {clips}"):
        matched_pairs(jnp.zeros((frames, 4)), jnp.zeros((clips, 5)))


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
    """The teacher in test mode, averaged over frames and positions; the student in training."""
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


def test_nothing_is_sown_at_test(batch, variables):
    _, changed = jax.eval_shape(
        lambda v: MODEL.apply(v, *batch, train=False, mutable=["losses"]), variables
    )
    assert not changed


def test_unknown_feature(batch):
    model = SupervisionTransfer(Teacher(), STUDENT, feature="avg_pool")
    with pytest.raises(ConfigError, match="feature='avg_pool': allowed are conv0, pool, fc"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), *batch, train=False))


@pytest.mark.full
def test_t3d_and_a_2d_network():
    """Shapes of the paper: 8 frames, a clip of 32, features of 1024 and 896 (T3D-121)."""
    model = SupervisionTransfer(InceptionTrunk(per_frame=True), DenseNet3D(**VARIANTS["t3d_121"]))
    frames, clip = (jax.ShapeDtypeStruct((2, t, 224, 224, 3), jnp.float32) for t in (8, 32))
    (logits, ends), variables = jax.eval_shape(
        lambda *x: model.init_with_output(jax.random.key(0), *x, train=False), frames, clip
    )
    assert logits.shape == (4,)
    shapes = {"teacher": (2, 1024), "student": (2, 896), "fc1": (4, 512), "fc2": (4, 128)}
    found = {name: end.shape for name, end in ends.items() if not name.startswith("student/")}
    assert found == shapes | {"match": (4,)}
    assert ends["student/fc"].shape == (2, 400)
    assert {len(tree) for tree in (variables["params"], variables["batch_stats"])} == {5, 2}


# --- As train.py trains it --------------------------------------------------------------------

PRE = Preprocessing(frames=8, size=32, crop=32, mean=(0.4,) * 3, std=(0.2,) * 3)
SMALL = TransferT3D((1, 2), (3,), width=1 / 16, num_classes=3, teacher_frames=3, hidden=(8, 4))
FROZEN = ("teacher/*", "student/fc/*")


def filled(shapes, seed=0):
    """Distinct random values; variances are positive."""
    rng = np.random.default_rng(seed)
    flat = {
        name: rng.uniform(0.5, 1.5, leaf.shape)
        if name[-3:] == "var"
        else rng.normal(0, 0.3, leaf.shape)
        for name, leaf in tree.flatten(shapes).items()
    }
    return tree.unflatten({name: jnp.asarray(leaf, jnp.float32) for name, leaf in flat.items()})


def shapes_of(model, *clip):
    with shapes_only():
        return jax.eval_shape(
            lambda x: model.init(jax.random.key(0), x, train=False), clip_of(*clip)
        )


def clip_of(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.fixture(scope="module")
def trained():
    """Returns (variables, batch, state after a step, metrics)."""
    variables = filled(shapes_of(SMALL, 1, *PRE.shape))
    optim = Optim(lr=0.1, nesterov=True, weight_decay=0.1, frozen=FROZEN)
    optimizer = make_optimizer(optim, 0.1, variables["params"])
    batch = {
        "video": np.random.default_rng(1).integers(0, 256, (4, *PRE.video_shape), np.uint8),
        "label": np.array([0, 1, 2, 0], np.int32),
        "weight": np.ones(4, np.float32),
        "sample": np.zeros((4, 3), np.int32),
    }
    state = first_state(variables, optimizer)
    step = jax.jit(make_train_step(SMALL, optimizer, PRE, flip=False))
    return variables, batch, *step(state, batch, jax.random.key(0))


@pytest.mark.full
def test_a_step_teaches_student_and_classifier_only(trained):
    variables, _, state, _ = trained
    for kind, after in (("params", state.params), ("batch_stats", state.batch_stats)):
        after = tree.flatten(after)
        for name, before in tree.flatten(variables[kind]).items():
            kept = name.startswith(("teacher/", "student/fc/"))
            assert np.array_equal(after[name], before) == kept, name


@pytest.mark.full
def test_the_loss_is_of_frames_and_clips(trained):
    """Against separate networks: frames 1, 4, 6 of 8 with BN in test mode, the clip in training."""
    variables, batch, _, metrics = trained
    clip = prepare(jnp.asarray(batch["video"]), PRE, jnp.float32)
    parts = {
        name: {kind: tree_of[name] for kind, tree_of in variables.items()}
        for name in ("teacher", "student")
    }
    teacher = DenseNet2D((1, 2), width=1 / 16, lowering=Lowering.DIRECT)
    taught, _ = teacher.apply(parts["teacher"], clip[:, np.array([1, 4, 6])], train=False)
    student = DenseNet3D((1, 2), (3,), width=1 / 16, num_classes=3)
    (logits, ends), _ = student.apply(parts["student"], clip, train=True, mutable=["batch_stats"])
    frames, clips = np.asarray(taught).mean((1, 2, 3)), np.asarray(ends["pool"])
    x = np.concatenate([frames[[0, 1, 2, 3, 3, 0, 1, 2]], np.tile(clips, (2, 1))], axis=1)
    layers = variables["params"]["matching"]
    for name in ("fc1", "fc2", "match"):
        x = x @ np.asarray(layers[name]["kernel"]) + np.asarray(layers[name]["bias"])
        x = x if name == "match" else np.maximum(x, 0)
    matching = np.log1p(np.exp(np.where(np.arange(8) < 4, -1, 1) * x[:, 0])).mean()
    np.testing.assert_allclose(metrics["other_loss"], matching, rtol=1e-4)
    own = np.asarray(jax.nn.log_softmax(logits))[np.arange(4), batch["label"]]
    np.testing.assert_allclose(metrics["loss"], matching - own.mean(), rtol=1e-4)


@pytest.mark.full
def test_at_test_the_student_answers(trained):
    variables, batch, *_ = trained
    clip = prepare(jnp.asarray(batch["video"][:1]), PRE, jnp.float32)
    logits, ends = SMALL.apply(variables, clip, train=False)
    student = {kind: tree_of["student"] for kind, tree_of in variables.items()}
    network = DenseNet3D((1, 2), (3,), width=1 / 16, num_classes=3)
    expected, own = network.apply(student, clip, train=False)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert list(ends) == [*(f"student/{name}" for name in own), "pre_logits", "logits"]


@pytest.mark.full
def test_registry_rows_of_the_paper():
    """The student is t3d_121, the teacher DenseNet-121 without its classifier.

    The teacher has 7,978,856 - 1,025,000 parameters; fc1 has 1024 + 896 inputs.
    """
    model, shape = create_model("t3d_121_transfer"), MODELS["t3d_121_transfer"].preprocessing.shape
    params = shapes_of(model, 1, *shape)["params"]
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()
    }
    matching = (1920 + 1) * 512 + 513 * 128 + 129
    assert sizes == {"teacher": 6_953_856, "student": 29_731_728, "matching": matching}
    own = tree.flatten(shapes_of(create_model("t3d_121"), 1, 32, 224, 224, 3)["params"])
    for part in (
        params["student"],
        shapes_of(create_model("t3d_121_tsn"), 1, 96, 64, 64, 3)["params"]["net"],
    ):
        assert {n: leaf.shape for n, leaf in tree.flatten(part).items()} == {
            n: leaf.shape for n, leaf in own.items()
        }


def test_teacher_frames_are_positive():
    with pytest.raises(ConfigError, match="teacher_frames=0: must be at least 1"):
        shapes_of(SMALL.clone(teacher_frames=0), 1, 8, 32, 32, 3)


# torchvision's networks, whose classifier has 1000 classes.
@pytest.mark.parametrize(
    ("depth", "features", "parameters"),
    [
        (121, 1024, 7_978_856),
        (161, 2208, 28_681_000),
    ],
)
def test_densenet_counts(depth, features, parameters):
    net = DenseNet2D(BLOCKS[depth], growth=48 if depth == 161 else 32)
    params = shapes_of(net, 1, 1, 64, 64, 3)["params"]
    found = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found == parameters - 1000 * features - 1000


@pytest.mark.torch
def test_densenet_in_torchvision():
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    from jaxvideo.weights import reference

    try:
        torchvision = reference.torchvision()
    except ImportError:
        pytest.skip("needs torchvision, installed with --no-deps")
    theirs = torchvision.models.DenseNet(4, (2, 1, 2), 8).eval()
    net = DenseNet2D((2, 1, 2), width=1 / 8)
    variables = filled(shapes_of(net, 1, 1, 48, 48, 3))
    leaves = {"scale": "weight", "kernel": "weight", "mean": "running_mean", "var": "running_var"}

    def torch_name(name):
        *scope, leaf = name.split("/")
        scope = "/".join(scope).replace("bn_last", "norm5").replace("bn0", "norm0")
        scope = re.sub(r"dense_(\d)/layer_(\d)", r"denseblock\1/denselayer\2", scope)
        scope = re.sub(r"transition_(\d)/(bn|conv)_1", r"transition\1/\2", scope)
        scope = re.sub("bn_?", "norm", scope).replace("conv_", "conv")
        return f"features.{scope.replace('/', '.')}.{leaves.get(leaf, leaf)}"

    state = {}
    for collection in variables.values():
        for name, leaf in tree.flatten(collection).items():
            leaf = np.asarray(leaf)
            leaf = leaf[0].transpose(3, 2, 0, 1) if leaf.ndim == 5 else leaf
            state[torch_name(name)] = torch.from_numpy(leaf.copy())
    missing, unknown = theirs.load_state_dict(state, strict=False)
    assert not unknown
    assert all(n.startswith("classifier") or n.endswith("num_batches_tracked") for n in missing)
    frames = np.random.default_rng(1).standard_normal((2, 2, 48, 48, 3), np.float32)
    with torch.inference_mode():
        x = torch.from_numpy(frames.reshape(4, 48, 48, 3).transpose(0, 3, 1, 2).copy())
        x = torch.relu(theirs.features(x)).permute(0, 2, 3, 1).numpy()
    ours, _ = jax.jit(lambda v, c: net.apply(v, c, train=False))(variables, frames)
    assert ours.shape == (2, 2, 3, 3, 14)
    np.testing.assert_allclose(ours.reshape(x.shape), x, atol=1e-4 * np.abs(x).max())


# --- Segments ---------------------------------------------------------------------------------


def test_segments_average_the_scores_of_their_snippets():
    net = DenseNet3D((1, 2), (3,), width=1 / 16, num_classes=5)
    model = SegmentT3D((1, 2), (3,), width=1 / 16, num_classes=5, snippet=4)
    variables = filled(shapes_of(model, 1, 12, 32, 32, 3))
    own = {kind: tree_of["net"] for kind, tree_of in variables.items()}
    clip = np.random.default_rng(0).standard_normal((2, 12, 32, 32, 3), np.float32)
    logits, ends = jax.jit(lambda c: model.apply(variables, c, train=False))(clip)
    single = jax.jit(lambda c: net.apply(own, c, train=False)[0])
    expected = np.mean([single(clip[:, i : i + 4]) for i in (0, 4, 8)], axis=0)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert ends["net/fc"].shape == (2, 3, 5)
    with pytest.raises(ConfigError, match="12 frames: snippets of 5 frames must divide it"):
        jax.eval_shape(lambda: model.clone(snippet=5).apply(variables, clip, train=False))
