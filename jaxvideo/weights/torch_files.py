"""Files of torch, read without torch: `torch.save` in both formats, and TorchScript.

A file consists of a pickle, which `weights.pickles` reads, and of storages: the numbers of the
tensors. Storages are read when their tensor is used, so that the state of an optimizer costs
nothing.

    zip format      NAME/data.pkl, NAME/data/KEY; with constants.pkl and code/ it is TorchScript,
                    whose code is not read
    legacy format   pickles of a magic number, the version, the system, the object and the keys of
                    the storages; then the storages

A pickled network, `torch.save(model)`, is refused with the way to its state_dict.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxvideo.types import CheckpointError
from jaxvideo.weights import pickles
from jaxvideo.weights.pickles import StandIn, Storage, Tensor

#: The legacy format starts with this pickled number.
LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)

# NumPy's dtype by the name of torch's storage class, or of the dtype of an untyped storage.
# NumPy has no bfloat16; its 16 bits are the upper half of a float32.
_DTYPES = {
    "Double": "f8",
    "Float": "f4",
    "Half": "f2",
    "BFloat16": "u2",
    "Long": "i8",
    "Int": "i4",
    "Short": "i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}
_TORCH_DTYPES = {
    "float64": "Double",
    "float32": "Float",
    "float16": "Half",
    "bfloat16": "BFloat16",
    "int64": "Long",
    "int32": "Int",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
    "bool": "Bool",
}


def read_zip(path: Path) -> Any:
    """Reads a file in the zip format.

    Returns:
      What the file contains, see `pickles.load`; for TorchScript, tensors by dotted name.

    Raises:
      CheckpointError: the file is another zip file, or has numbers in big-endian order.
      pickle.UnpicklingError: see `pickles.load`.
    """
    archive = zipfile.ZipFile(path)  # stays open as long as a storage refers to it
    names = archive.namelist()
    main = next((name for name in names if re.fullmatch(r"([^/]*/)?data\.pkl", name)), "")
    if not main:
        raise CheckpointError(f"{path} is a zip file, but not one of torch or NumPy")
    folder = main.removesuffix("data.pkl")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") == b"big":
        raise CheckpointError(f"{path} was written on a big-endian machine")

    def storage(pid: Any) -> Storage:
        kind, key, count = _described(pid)

        def read() -> np.ndarray:
            flat = np.frombuffer(archive.read(f"{folder}data/{key}"), _dtype(kind))
            if len(flat) < count:
                raise CheckpointError(f"{path} is damaged: the storage {key} is too short")
            return _float32(flat, kind)

        return Storage(read)

    with archive.open(main) as file:
        content = pickles.load(file, storage)
    if f"{folder}constants.pkl" in names:
        return _script(path, content)
    return content


def read_legacy(path: Path) -> Any:
    """Reads a file in the legacy format, see `read_zip`."""
    known: dict[str, tuple[str, int]] = {}
    where: dict[str, int] = {}

    def storage(pid: Any) -> Any:
        if pid[0] == "module":
            return pid[1]  # the class of a pickled network, with its source code
        kind, key, count = _described(pid)
        known[key] = kind, count
        view = pid[5] if len(pid) > 5 else None  # (key, start, count) of a part of the storage
        start, count = (int(view[1]), int(view[2])) if view else (0, count)

        def read() -> np.ndarray:
            offset = where[key] + start * _dtype(kind).itemsize
            flat = np.fromfile(path, _dtype(kind), count, offset=offset)
            return _float32(flat, kind)

        return Storage(read)

    with path.open("rb") as file:
        for _ in range(3):  # magic number, version, system
            pickles.load(file)
        content = pickles.load(file, storage)
        for key in pickles.load(file):
            if key not in known:
                raise CheckpointError(f"{path} is damaged: unknown storage {key!r}")
            kind, _ = known[key]
            count = int.from_bytes(file.read(8), "little")
            where[key] = file.tell()
            file.seek(count * _dtype(kind).itemsize, 1)
    return content


def _described(pid: Any) -> tuple[str, str, int]:
    """Returns kind of numbers, key and count of a storage from its persistent identifier."""
    if not (isinstance(pid, tuple) and len(pid) > 4 and pid[0] == "storage"):
        raise pickle.UnpicklingError("it refers to something other than a storage")
    origin = getattr(pid[1], "origin", "").rpartition(".")[2]
    kind = _TORCH_DTYPES.get(origin) or origin.removesuffix("Storage")
    return "Byte" if kind == "Untyped" else kind, str(pid[2]), int(pid[4])


def _dtype(kind: str) -> np.dtype:
    if kind not in _DTYPES:
        raise pickle.UnpicklingError(f"it has a tensor of type {kind}, which is not supported")
    return np.dtype(_DTYPES[kind])


def _float32(flat: np.ndarray, kind: str) -> np.ndarray:
    if kind != "BFloat16":
        return flat
    return (flat.astype(np.uint32) << 16).view(np.float32)


def _script(path: Path, network: Any) -> dict[str, Tensor]:
    """Returns the tensors of a TorchScript module by their dotted names."""
    tensors: dict[str, Tensor] = {}

    def collect(module: StandIn, prefix: str, depth: int) -> None:
        for name, value in module.attributes.items():
            if isinstance(value, Tensor):
                tensors[prefix + name] = value
            elif isinstance(value, StandIn) and depth:
                collect(value, f"{prefix}{name}.", depth - 1)

    if isinstance(network, StandIn):
        collect(network, "", 24)
    if not tensors:
        raise CheckpointError(
            f"{path} is a TorchScript module without named tensors, for instance a frozen one. "
            "Use the weights from before torch.jit.freeze"
        )
    return tensors


def is_network(value: Any) -> bool:
    """Returns True for a pickled `torch.nn.Module`."""
    return isinstance(value, StandIn) and "_modules" in value.attributes


def network_error(path: Path, network: StandIn, key: str = "") -> CheckpointError:
    """Returns the error for a file with a pickled network.

    Args:
      path: the file.
      network: the network.
      key: its key in the file; "" if the file contains nothing else.
    """
    entry = f"[{key!r}]" if key else ""
    return CheckpointError(
        f"{path} contains a pickled network of class {network.origin}"
        f"{f' under {key!r}' if key else ''}, written by torch.save(model). Only a program that "
        "defines this class can open it. Save its weights there: "
        f"torch.save(torch.load({path.name!r}, weights_only=False){entry}.state_dict(), "
        "'weights.pth')"
    )
