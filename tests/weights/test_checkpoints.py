"""Checkpoints as trainers write them: wrappers, prefixes, objects of other classes, TorchScript."""

import argparse
import collections
import logging
import pathlib
import pickle
import sys
import types

import numpy as np
import pytest

from jaxvideo.pretrained import read_weights
from jaxvideo.types import CheckpointError
from jaxvideo.weights import files, pickles, unwrap
from tests.test_pretrained import NAME, SMALL, hara_file

ARRAYS = {"conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "fc.bias": np.float32([1.5])}
OTHER = {"conv.weight": np.zeros((2, 3), np.float32), "fc.bias": np.float32([9.0])}


def same(found):
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda a: {"net": a, "acc": 93.5, "epoch": 7},
        lambda a: {"params": a},
        lambda a: {"model_state": a, "optimizer_state": {"state": {0: OTHER}}},
        lambda a: {"model_state_dict": a, "loss": np.float32(0.5)},
        lambda a: {"state": {"model": a, "optimizer": OTHER}, "step": 3},
        lambda a: {"state_dict": a, "state_dict_ema": OTHER, "model": OTHER},
        lambda a: {"state_dict_ema": a, "optimizer": OTHER, "arch": "x"},
        lambda a: {"model": a, "ema": OTHER, "rng": np.arange(4)},
        lambda a: {"ema": a},
        lambda a: {"model": {"state_dict": {f"module.module.{k}": v for k, v in a.items()}}},
        lambda a: {f"_orig_mod.module.{k}": v for k, v in a.items()},
    ],
)
def test_wrappers(tmp_path, wrap):
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(wrap(ARRAYS)))
    same(files.read_arrays(path))


def test_scopes_are_no_wrappers(tmp_path):
    """Nested names of a network that has a module `net`, and Flax's collections."""
    path = tmp_path / "w.pkl"
    for nested in ({"net": ARRAYS, "head": OTHER}, {"params": ARRAYS, "batch_stats": OTHER}):
        path.write_bytes(pickle.dumps(nested))
        first, second = nested
        expected = [f"{first}/{n}" for n in ARRAYS] + [f"{second}/{n}" for n in ARRAYS]
        assert list(files.read_arrays(path)) == expected


@pytest.mark.parametrize(
    ("theirs", "wanted"),
    [
        (["model.conv.weight", "model.fc.bias"], ["conv.weight", "fc.bias"]),
        (["net._orig_mod.model.conv.weight", "crit.weight"], ["conv.weight", "crit.weight"]),
        (["backbone.conv.weight"], ["backbone.conv.weight", "cls_head.fc.weight"]),
        (["model.backbone.conv.weight"], ["backbone.conv.weight"]),
        (["conv.weight"], ["backbone.conv.weight", "cls_head.fc.weight"]),
        (["module.conv.weight"], ["backbone.conv.weight"]),
        (["model.last_out_L7_w", "model.conv_w"], ["last_out_L*_w", "conv_w"]),
        (["some.trunk.conv.weight", "some.trunk.fc.bias"], ["conv.weight", "fc.bias"]),
        (["CONV.weight"], ["conv.weight"]),
    ],
)
def test_prefixes_of_names(theirs, wanted):
    found = unwrap.fitted_names(theirs, wanted)
    assert list(found) == theirs
    if theirs[0].startswith("CONV"):
        assert found == {name: name for name in theirs}
    else:
        expected = [name.replace("*", "7") for name in wanted[: len(theirs)]]
        assert list(found.values()) == expected


class Config(dict):
    """A dict of another class, such as a node of yacs."""

    def __init__(self, **values):
        super().__init__(values)
        self.__dict__["frozen"] = True


Pair = collections.namedtuple("Pair", "a b")


def objects():
    """Objects that checkpoints contain beside the weights."""
    return {
        "args": argparse.Namespace(lr=0.1, names=["a"], out=pathlib.PurePosixPath("/tmp/x")),
        "cfg": Config(depth=50, node=Config(path=pathlib.PosixPath("/data"))),
        "meta": types.SimpleNamespace(env="x"),
        "pair": Pair(1, 2),
        "rate": np.float64(0.5),
        "names": np.array(["a", "b"]),
        "objects": np.array([{"a": 1}, None], object),
        "kinds": {1, 2, frozenset({3})},
        "counts": collections.Counter("abc"),
        "default": collections.defaultdict(list, a=[1]),
        "dtype": np.dtype("float32"),
        "type": Config,
        "deque": collections.deque([1, 2], maxlen=3),
    }


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_other_objects_are_stand_ins(tmp_path, monkeypatch, protocol):
    """No class is imported: the module of `Config` cannot even be found when the file is read."""
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({**objects(), "state_dict": ARRAYS}, protocol))
    monkeypatch.setitem(sys.modules, __name__, None)
    same(files.read_arrays(path))


@pytest.mark.parametrize(
    "call",
    ["os.system", "builtins.eval", "builtins.getattr", "subprocess.run", "importlib.import_module"],
)
def test_functions_that_data_does_not_need_are_refused(tmp_path, call):
    module, name = call.split(".")
    path = tmp_path / "w.pkl"
    path.write_bytes(
        b"\x80\x02}X\x01\0\0\0a" + f"c{module}\n{name}\n(X".encode() + b"\x01\0\0\0xtRs."
    )
    with pytest.raises(CheckpointError, match=rf"w\.pkl contains more than .*it calls {call}"):
        files.read_arrays(path)


def test_stand_ins_cannot_be_changed(tmp_path):
    """BUILD with attributes for a class of the file."""
    path = tmp_path / "w.pkl"
    path.write_bytes(b"\x80\x02clibrary\nClass\n}X\x06\0\0\0originX\x01\0\0\0asb.")
    with pytest.raises(CheckpointError, match=r"w\.pkl cannot be read"):
        files.read_arrays(path)
    assert pickles.StandIn.origin == ""


# --- A network ----------------------------------------------------------------------------


def checkpoint(tmp_path, change):
    """Writes a checkpoint of the small network; returns its path."""
    arrays = {n: np.asarray(a) for n, a in hara_file(tmp_path / "w.npz").items()}
    path = tmp_path / "checkpoint.pkl"
    path.write_bytes(pickle.dumps(change(arrays)))
    return path


@pytest.mark.parametrize("prefix", ["model.", "net._orig_mod.model.", "module.backbone."])
def test_a_network_with_prefixed_names(tmp_path, caplog, prefix):
    plain = read_weights(NAME, checkpoint(tmp_path, dict), "hara", **SMALL)
    path = checkpoint(tmp_path, lambda a: {"state_dict": {prefix + n: x for n, x in a.items()}})
    with caplog.at_level(logging.INFO, "jaxvideo"):
        found = read_weights(NAME, path, "hara", **SMALL)
    left = prefix.removeprefix("module.")  # removed when the file is read
    assert f"names are read as {left}bn1.running_mean -> bn1.running_mean" in caplog.text
    kernel = found.variables["params"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, plain.variables["params"]["conv1"]["kernel"])
    assert found.classes == plain.classes
    fresh = read_weights(NAME, path, "hara", leave_out=(f"{left}fc.*",), num_classes=3, **SMALL)
    assert fresh.classes == ("class 0", "class 1", "class 2")


def test_a_backbone_alone(tmp_path, caplog):
    path = checkpoint(tmp_path, lambda a: {n: x for n, x in a.items() if not n.startswith("fc.")})
    found = read_weights(NAME, path, "hara", num_classes=3, **SMALL)
    assert f"{path} has no classifier: fc of {NAME} keeps fresh values" in caplog.text
    assert found.origin["left_out"] == ["fc/*"]
    assert found.classes == ("class 0", "class 1", "class 2")
    assert found.variables["params"]["fc"]["kernel"].std() > 0


def test_names_of_both_sides_are_listed(tmp_path):
    path = checkpoint(tmp_path, lambda a: {n.upper(): x for n, x in a.items() if x.ndim})
    with pytest.raises(CheckpointError) as caught:
        read_weights(NAME, path, "hara", **SMALL)
    text = str(caught.value)
    assert len(text.splitlines()) == 4
    assert "0 of 62 parameters" in text
    assert "the file has     62 names: BN1.BIAS, " in text
    assert "hara has         62 names: bn1.bias, " in text


def test_few_differences_are_listed_by_kind(tmp_path):
    path = checkpoint(
        tmp_path,
        lambda a: {n: x for n, x in a.items() if n != "bn1.weight"} | {"aux.weight": a["fc.bias"]},
    )
    with pytest.raises(CheckpointError) as caught:
        read_weights(NAME, path, "hara", **SMALL)
    text = str(caught.value)
    assert "missing   params/bn1/scale [bn1.weight] (4,)" in text
    assert "unknown   aux.weight (400,)" in text


# --- Files of torch -----------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_are_read_without_torch(tmp_path, monkeypatch, zipped):
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "double": torch.arange(3, dtype=torch.float64),
        "half": torch.tensor([0.5, -2.0], dtype=torch.float16),
        "bfloat16": torch.tensor([1.5, -3.0], dtype=torch.bfloat16),
        "long": torch.arange(3),
        "bool": torch.tensor([True, False]),
        "byte": torch.arange(3, dtype=torch.uint8),
        "transposed": base.T,
        "part": base[1:3, ::2],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base),
    }
    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    path = tmp_path / "w.pth"
    content = {**objects(), "optimizer": optimizer.state_dict(), "device": torch.device("cpu")}
    content |= {"state_dict": tensors, "size": base.shape, "dtype": torch.float32}
    if zipped:
        content["unused"] = torch.ones(2, dtype=torch.complex64)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    expected = {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, __name__, None)
    found = files.read_arrays(path)
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(np.float32(found[name]), array)
        assert found[name].shape == array.shape
    assert found["double"].dtype == np.float64
    assert found["bool"].dtype == bool


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", ["", "model"])
def test_a_pickled_network_is_explained(tmp_path, zipped, key):
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    network = torch.nn.Sequential(torch.nn.Conv3d(3, 4, 3), torch.nn.BatchNorm3d(4))
    path = tmp_path / "model.pt"
    content = {key: network, "epoch": 3} if key else network
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as caught:
        files.read_arrays(path)
    text = str(caught.value)
    assert f"{path} contains a pickled network of class torch.nn.modules.container.Seq" in text
    entry = f"['{key}']" if key else ""
    remedy = f"torch.save(torch.load('model.pt', weights_only=False){entry}.state_dict(), "
    assert remedy in text
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    network = torch.nn.Sequential(torch.nn.Conv3d(3, 4, 3, bias=False), torch.nn.BatchNorm3d(4))
    network.eval()
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    path, frozen = tmp_path / "script.pt", tmp_path / "frozen.pt"
    script = torch.jit.script(network)
    torch.jit.save(script, path)
    torch.jit.save(torch.jit.freeze(script), frozen)
    monkeypatch.setitem(sys.modules, "torch", None)
    found = files.read_arrays(path)
    assert found.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(found[name], array)
    with pytest.raises(CheckpointError, match=r"frozen\.pt is a TorchScript module without named"):
        files.read_arrays(frozen)


@pytest.mark.torch
def test_a_damaged_torch_file(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    path = tmp_path / "w.pth"
    for zipped in (True, False):
        tensors = {"a": torch.ones(64), "b": torch.ones(64)}
        torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match=r"w\.pth"):
            files.read_arrays(path)
