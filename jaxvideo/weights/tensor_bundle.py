"""Reads TensorFlow's checkpoints, format V2, without TensorFlow.

`model.ckpt.index` is a LevelDB table of sorted keys in blocks with checksums. Each key omits the
prefix that it shares with the previous key. One block lists the others, and a footer contains its
position. The key "" has the header. All other keys are names of variables, with type, shape,
position and checksum in a shard such as `model.ckpt.data-00000-of-00001`.

References: LevelDB's `doc/table_format.md`; TensorFlow's `tensor_bundle.proto`,
`tensor_shape.proto` and `types.proto`.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxvideo.types import CheckpointError

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48  # bytes

# Numbers of `types.proto`; bfloat16 is the upper half of a float.
_BFLOAT16 = 14
_TYPES = {
    1: "f4",
    2: "f8",
    3: "i4",
    4: "u1",
    5: "i2",
    6: "i1",
    9: "i8",
    10: "?",
    _BFLOAT16: "u2",
    17: "u2",
    19: "f2",
    22: "u4",
    23: "u8",
}


def prefix_of(path: str | Path) -> Path | None:
    """Returns the prefix (`model.ckpt`) from the prefix or a file of a checkpoint.

    Args:
      path: the prefix or any file of the checkpoint.

    Returns:
      The prefix, or None if there is no index with that prefix.
    """
    path = Path(path)
    name = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", path.name)
    if path.is_file() and name == path.name:  # a file that is not part of a checkpoint
        return None
    return path.with_name(name) if path.with_name(f"{name}.index").is_file() else None


def files_of(prefix: Path) -> list[Path]:
    """Returns the index and the existing shards."""
    shards = glob.glob(f"{glob.escape(str(prefix))}.data-?????-of-?????")
    return [_index_of(prefix), *map(Path, sorted(shards))]


def read(prefix: Path) -> dict[str, np.ndarray]:
    """Reads the variables of a checkpoint that are arrays of numbers.

    Args:
      prefix: prefix of the checkpoint's files.

    Returns:
      Arrays by name, in the order of the index.

    Raises:
      CheckpointError: a file is missing, damaged or uses an unsupported feature.
    """
    index = _index_of(prefix)
    arrays: dict[str, np.ndarray] = {}
    with contextlib.ExitStack() as stack:
        try:
            table = dict(_table(index.read_bytes()))
            header = _message(table.pop(b"", b""))
            shards, order = _last(header, 1), ">" if _last(header, 2) else "<"
            # Keys of slices are not text.
            entries = {key.decode(errors="replace"): _message(table[key]) for key in table}
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{index} cannot be read ({error})") from error
        if sliced := [name for name, entry in entries.items() if 7 in entry]:
            raise CheckpointError(
                f"{index}: {sliced[0]} is stored in slices, which are not supported"
            )
        opened = {}
        for name, entry in entries.items():
            shard = _last(entry, 3)
            path = prefix.with_name(f"{prefix.name}.data-{shard:05}-of-{shards:05}")
            try:
                if _last(entry, 1) not in _TYPES:
                    continue
                if shard not in opened:
                    opened[shard] = stack.enter_context(path.open("rb"))
                arrays[name] = _tensor(entry, opened[shard], order)
            except FileNotFoundError:
                raise CheckpointError(f"{path}: no such file, but {index} refers to it") from None
            except (ValueError, OSError) as error:
                raise CheckpointError(f"{path}: {name} cannot be read ({error})") from error
    return arrays


def _index_of(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


def _tensor(entry, file, order: str) -> np.ndarray:
    dims = [_message(dim) for dim in _message(_last(entry, 2, b"")).get(2, ())]
    shape = tuple(_last(dim, 1) for dim in dims)
    kind, size = _last(entry, 1), _last(entry, 5)
    dtype = np.dtype(order + _TYPES[kind])
    if size != dtype.itemsize * math.prod(shape):
        raise ValueError(f"{size} bytes for the shape {shape}")
    file.seek(_last(entry, 4))
    content = file.read(size)
    if len(content) != size:
        raise ValueError("the file is truncated")
    _check(content, _last(entry, 6))
    array = np.frombuffer(content, dtype).reshape(shape)
    if kind == _BFLOAT16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


# --- LevelDB's table ----------------------------------------------------------------------


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields keys and values of all blocks."""
    footer = data[-_FOOTER:]
    if len(footer) < _FOOTER or int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise ValueError("it is not an index of a checkpoint, or it is truncated")
    _, at = _place(footer, 0)  # the meta block, which is empty
    place, _ = _place(footer, at)
    for _, handle in _entries(_block(data, *place)):
        place, _ = _place(handle, 0)
        yield from _entries(_block(data, *place))


def _place(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _block(data: bytes, offset: int, size: int) -> bytes:
    """Returns a block; the type of compression (one byte) and the checksum follow it."""
    stored = _take(data, offset, size + 5)
    _check(stored[:-4], int.from_bytes(stored[-4:], "little"))
    if stored[size]:
        raise ValueError("it is compressed, which is not supported")
    return stored[:size]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the entries of a block, which ends with positions for a search and their number."""
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    key, at = b"", 0
    while at < end:
        shared, at = _varint(block, at)
        rest, at = _varint(block, at)
        size, at = _varint(block, at)
        key = key[:shared] + _take(block, at, rest)
        yield key, _take(block, at + rest, size)
        at += rest + size


# --- Protocol buffers ---------------------------------------------------------------------


def _message(data: bytes) -> dict[int, list]:
    """Returns field numbers to values: integers, or bytes for fields with a length."""
    fields: dict[int, list] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
        elif kind == 2:
            size, at = _varint(data, at)
            value, at = _take(data, at, size), at + size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = int.from_bytes(_take(data, at, size), "little"), at + size
        else:
            raise ValueError(f"it has a field of the unknown wire type {kind}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _last(fields: dict[int, list], number: int, default: Any = 0) -> Any:
    return fields.get(number, [default])[-1]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = _take(data, at, 1)[0]
        value, at = value | (byte & 127) << shift, at + 1
        if byte < 128:
            return value, at
    raise ValueError("it has an integer of more than 10 bytes")


def _take(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise ValueError("it is truncated")
    return data[at : at + size]


# --- CRC-32C ------------------------------------------------------------------------------


def _check(content: bytes, masked: int) -> None:
    # Stored checksums are masked, because checksums of data with checksums would be weak.
    rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
    if (rotated << 15 | rotated >> 17) & 0xFFFFFFFF != crc32c(content):
        raise ValueError("its checksum is wrong")


def _table_of_bytes() -> np.ndarray:
    register = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        register = np.where(register & 1, register >> 1 ^ np.uint32(0x82F63B78), register >> 1)
    return register


_BYTES = _table_of_bytes()
_BITS = np.uint32(1) << np.arange(32, dtype=np.uint32)
_LANE = 64  # bytes


def crc32c(content: bytes) -> int:
    """Returns the CRC-32C (Castagnoli; RFC 3720, appendix B.4).

    Lanes are processed in parallel, byte by byte, and then combined. The register is linear, so
    that of `a + b` is the register of `a` after as many zero bytes as `b` has, XOR that of `b`.

    Example:
      >>> hex(crc32c(b"123456789"))
      '0xe3069283'
    """
    lanes = 1 << max(math.ceil(len(content) / _LANE) - 1, 0).bit_length()
    padded = np.zeros(lanes * _LANE, np.uint8)  # leading zeros do not change the register
    padded[len(padded) - len(content) :] = np.frombuffer(content, np.uint8)
    register = np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(padded.reshape(lanes, _LANE).T):
        register = _BYTES[(register ^ column) & 255] ^ register >> 8
    zeros = _LANE
    while len(register) > 1:
        register = _after_zeros(register[::2], zeros) ^ register[1::2]
        zeros *= 2
    start = _after_zeros(np.full(1, 0xFFFFFFFF, np.uint32), len(content))
    return int((register ^ start)[0]) ^ 0xFFFFFFFF


def _after_zeros(register: np.ndarray, count: int) -> np.ndarray:
    """Registers after `count` bytes of zeros."""
    for power in range(count.bit_length()):
        if count >> power & 1:
            register = _times(_zeros(power), register)
    return register


@functools.cache
def _zeros(power: int) -> np.ndarray:
    """Columns of the matrix over bits for `2 ** power` zero bytes."""
    if power:
        return _times(_zeros(power - 1), _zeros(power - 1))
    return _BYTES[_BITS & 255] ^ _BITS >> 8


def _times(columns: np.ndarray, register: np.ndarray) -> np.ndarray:
    return np.bitwise_xor.reduce(np.where(register[:, None] & _BITS, columns, 0), axis=1)
