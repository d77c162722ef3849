"""Reading weights without torch: our own files, errors, heads; and `convert`."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from jaxvideo import create_model, load_weights
from jaxvideo.cli import main
from jaxvideo.models import MODELS
from jaxvideo.models.summary import trace_of_clip
from jaxvideo.network import load
from jaxvideo.pretrained import (
    find_source,
    open_weights,
    read_weights,
    reading,
    save_weights,
    sources_of,
)
from jaxvideo.pretrained.fitting import traced
from jaxvideo.types import CheckpointError, ConfigError
from jaxvideo.weights import files, from_torch, tree

NAME, SMALL = "resnet10_3d_b", {"width": 1 / 16}


@functools.cache
def shapes_of(name, clip, **arguments):
    """Maps flat names of a network's variables to their shapes."""
    return tree.flatten(trace_of_clip(create_model(name, **arguments), clip).variables)


def hara_file(path, classes=400, **changes):
    """Writes a file with the names of the source "hara", by inverting the rules of the import."""
    shapes = shapes_of(NAME, (16, 32, 32, 3), num_classes=classes, **SMALL)
    rng = np.random.default_rng(0)
    scopes = {ours.split("/", 1)[1].rsplit("/", 1)[0] for ours in shapes}
    arrays = {}
    for ours, leaf in shapes.items():
        scope, kind = ours.split("/", 1)[1].rsplit("/", 1)
        value = rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        axes = {5: (4, 3, 0, 1, 2), 2: (1, 0), 1: (0,)}[value.ndim]
        name = from_torch.TORCH_LEAVES[kind].format(from_torch.hara(scope, scopes))
        arrays[name] = value.transpose(axes)
    arrays["bn1.num_batches_tracked"] = np.asarray(3)
    arrays.update(changes)
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return arrays


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "resnet.npz"
    hara_file(path)
    return path


def test_import_and_our_own_file(file, tmp_path):
    weights = read_weights(NAME, file, "hara", **SMALL)
    assert weights.model == {"name": NAME, "width": 1 / 16, "num_classes": 400}
    assert weights.classes[:2] == ("abseiling", "air drumming")
    assert weights.preprocessing.mean == (114.7748, 107.7354, 99.475)
    assert weights.origin["source"] == "hara"
    assert weights.origin["sha256"] == files.sha256(file)
    out = tmp_path / "w.safetensors"
    manifest = save_weights(out, weights)
    assert json.loads(out.with_suffix(".json").read_text()) == manifest
    for again in (read_weights(NAME, out), open_weights(out)):
        jax.tree.map(np.testing.assert_array_equal, again.variables, weights.variables)
        assert dataclasses.replace(again, variables={}) == dataclasses.replace(
            weights, variables={}
        )
    # Another epsilon changes the variances, and the network computes the same.
    shifted = load_weights(NAME, out, bn_epsilon=1e-3, **SMALL)
    np.testing.assert_allclose(
        shifted["batch_stats"]["bn1"]["var"] + 1e-3,
        weights.variables["batch_stats"]["bn1"]["var"] + 1e-5,
        rtol=1e-6,
    )


def test_another_number_of_classes(file):
    with pytest.raises(CheckpointError) as caught:
        load_weights(NAME, file, "hara", num_classes=7, **SMALL)
    assert 'leave_out=("fc/*",) starts it with fresh values' in str(caught.value)
    weights = read_weights(NAME, file, "hara", num_classes=7, leave_out=("fc/*",), **SMALL)
    assert weights.variables["params"]["fc"]["kernel"].shape == (32, 7)
    assert np.asarray(weights.variables["params"]["fc"]["kernel"]).std() > 0
    assert weights.classes == tuple(f"class {i}" for i in range(7))
    whole = load_weights(NAME, file, "hara", **SMALL)
    del whole["params"]["fc"], weights.variables["params"]["fc"]
    jax.tree.map(np.testing.assert_array_equal, weights.variables, whole)
    other = load_weights(NAME, file, "hara", num_classes=7, leave_out=("fc/*",), seed=1, **SMALL)
    again = load_weights(NAME, file, "hara", num_classes=7, leave_out=("fc/*",), seed=1, **SMALL)
    jax.tree.map(np.testing.assert_array_equal, other, again)


def test_differences_are_listed(tmp_path):
    path = tmp_path / "resnet.npz"
    wrong = np.zeros((5, 5), np.float32)
    hara_file(path, **{"bn1.bias": None, "bn1.weight": wrong[0], "extra.weight": wrong})
    with pytest.raises(CheckpointError) as caught:
        load_weights(NAME, path, "hara", **SMALL)
    text = str(caught.value)
    assert "missing   params/bn1/bias [bn1.bias] (4,)" in text
    assert "unknown   extra.weight (5, 5)" in text
    assert "shape     params/bn1/scale (5,), the model has (4,)" in text
    assert "leave_out" not in text
    hara_file(path, **{"extra.weight": wrong})
    load_weights(NAME, path, "hara", leave_out=("extra.*",), **SMALL)
    # Names of the file work too; only a new head loses the class names.
    one, other = (
        read_weights(NAME, path, "hara", leave_out=("extra.*", pattern), **SMALL)
        for pattern in ("fc.*", "fc/*")
    )
    jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)
    assert one.classes[0] == "class 0"
    stem = read_weights(NAME, path, "hara", leave_out=("extra.*", "conv1/*"), **SMALL)
    assert stem.classes[0] == "abseiling"


def test_clips_of_another_shape(tmp_path):
    """R2D's stem has one tap per frame, and our file stores the number of frames."""
    path, out = tmp_path / "r2d.npz", tmp_path / "w.safetensors"
    shapes = shapes_of("r2d_10", (8, 128, 128, 3), num_classes=3, width=1 / 16)
    scopes = {ours.split("/", 1)[1].rsplit("/", 1)[0] for ours in shapes}
    arrays = {}
    for ours, leaf in shapes.items():
        scope, kind = ours.split("/", 1)[1].rsplit("/", 1)
        value = np.ones(leaf.shape, np.float32)
        name = from_torch.vmz_caffe2(scope, scopes).replace("*", "3")
        axes = {5: (4, 3, 0, 1, 2), 2: (1, 0), 1: (0,)}[value.ndim]
        arrays[from_torch.CAFFE2_LEAVES[kind].format(name)] = value.transpose(axes)
    np.savez(path, **arrays)
    weights = read_weights("r2d_10", path, "vmz-caffe2", frames=8, crop=160, width=1 / 16)
    assert (weights.preprocessing.frames, weights.preprocessing.crop) == (8, 160)
    save_weights(out, weights)
    again = open_weights(out)
    jax.tree.map(np.testing.assert_array_equal, again.variables, weights.variables)
    assert again.preprocessing == weights.preprocessing


@pytest.mark.parametrize(
    "change",
    [
        {"model": None},
        {"model": {"name": NAME, "path": "x", "num_classes": 400}},
        {"preprocessing": {"frames": 16, "size": 112, "flip": True}},
        {"bn_epsilon": "x"},
        {"classes": 3},
    ],
)
def test_a_damaged_description_is_an_error(file, tmp_path, change):
    out = tmp_path / "w.safetensors"
    manifest = save_weights(out, read_weights(NAME, file, "hara", **SMALL))
    files.write(out, files.read_arrays(out), {**manifest, **change})
    with pytest.raises(CheckpointError, match="its description is damaged"):
        open_weights(out)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda f: load_weights(NAME), ConfigError, "weights of 'resnet10_3d_b': a path is needed"),
        (lambda f: load_weights(NAME, f), ConfigError, "source='hara' or source='hara-master'"),
        (lambda f: load_weights(NAME, f, "haar"), ConfigError, "Did you mean 'hara'"),
        (lambda f: load_weights(NAME, f, "vmz"), ConfigError, "source='vmz' has no weights for"),
        (lambda f: load_weights("resnet10", f, "hara"), ConfigError, "no model 'resnet10'"),
        (lambda f: load_weights(NAME, f, "hara", widht=4), ConfigError, "Did you mean 'width'"),
        (lambda f: load_weights(NAME, f, "hara", leave_out=("f/*",)), ConfigError, "'f/\\*'"),
        (lambda f: load_weights(NAME, "no.pth", "hara"), CheckpointError, "no.pth: no such file"),
        (lambda f: load_weights(NAME, f, "hara", width=1 / 8), CheckpointError, "does not fit"),
        (lambda f: open_weights(f), CheckpointError, "was not written by jaxvideo"),
        (
            lambda f: save_weights("w.pt", read_weights(NAME, f, "hara", **SMALL)),
            ConfigError,
            "w.pt: the name of a weight file must end with .safetensors",
        ),
    ],
)
def test_wrong_calls(file, call, error, text):
    with pytest.raises(error, match=text):
        call(file)


def test_another_models_file(file, tmp_path):
    out = tmp_path / "w.safetensors"
    save_weights(out, read_weights(NAME, file, "hara", **SMALL))
    with pytest.raises(CheckpointError, match="holds weights of 'resnet10_3d_b', not of 'r3d_18'"):
        load_weights("r3d_18", out)


def test_sources_fit_the_registry():
    for name in MODELS:
        for source in sources_of(name):
            found = find_source(source, name)
            create_model(name, **found.arguments)
            dataclasses.replace(MODELS[name].preprocessing, **found.preprocessing)


def test_convert_and_predict(tmp_path, video, capsys):
    path, out = tmp_path / "c3d.npz", tmp_path / "w.safetensors"
    shapes = shapes_of("c3d_sports1m", (16, 112, 112, 3), num_classes=3, width=1 / 64)
    rng = np.random.default_rng(0)
    arrays = {}
    for ours, leaf in shapes.items():
        scope, kind = ours.split("/", 1)[1].rsplit("/", 1)
        value = rng.standard_normal(leaf.shape, np.float32)
        name = from_torch.TORCH_LEAVES[kind].format(from_torch.c3d_caffe(scope, ()))
        arrays[name] = value.transpose({5: (4, 3, 0, 1, 2), 2: (1, 0), 1: (0,)}[value.ndim])
    np.savez(path, **arrays)
    weights = read_weights("c3d_sports1m", path, "c3d-caffe", width=1 / 64)
    save_weights(out, weights)
    assert (
        main(["predict", str(video), "--checkpoint", str(out), "--clips", "2", "--top", "2"]) == 0
    )
    said = capsys.readouterr().out
    assert "2 clips x center crop per video (16 frames, stride 1, scaled to 128 x 171" in said
    assert said.count("% ") >= 2
    full = ["convert", str(path), "--from", "c3d-caffe", "--model", "c3d_sports1m"]
    assert main([*full, "--out", str(out)]) == 1
    assert "does not fit the model" in capsys.readouterr().err


def test_hara_master_has_other_wide_networks():
    """Their stem has 128 channels in the master branch, and 64 here and in the old branch."""
    assert sources_of("wide_resnet50_3d") == sources_of("resnext50_3d") == ["hara"]
    assert "hara-master" in sources_of("preact_resnet50_3d")


def test_convert_for_another_clip(tmp_path, capsys):
    """The first kernel of R2D has three channels per frame."""
    path, out = tmp_path / "r2d.npz", tmp_path / "w.safetensors"
    shapes = shapes_of("r2d_10", (8, 112, 112, 3), num_classes=3)
    scopes = {name.split("/", 1)[1].rsplit("/", 1)[0] for name in shapes}
    arrays = {}
    for ours, leaf in shapes.items():
        scope, kind = ours.split("/", 1)[1].rsplit("/", 1)
        name = from_torch.CAFFE2_LEAVES[kind].format(from_torch.vmz_caffe2(scope, scopes))
        order = {5: (4, 3, 0, 1, 2), 2: (1, 0), 1: (0,)}[len(leaf.shape)]
        arrays[name] = np.zeros([leaf.shape[axis] for axis in order], np.float32)
    np.savez(path, **arrays)
    command = ["convert", str(path), "--from=vmz-caffe2", "--model=r2d_10", f"--out={out}"]
    assert main(command) == 1
    assert "does not fit the model" in capsys.readouterr().err
    assert main([*command, "--frames=8"]) == 0
    assert load(out).preprocessing.frames == 8


def test_average_of_splits(tmp_path, capsys):
    runs = []
    for split, (top1, protocol) in enumerate([(0.9, "x"), (0.8, "x"), (0.7, "y")]):
        run = tmp_path / f"split{split}"
        run.mkdir()
        result = {"top1": top1, "top5": 1.0, "protocol": protocol, "model": {"name": "x"}}
        (run / "result.json").write_text(json.dumps(result))
        runs.append(str(run))
    assert main(["average", *runs[:2]]) == 0
    assert "85.00 %  100.00 %  mean of 2 runs" in capsys.readouterr().out
    assert main(["average", *runs]) == 1
    assert "different protocols" in capsys.readouterr().err
    assert main(["average", str(tmp_path)]) == 1
    assert "is not the directory of a finished run" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["c3d", "i3d_two_stream", "r3d_10", "x3d_s"])
def test_only_the_classifier_depends_on_the_classes(name):
    """`read_weights` traces a network once, for one class."""
    one, seven = (create_model(name, num_classes=count) for count in (1, 7))
    clip = jax.ShapeDtypeStruct((1, *MODELS[name].preprocessing.shape), np.float32)
    found = reading._with_classes(traced(one, clip)[0], seven)
    assert found == traced(seven, clip)[0]
