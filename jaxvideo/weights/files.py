"""Files of named arrays. The format is recognized by content; no code in a file is executed.

safetensors    names and arrays; our own files also have a description, see `write`
torch          `.pt`, `.pth`, `.pth.tar`, both formats of torch; extra [torch]
npz            NumPy, without pickled objects
pickle         dicts, lists, numbers and NumPy arrays (Caffe2, for instance); any other class is an
               error
tar.gz         an archive with one pickle, such as a Python package; it is not unpacked
TensorFlow     a checkpoint, by its prefix or any of its files (`weights.tensor_bundle`)
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

# A file may contain a whole training state. The weights are under the first of these keys.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "blobs", "model")

# torch's old format starts with this pickled number.
_TORCH_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)

# Maximum nesting depth of dicts.
_DEPTH = 12

# Suffixes of files with pickled arrays in archives.
_PICKLES = (".ckpt", ".pkl", ".pickle")


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the named arrays of a file.

    Args:
      path: the file, in any of the formats above.

    Returns:
      Arrays by name, in the order of the file. Keys of nested dicts are joined by slashes. A prefix
      `module.` of all names (torch's DataParallel) is removed.

    Raises:
      CheckpointError: the file does not exist, has an unknown format, is damaged or contains code.
    """
    path = Path(path)
    if not (path.is_file() or tensor_bundle.prefix_of(path)):
        raise CheckpointError(f"{path}: no such file. Check the path")
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
    except Exception as error:  # a damaged file can raise anything
        raise CheckpointError(f"{path} cannot be read ({_first_line(error)})") from error
    if not arrays:
        raise CheckpointError(f"{path} contains no named arrays")
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
    """Returns the SHA-256 of a file in hexadecimal.

    For a TensorFlow checkpoint it is the digest of its concatenated files.
    """
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
        f"{path} is not a weight file of a known format. Known are safetensors, torch, npz, "
        "pickles of arrays, also in a tar.gz, and TensorFlow's checkpoints with their index"
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
            f"{path} has torch's format, and torch is not installed: pip install 'jaxvideo[torch]'"
        ) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} contains more than weights and was not loaded: {_first_line(error)}"
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
                f"{path} contains {len(pickles)} files called *{', *'.join(_PICKLES)}; it must "
                "contain exactly one"
            )
        return _unpickle(archive.extractfile(pickles[0]), path)


def _unpickle(file, path: Path):
    try:
        # Caffe2's pickles are from Python 2. Its strings, also with array contents, are Latin-1.
        return _Unpickler(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} contains more than arrays and was not loaded: {error}"
        ) from error


# --- Pickles of arrays --------------------------------------------------------------------

# A pickle must not call NumPy's own constructors: it could make them interpret bytes as pointers,
# and could modify the functions. The replacements below support arrays of numbers only.

_NUMBERS = re.compile(r"[<>|=]?[biuf]\d+")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((module.replace("numpy.core", "numpy._core"), name))
        if known is None:
            raise pickle.UnpicklingError(f"it uses {module}.{name}, which arrays do not need")
        return known


class _Function:
    """A function that a pickle can call but neither inspect nor change."""

    __slots__ = ("_function",)

    def __init__(self, function):
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments):
        return self._function(*arguments)

    def __setattr__(self, name, value):
        raise pickle.UnpicklingError(f"it sets {name} of a function")


class _Dtype:
    """A dtype of numbers; records and objects are rejected."""

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
    """An array under construction."""

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
    ("__builtin__", "bytes"): _Function(lambda: b""),  # contents of an empty array
}


def _collect(value: Any, name: str, into: dict[str, np.ndarray], depth: int) -> None:
    if isinstance(value, _Array):
        value = value.array
    if isinstance(value, Mapping):
        if not depth:
            raise CheckpointError(f"dicts are nested more than {_DEPTH} deep at {name}")
        for key, inner in value.items():
            _collect(inner, f"{name}/{key}" if name else str(key), into, depth - 1)
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        into[name] = value
    elif hasattr(value, "detach"):  # a tensor; NumPy has no bfloat16
        tensor = value.detach().cpu()
        into[name] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
