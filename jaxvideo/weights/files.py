"""Files of named arrays. The format is recognized by content; no code in a file is executed.

safetensors    names and arrays; our own files also have a description, see `write`
torch          `.pt`, `.pth`, `.pth.tar` and TorchScript; torch is not needed
npz            NumPy, without pickled objects
pickle         NumPy arrays (Caffe2, for instance); objects of other classes are ignored
tar.gz         an archive with one pickle, such as a Python package; it is not unpacked
caffemodel     Caffe, by its name (`weights.caffemodel`)
TensorFlow     a checkpoint, by its prefix or any of its files (`weights.tensor_bundle`)
"""

from __future__ import annotations

import hashlib
import json
import pickle
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
from jaxvideo.weights import caffemodel, formats, pickles, tensor_bundle, torch_files, unwrap

#: Key of our description in the header of a safetensors file.
_OURS = "jaxvideo"

# Suffixes of files with pickled arrays in archives.
_PICKLES = (".ckpt", ".pkl", ".pickle")


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the named arrays of a file.

    Args:
      path: the file, in any of the formats above.

    Returns:
      Arrays by name, in the order of the file. Keys of nested dicts are joined by slashes. The
      weights in a training state are found, and prefixes of torch's wrappers are removed
      (`weights.unwrap`).

    Raises:
      CheckpointError: the file does not exist, has an unknown format, is damaged, calls functions
        or contains a pickled network.
    """
    path = Path(path)
    if not (path.is_file() or tensor_bundle.prefix_of(path)):
        raise CheckpointError(f"{path}: no such file. Check the path")
    try:
        arrays = unwrap.arrays_of(_reader_of(path)(path), path)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} contains more than weights and was not loaded: {error}"
        ) from error
    except Exception as error:  # a damaged file can raise anything
        raise CheckpointError(f"{path} cannot be read ({_first_line(error)})") from error
    if not arrays:
        raise CheckpointError(f"{path} contains no named arrays")
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
    if caffemodel.SUFFIX in path.name:
        return caffemodel.read
    with path.open("rb") as file:
        start = file.read(64)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return _read_safetensors
    if start[:2] == b"PK":
        with zipfile.ZipFile(path) as archive:
            numpy = any(name.endswith(".npy") for name in archive.namelist())
        return _read_npz if numpy else torch_files.read_zip
    if start.startswith(torch_files.LEGACY_MAGIC):
        return torch_files.read_legacy
    if start[:2] == b"\x1f\x8b":
        return _read_archive
    if start[:1] == b"\x80" or path.suffix in _PICKLES[1:]:
        return _read_pickle
    raise CheckpointError(
        f"{path} is not a weight file of a known format. Known are safetensors, torch, npz, "
        "pickles of arrays, also in a tar.gz, *.caffemodel, and TensorFlow's checkpoints with "
        "their index"
    )


def _read_safetensors(path: Path):
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _read_npz(path: Path):
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _read_tensor_bundle(path: Path):
    prefix = tensor_bundle.prefix_of(path)
    return tensor_bundle.read(prefix) if prefix else {}


def _read_pickle(path: Path):
    with path.open("rb") as file:
        return pickles.load(file)


def _read_archive(path: Path):
    with tarfile.open(path) as archive:
        found = [m for m in archive if m.isfile() and m.name.endswith(_PICKLES)]
        if len(found) != 1:
            raise CheckpointError(
                f"{path} contains {len(found)} files called *{', *'.join(_PICKLES)}; it must "
                "contain exactly one"
            )
        return pickles.load(archive.extractfile(found[0]))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
