"""Files of named arrays, told apart by their content; reading one never executes code from it.

safetensors    names and arrays; ours have a description (`write` puts it there)
torch          `.pt`, `.pth`, `.pth.tar`, either of torch's formats; extra [torch]
npz            NumPy's, without pickled objects
pickle         dicts, lists, numbers and NumPy arrays (Caffe2's, for instance); any other
               class in it is an error
tar.gz         an archive with one pickle, such as a Python package; nothing is unpacked
TensorFlow     a checkpoint by its prefix, or any of its files (`weights.tensor_bundle`)
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxvideo.progress import replacing
from jaxvideo.types import CheckpointError
from jaxvideo.weights import formats, tensor_bundle

#: Key of our description in the header of a safetensors file.
_OURS = "jaxvideo"

# A file may hold a whole training state; the weights are under the first of these that it has.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "blobs", "model")

# The number with which torch's old format begins, as a pickle of its own.
_TORCH_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)

# How deep a file's dicts may lie in each other.
_DEPTH = 12

# What files with pickled arrays are called in archives.
_PICKLES = (".ckpt", ".pkl", ".pickle")


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The named arrays of a file, in its order; nested dicts joined by slashes.

    A prefix `module.` that all names have (torch's DataParallel) is taken off.

    Raises:
      CheckpointError: no such file, none of the formats, damaged, or with code in it.
    """
    path = Path(path)
    if not (path.is_file() or tensor_bundle.prefix_of(path)):
        raise CheckpointError(f"{path}: no such file")
    arrays: dict[str, np.ndarray] = {}
    try:
        content = _reader_of(path)(path)
        for _ in range(_DEPTH):
            wrapped = isinstance(content, Mapping) and (
                next((k for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
            )
            if not wrapped:
                break
            content = content[wrapped]
        _collect(content, "", arrays, _DEPTH)
    except CheckpointError:
        raise
    except Exception as error:  # A damaged file raises whatever its bytes happen to say.
        raise CheckpointError(f"{path} cannot be read ({_first_line(error)})") from error
    if not arrays:
        raise CheckpointError(f"{path} holds no named arrays")
    if all(name.startswith("module.") for name in arrays):
        arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    return arrays


def read_description(path: str | Path) -> dict[str, Any] | None:
    """Returns the description that `write` stored beside the arrays, in the current format.

    None if the file was not written by jaxvideo.

    Raises:
      CheckpointError: the description is damaged, or has a newer format (`weights.formats`).
    """
    path, description = Path(path), None
    try:
        if path.is_file() and _reader_of(path) is _read_safetensors:
            with safe_open(path, "np") as file:
                text = (file.metadata() or {}).get(_OURS)
            description = None if text is None else dict(json.loads(text))
    except CheckpointError:  # not one of the known file types
        return None
    except Exception as error:
        raise CheckpointError(f"{path} is damaged ({_first_line(error)})") from error
    return None if description is None else formats.upgrade(description, path)


def write(
    path: str | Path, arrays: Mapping[str, np.ndarray], description: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes arrays and their description as a safetensors file, atomically.

    Returns:
      The description as stored: with its format number.

    Raises:
      CheckpointError: the file cannot be written.
    """
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    stored = {**description, "format": formats.FORMAT}
    try:
        with replacing(path) as temporary:
            save_file(plain, temporary, {_OURS: json.dumps(stored)})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written ({error})") from error
    return stored


def sha256(path: str | Path) -> str:
    """Digest of a file's bytes, in hexadecimal; of a TensorFlow checkpoint's files in a row."""
    prefix, digest = tensor_bundle.prefix_of(path), hashlib.sha256()
    for part in tensor_bundle.files_of(prefix) if prefix else [path]:
        with open(part, "rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def _reader_of(path: Path):
    if tensor_bundle.prefix_of(path):
        return _read_tensor_bundle
    with path.open("rb") as file:
        start = file.read(64)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return _read_safetensors
    if start[:2] == b"PK":
        with zipfile.ZipFile(path) as archive:
            numpy = any(name.endswith(".npy") for name in archive.namelist())
        return _read_npz if numpy else _read_torch
    if start.startswith(_TORCH_MAGIC):
        return _read_torch
    if start[:2] == b"\x1f\x8b":
        return _read_archive
    if start[:1] == b"\x80" or path.suffix in _PICKLES[1:]:
        return _read_pickle
    raise CheckpointError(
        f"{path} is no weight file: known are safetensors, torch's, npz, pickles of arrays, also "
        "in a tar.gz, and TensorFlow's checkpoints with their index"
    )


def _read_safetensors(path: Path):
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _read_npz(path: Path):
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _read_torch(path: Path):
    try:
        import torch
    except ImportError:
        raise CheckpointError(
            f"{path} is in torch's format: pip install 'jaxvideo[torch]' to read it"
        ) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than weights, and is not opened: {_first_line(error)}"
        ) from error


def _read_tensor_bundle(path: Path):
    prefix = tensor_bundle.prefix_of(path)
    return tensor_bundle.read(prefix) if prefix else {}


def _read_pickle(path: Path):
    with path.open("rb") as file:
        return _unpickle(file, path)


def _read_archive(path: Path):
    with tarfile.open(path) as archive:
        pickles = [m for m in archive if m.isfile() and m.name.endswith(_PICKLES)]
        if len(pickles) != 1:
            raise CheckpointError(
                f"{path} holds {len(pickles)} files called *{', *'.join(_PICKLES)}, not one"
            )
        return _unpickle(archive.extractfile(pickles[0]), path)


def _unpickle(file, path: Path):
    try:
        # Python 2 wrote Caffe2's; its strings are bytes of Latin-1, arrays' contents too.
        return _Unpickler(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than arrays, and is not opened: {error}"
        ) from error


# --- Pickles of arrays --------------------------------------------------------------------

# NumPy's own constructors are not for strangers: a pickle can have them make arrays of pointers
# out of bytes, and can change the functions themselves. These take what arrays of numbers need.

_NUMBERS = re.compile(r"[<>|=]?[biuf]\d+")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((module.replace("numpy.core", "numpy._core"), name))
        if known is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which arrays do not need")
        return known


class _Function:
    """A function that a pickle may call and can neither look into nor change."""

    __slots__ = ("_function",)

    def __init__(self, function):
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments):
        return self._function(*arguments)

    def __setattr__(self, name, value):
        raise pickle.UnpicklingError(f"it sets {name} of a function")


class _Dtype:
    """A type of numbers, whatever else the pickle says of it."""

    __slots__ = ("dtype",)

    def __init__(self, code: str):
        if not (isinstance(code, str) and _NUMBERS.fullmatch(code)):
            raise pickle.UnpicklingError(f"it has an array of type {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        order, *rest = state[1:5]
        if any(rest) or order not in "<>|=":
            raise pickle.UnpicklingError("it has an array of records")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array in the making."""

    __slots__ = ("array",)

    def __init__(self):
        self.array = np.zeros(0, np.float32)

    def __setstate__(self, state):
        _, shape, kind, fortran, content = state
        self.array = _from_bytes(content, kind, shape, "F" if fortran else "C").array


def _from_bytes(content, kind, shape, order="C") -> _Array:
    made = _Array()
    content = content.encode("latin1") if isinstance(content, str) else bytes(content)
    flat = np.frombuffer(content, kind.dtype)
    made.array = flat.reshape(tuple(map(int, shape)), order="F" if order == "F" else "C")
    return made


def _latin1(text, encoding) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding!r}")
    return text.encode("latin1")


_KNOWN = {
    ("numpy", "dtype"): _Function(lambda code, align=False, copy=True: _Dtype(code)),
    ("numpy", "ndarray"): _Function(lambda: None),  # an argument of _reconstruct, never called
    ("numpy._core.multiarray", "_reconstruct"): _Function(lambda kind, shape, code: _Array()),
    ("numpy._core.multiarray", "scalar"): _Function(lambda kind, c: _from_bytes(c, kind, ())),
    ("numpy._core.numeric", "_frombuffer"): _Function(_from_bytes),
    ("collections", "OrderedDict"): _Function(lambda *items: dict(*items)),
    ("_codecs", "encode"): _Function(_latin1),
    ("__builtin__", "bytes"): _Function(lambda: b""),  # how an array without numbers ends
}


def _collect(value: Any, name: str, into: dict[str, np.ndarray], depth: int) -> None:
    if isinstance(value, _Array):
        value = value.array
    if isinstance(value, Mapping):
        if not depth:
            raise CheckpointError(f"dicts lie in each other more than {_DEPTH} deep at {name}")
        for key, inner in value.items():
            _collect(inner, f"{name}/{key}" if name else str(key), into, depth - 1)
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        into[name] = value
    elif hasattr(value, "detach"):  # a tensor; NumPy knows no bfloat16
        tensor = value.detach().cpu()
        into[name] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
