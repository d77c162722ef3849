"""Initial weights of a run, without training: all sources and their errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvideo.models import create_model, model_entry
from jaxvideo.pretrained import Weights, save_weights
from jaxvideo.training import checkpoint
from jaxvideo.training.initial import initial_weights
from jaxvideo.training.schema import Init
from jaxvideo.training.step import TrainState, init_variables
from jaxvideo.types import CheckpointError, ConfigError, Preprocessing
from jaxvideo.weights import tree

PRE = Preprocessing(frames=4, size=24, crop=20)
FLAT = {"name": "f_r2d_10", "width": 1 / 16}
CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with a checkpoint of a 2-D network."""
    folder = tmp_path_factory.mktemp("run")
    model = create_model(**FLAT, num_classes=3)
    variables = jax.jit(lambda: init_variables(model, PRE, 5))()
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optax.sgd(0.1).init(variables["params"]),
        plateau=None,
    )
    described = {"model": {**FLAT, "num_classes": 3}, "preprocessing": dataclasses.asdict(PRE)}
    with checkpoint.open_checkpoints(folder, keep=1) as checkpoints:
        checkpoint.save(checkpoints, state, 1, described)
    return folder, variables


@pytest.mark.full
def test_from_a_run(run):
    folder, expected = run
    variables, model, clips, notes, _ = initial_weights(Init(str(folder)), FLAT, CLASSES, {}, 0)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    assert model == FLAT
    assert clips == PRE
    assert notes == []


def test_another_head_and_other_pixels(run):
    folder, expected = run
    init = Init(str(folder), leave_out=("fc/*",))
    given = {"mean": (0.5, 0.5, 0.5), "frames": 8, "stride": None}
    variables, _, clips, notes, _ = initial_weights(init, FLAT, tuple("abcdefghi"), given, 0)
    assert clips == dataclasses.replace(PRE, mean=(0.5, 0.5, 0.5), frames=8)
    assert variables["params"].pop("fc")["kernel"].shape == (32, 9)
    params = {name: leaf for name, leaf in expected["params"].items() if name != "fc"}
    jax.tree.map(np.testing.assert_array_equal, variables["params"], params)
    assert len(notes) == 1
    assert "mean=(0.0, 0.0, 0.0); the config sets (0.5, 0.5, 0.5)" in notes[0]


def test_inflated(run):
    folder, expected = run
    deep = {"name": "r3d_10", "width": 1 / 16}
    init = Init(str(folder), inflate="center")
    variables, _, clips, _, _ = initial_weights(init, deep, CLASSES, {}, 0)
    own = model_entry("r3d_10").preprocessing
    assert (clips.frames, clips.crop, clips.mean) == (own.frames, own.crop, PRE.mean)
    kernel = variables["params"]["conv1"]["kernel"]
    assert kernel.shape == (3, 7, 7, 3, 4)
    np.testing.assert_array_equal(kernel[1:2], expected["params"]["conv1"]["kernel"])
    assert tree.flatten(variables).keys() == tree.flatten(expected).keys()


def test_another_epsilon_gives_the_same_numbers(run):
    folder, expected = run
    other = {**FLAT, "bn_epsilon": 1e-3}
    variables, model, *_ = initial_weights(Init(str(folder)), other, CLASSES, {}, 0)
    assert model == other
    found = variables["batch_stats"]["bn1"]["var"]
    np.testing.assert_allclose(
        found + 1e-3, expected["batch_stats"]["bn1"]["var"] + 1e-5, rtol=1e-6
    )


def test_arguments_come_with_the_weights(run):
    """`width` need not be repeated."""
    folder, expected = run
    given = {"name": FLAT["name"]}
    variables, model, *_ = initial_weights(Init(str(folder)), given, CLASSES, {}, 0)
    assert model == FLAT
    jax.tree.map(np.testing.assert_array_equal, variables, expected)


@pytest.mark.parametrize(
    ("fields", "model", "classes", "error", "text"),
    [
        ({}, FLAT, 9, CheckpointError, 'leave_out=\\("fc/\\*",\\) starts it with fresh values'),
        ({}, {"name": "r3d_10", "width": 1 / 16}, 3, CheckpointError, "of another network.*kinds:"),
        (
            {"inflate": "center"},
            {"name": "f_r2d_18", "width": 1 / 16},
            3,
            CheckpointError,
            "missing",
        ),
        (
            {"inflate": "average"},
            {**FLAT, "width": 1 / 8},
            3,
            CheckpointError,
            "cannot be inflated",
        ),
        ({"source": "hara"}, FLAT, 3, ConfigError, "is a run directory"),
        ({}, {**FLAT, "width": 1 / 8}, 3, CheckpointError, "the model has"),
        ({"leave_out": ("head/*",)}, FLAT, 3, ConfigError, "'head/\\*' matches no parameter"),
    ],
)
def test_what_does_not_fit(run, fields, model, classes, error, text):
    names = tuple("abcdefghi")[:classes]
    with pytest.raises(error, match=text):
        initial_weights(Init(str(run[0]), **fields), model, names, {}, 0)


def test_wrong_init():
    with pytest.raises(
        ConfigError, match=r"init\.inflate='mean': allowed are '', 'average', 'center'"
    ):
        Init("x", inflate="mean")
    with pytest.raises(ConfigError, match="convert the file first"):
        Init("x", source="hara", inflate="center")
    with pytest.raises(CheckpointError, match=r"no\.pt: no such file"):
        initial_weights(Init("no.pt", source="hara"), {"name": "resnet18_3d_a"}, CLASSES, {}, 0)


@pytest.mark.full
def test_streams_from_parts(tmp_path):
    """Two networks become the scopes of one; a part may be a run or a file."""
    paths, expected = {}, {}
    for scope, name, channels in (("rgb", "i3d_rgb", 3), ("flow", "i3d_flow", 2)):
        arguments = {"name": name, "width": 0.03, "num_classes": 3}
        clip = jax.ShapeDtypeStruct((1, 8, 32, 32, channels), jnp.float32)
        model = create_model(**arguments)
        shapes = jax.eval_shape(lambda c, m=model: m.init(jax.random.key(0), c, train=False), clip)
        rng = np.random.default_rng(len(scope))
        expected[scope] = jax.tree.map(lambda x, r=rng: r.random(x.shape, np.float32), shapes)
        paths[scope] = str(tmp_path / f"{scope}.safetensors")
        weights = Weights(expected[scope], arguments, PRE, ("a", "b", "c"), {"source": "test"})
        save_weights(paths[scope], weights)
    both = {"name": "i3d_two_stream", "width": 0.03}
    clips = Preprocessing(
        frames=8, size=32, crop=32, modality="rgb_flow", mean=(0.0,) * 5, std=(1.0,) * 5
    )
    clips = dataclasses.asdict(clips)
    variables, model, *_ = initial_weights(Init(parts=paths), both, CLASSES, clips, 0)
    assert model == both
    for scope, own in expected.items():
        for kind in ("params", "batch_stats"):
            jax.tree.map(np.testing.assert_array_equal, variables[kind][scope], own[kind])
    with pytest.raises(CheckpointError, match="missing   batch_stats/flow/"):
        initial_weights(Init(parts={"rgb": paths["rgb"]}), both, CLASSES, clips, 0)


def test_wrong_parts():
    with pytest.raises(ConfigError, match="mutually exclusive"):
        Init(path="a", parts={"rgb": "b"})
    with pytest.raises(ConfigError, match="every part needs a path"):
        Init(parts={"rgb": "b", "flow": ""})
    assert Init(parts={"rgb": "", "flow": ""}).paths == []


@pytest.fixture(scope="module")
def named(run, tmp_path_factory):
    """A file and a run directory with the classes a, b and c."""
    _, variables = run
    model = {**FLAT, "num_classes": 3}
    path = tmp_path_factory.mktemp("named") / "w.safetensors"
    save_weights(path, Weights(variables, model, PRE, CLASSES, {"source": "test"}))
    folder = tmp_path_factory.mktemp("named_run")
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optax.sgd(0.1).init(variables["params"]),
        plateau=None,
    )
    described = {"model": model, "preprocessing": dataclasses.asdict(PRE), "classes": CLASSES}
    with checkpoint.open_checkpoints(folder, keep=1) as checkpoints:
        checkpoint.save(checkpoints, state, 1, described)
    return {"file": str(path), "run": str(folder)}


@pytest.mark.parametrize("kind", ["file", "run"])
def test_the_classifier_is_aligned_by_name(named, run, kind):
    head = run[1]["params"]["fc"]
    found = initial_weights(Init(named[kind]), FLAT, ("c", "a", "b"), {}, 0)
    ours = found.variables["params"]["fc"]
    np.testing.assert_array_equal(ours["kernel"], head["kernel"][:, [2, 0, 1]])
    np.testing.assert_array_equal(ours["bias"], head["bias"][jnp.array([2, 0, 1])])
    assert found.fresh == []
    assert "order of the data's classes" in found.notes[0]
    same = initial_weights(Init(named[kind]), FLAT, CLASSES, {}, 0)
    np.testing.assert_array_equal(same.variables["params"]["fc"]["kernel"], head["kernel"])
    assert same.notes == []


@pytest.mark.parametrize("kind", ["file", "run"])
def test_new_classes_start_from_random_values(named, run, kind):
    head = run[1]["params"]["fc"]
    found = initial_weights(Init(named[kind]), FLAT, ("x", "b", "y", "z"), {}, 0)
    kernel = np.asarray(found.variables["params"]["fc"]["kernel"])
    assert kernel.shape == (32, 4)
    np.testing.assert_array_equal(kernel[:, 1], head["kernel"][:, 1])
    assert found.fresh == ["x", "y", "z"]
    assert "3 of 4 classes are not in the initial weights" in found.notes[0]
    for column in (0, 2, 3):
        assert np.abs(kernel[:, column]).max() > 0
        assert all(
            np.abs(kernel[:, column] - old).max() > 0 for old in np.asarray(head["kernel"]).T
        )
    other = initial_weights(Init(named[kind]), FLAT, ("x", "b", "y", "z"), {}, 1)
    assert np.abs(kernel - other.variables["params"]["fc"]["kernel"]).max() > 0


def test_a_classifier_that_is_left_out(named):
    found = initial_weights(Init(named["file"], leave_out=("fc/*",)), FLAT, ("c", "a"), {}, 0)
    assert found.variables["params"]["fc"]["kernel"].shape == (32, 2)
    assert found.notes == []
    assert found.fresh == []


def test_classes_without_names(run, tmp_path):
    """The number must agree; the order is kept, with a warning."""
    names = tuple(f"class {i}" for i in range(3))
    path = tmp_path / "w.safetensors"
    save_weights(path, Weights(run[1], {**FLAT, "num_classes": 3}, PRE, names, {"source": "test"}))
    found = initial_weights(Init(str(path)), FLAT, CLASSES, {}, 0)
    np.testing.assert_array_equal(
        found.variables["params"]["fc"]["kernel"], run[1]["params"]["fc"]["kernel"]
    )
    assert "do not name their classes" in found.notes[0]
    with pytest.raises(CheckpointError, match=r"leave_out=\("):
        initial_weights(Init(str(path)), FLAT, ("a", "b"), {}, 0)


def test_steps_of_files(named):
    with pytest.raises(ConfigError, match="is not a run directory"):
        initial_weights(Init(named["file"], step="best"), FLAT, CLASSES, {}, 0)
    with pytest.raises(CheckpointError, match="no checkpoint step=7"):
        initial_weights(Init(named["run"], step="7"), FLAT, CLASSES, {}, 0)
