"""Files of named arrays, told apart by their content; reading one never executes code from it.

safetensors    names and arrays; ours have a description (`write` puts it there)
torch          `.pt`, `.pth`, `.pth.tar`, either of torch's formats; extra [torch]
npz            NumPy's, without pickled objects
pickle         dicts, lists, numbers and NumPy arrays (Caffe2's, for instance); any other
               class in it is an error
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxvideo.types import CheckpointError

#: Key of our description in the header of a safetensors file.
_OURS = "jaxvideo"

# A file may hold a whole training state; the weights are under the first of these that it has.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "blobs", "model")

# The number with which torch's old format begins, as a pickle of its own.
_TORCH_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)

# All that a pickle of NumPy arrays names, under NumPy 1's and 2's module names.
_HARMLESS = {
    (module, name)
    for core in ("numpy.core", "numpy._core")
    for module, name in (
        (f"{core}.multiarray", "_reconstruct"),
        (f"{core}.multiarray", "scalar"),
        (f"{core}.numeric", "_frombuffer"),
    )
} | {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The named arrays of a file, in its order; nested dicts joined by slashes.

    A prefix `module.` that all names have (torch's DataParallel) is taken off.

    Raises:
      CheckpointError: no such file, none of the formats, damaged, or with code in it.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    content = _reader_of(path)(path)
    while isinstance(content, Mapping):
        inner = next((k for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = content[inner]
    arrays: dict[str, np.ndarray] = {}
    _collect(content, "", arrays)
    if not arrays:
        raise CheckpointError(f"{path} holds no named arrays")
    if all(name.startswith("module.") for name in arrays):
        arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    return arrays


def read_description(path: str | Path) -> dict[str, Any] | None:
    """What `write` put beside the arrays; None for files that are not ours."""
    if not Path(path).is_file() or _reader_of(Path(path)) is not _read_safetensors:
        return None
    try:
        with safe_open(path, "np") as file:
            text = (file.metadata() or {}).get(_OURS)
        return None if text is None else json.loads(text)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is damaged ({error})") from error


def write(path: str | Path, arrays: Mapping[str, np.ndarray], description: dict[str, Any]) -> None:
    """A safetensors file; it appears under its name when it is complete."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    try:
        save_file(plain, temporary, {_OURS: json.dumps(description)})
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path} cannot be written ({error})") from error


def sha256(path: str | Path) -> str:
    """Digest of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reader_of(path: Path):
    with path.open("rb") as file:
        start = file.read(64)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return _read_safetensors
    if start[:2] == b"PK":
        try:
            with zipfile.ZipFile(path) as archive:
                numpy = any(name.endswith(".npy") for name in archive.namelist())
        except zipfile.BadZipFile as error:
            raise CheckpointError(f"{path} is damaged ({error})") from error
        return _read_npz if numpy else _read_torch
    if start.startswith(_TORCH_MAGIC):
        return _read_torch
    if start[:1] == b"\x80" or path.suffix in (".pkl", ".pickle"):
        return _read_pickle
    raise CheckpointError(
        f"{path} is no weight file: known are safetensors, torch's, npz and pickles of arrays"
    )


def _read_safetensors(path: Path):
    try:
        with safe_open(path, "np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error


def _read_npz(path: Path):
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error


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
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read ({_first_line(error)})") from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which arrays do not need")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _read_pickle(path: Path):
    try:
        with path.open("rb") as file:
            # Python 2 wrote Caffe2's; its strings are bytes of Latin-1, arrays' contents too.
            return _Unpickler(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than arrays, and is not opened: {error}"
        ) from error
    except Exception as error:  # A damaged pickle raises whatever its bytes happen to say.
        raise CheckpointError(f"{path} is damaged ({_first_line(error)})") from error


def _collect(value: Any, name: str, into: dict[str, np.ndarray]) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _collect(inner, f"{name}/{key}" if name else str(key), into)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        into[name] = value
    elif hasattr(value, "detach"):  # a tensor; NumPy knows no bfloat16
        tensor = value.detach().cpu()
        into[name] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
