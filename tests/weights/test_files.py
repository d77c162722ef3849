import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from jaxvideo.types import CheckpointError
from jaxvideo.weights import files

ARRAYS = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32([1.5])}


def same(found):
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


def test_safetensors_with_a_description(tmp_path):
    path = tmp_path / "w.safetensors"
    files.write(path, ARRAYS, {"model": {"name": "x"}})
    same(files.read_arrays(path))
    assert files.read_description(path) == {"model": {"name": "x"}}
    assert list(tmp_path.iterdir()) == [path]


def test_npz_and_pickles(tmp_path):
    np.savez(tmp_path / "w.npz", **ARRAYS)
    same(files.read_arrays(tmp_path / "w.npz"))
    assert files.read_description(tmp_path / "w.npz") is None
    for protocol in (2, 4, 5):
        content = {"blobs": OrderedDict(ARRAYS), "epoch": 3, "lr": np.float64(0.1)}
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol))
        same(files.read_arrays(tmp_path / "w.pkl"))
    nested = {"a": {"kernel": ARRAYS["a/kernel"]}, "b": ARRAYS["b"]}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(nested))
    same(files.read_arrays(tmp_path / "w.pkl"))


def test_pickle_of_python_2(tmp_path):
    """Contents of arrays are strings, and NumPy's modules have their old names."""
    old = pickle.dumps({"b": ARRAYS["b"]}, 2).replace(b"numpy._core", b"numpy.core")
    (tmp_path / "w.pkl").write_bytes(old)
    np.testing.assert_array_equal(files.read_arrays(tmp_path / "w.pkl")["b"], ARRAYS["b"])


class Hostile:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("wrapper", [lambda x: {"a": x}, lambda x: x])
def test_a_hostile_pickle_is_not_run(tmp_path, wrapper):
    mark, path = tmp_path / "ran", tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(wrapper(Hostile(mark))))
    with pytest.raises(CheckpointError, match=r"w\.pkl contains more than weights and"):
        files.read_arrays(path)
    assert not mark.exists()


def crafted(*parts):
    """A pickle composed by hand, which no `dumps` writes."""
    return b"\x80\x02" + b"".join(parts) + b"."


@pytest.mark.parametrize(
    "content",
    [
        # ndarray((1,), "O", <bytes as pointers>)
        crafted(b"cnumpy\nndarray\n(K\x01\x85X\x01\0\0\0OC\x08AAAAAAAAtR"),
        # a record of objects
        crafted(b"cnumpy\ndtype\n](X\x01\0\0\0aX\x01\0\0\0O\x86e\x85R"),
        crafted(b"cnumpy\ndtype\nX\x01\0\0\0O\x85R"),
        # BUILD with attributes for a function, which would change it in the whole process
        crafted(b"cnumpy._core.numeric\n_frombuffer\nN}X\x0c\0\0\0__defaults__)s\x86b0}"),
        crafted(b"c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0hex\x86R"),
    ],
)
def test_constructors_are_not_lent_to_pickles(tmp_path, content):
    path = tmp_path / "w.pkl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w\.pkl"):
        files.read_arrays(path)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ARRAYS["b"], 5)), ARRAYS["b"])


@pytest.mark.parametrize("key", ["state_dict", "a"])
def test_a_dict_in_itself_is_an_error(tmp_path, key):
    content = {}
    content[key] = content
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match="more than 12 deep"):
        files.read_arrays(tmp_path / "w.pkl")


def test_types_and_orders_of_arrays(tmp_path):
    arrays = {
        "float64": np.arange(3.0),
        "big": np.arange(3, dtype=">i4"),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.zeros((0, 3), np.float32),
        "bool": np.array([True, False]),
    }
    others = {
        "text": np.array(["a"]),
        "record": np.zeros(1, [("a", "i4")]),
        "complex": np.ones(1, complex),
    }
    for protocol in (2, 4, 5):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(arrays, protocol))
        found = files.read_arrays(tmp_path / "w.pkl")
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
    np.savez(tmp_path / "w.npz", **arrays, **others)
    assert list(files.read_arrays(tmp_path / "w.npz")) == list(arrays)


def test_a_hostile_npz_is_not_run(tmp_path):
    mark, path = tmp_path / "ran", tmp_path / "w.npz"
    np.savez(path, a=np.array([Hostile(mark)], object))
    with pytest.raises(CheckpointError, match=r"w\.npz cannot be read"):
        files.read_arrays(path)
    assert not mark.exists()


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path, zipped):
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    path, mark = tmp_path / "w.pth", tmp_path / "ran"
    tensors = {f"module.{k}": torch.from_numpy(v) for k, v in ARRAYS.items()}
    save = {"_use_new_zipfile_serialization": zipped}
    torch.save({"epoch": 3, "arch": "x", "state_dict": tensors}, path, **save)
    same(files.read_arrays(path))
    torch.save({"b": torch.tensor([1.5], dtype=torch.bfloat16)}, path, **save)
    assert files.read_arrays(path)["b"].dtype == np.float32
    torch.save({"a": Hostile(mark)}, path, **save)
    with pytest.raises(CheckpointError, match=r"w\.pth contains more than weights"):
        files.read_arrays(path)
    assert not mark.exists()


def broken(tmp_path, kind):
    path = tmp_path / f"w.{kind}"
    if kind == "safetensors":
        files.write(path, ARRAYS, {})
        path.write_bytes(path.read_bytes()[:-4])
    elif kind == "npz":
        np.savez(path, **ARRAYS)
        path.write_bytes(path.read_bytes()[:-40])
    elif kind == "pkl":
        path.write_bytes(pickle.dumps(ARRAYS)[:-20])
    elif kind == "txt":
        path.write_text("these are no weights")
    elif kind == "json.pkl":
        path.write_bytes(pickle.dumps({"epoch": 3}))
    elif kind == "header":
        header = json.dumps({"__metadata__": {"jaxvideo": "{"}}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(CheckpointError, match="is damaged"):
            files.read_description(path)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", b"nothing")
    return path


@pytest.mark.parametrize(
    "kind", ["safetensors", "npz", "pkl", "txt", "json.pkl", "header", "zip", "nothing"]
)
def test_damaged_files_are_one_clear_error(tmp_path, kind):
    path = broken(tmp_path, kind)
    with pytest.raises(CheckpointError, match=path.name):
        files.read_arrays(path)


def test_writing_fails_clearly_and_leaves_nothing(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written"):
        files.write(tmp_path / "no" / "w.safetensors", ARRAYS, {})
