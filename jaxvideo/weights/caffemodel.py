"""Caffe's model files, read without Caffe: the arrays of every layer.

A file is a protocol buffer, a `NetParameter`. A message is a sequence of fields, each with a key:
its number and its wire type. Only these fields are read, all others are skipped:

    NetParameter     layer 100, or layers 2 in old files
    LayerParameter   name 1, blobs 7; in old files name 4, blobs 6
    BlobProto        shape 7 (its dim 1), data 5; in old files num 1, channels 2, height 3, width 4
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from jaxvideo.types import CheckpointError
from jaxvideo.weights.from_torch import replaced

#: Part of the names of such files; some have a further suffix.
SUFFIX = ".caffemodel"

#: Names of arrays, with "{}" for the layer. A BatchNorm has slope, bias, mean and variance.
LEAVES = {
    "kernel": "{}.0",
    "bias": "{}.1",
    "scale": "{}.0",
    "mean": "{}.2",
    "var": "{}.3",
}

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads a file.

    Returns:
      `LAYER.0`, `LAYER.1`, ...: the blobs of every layer, f32. Leading axes of size 1 are removed.

    Raises:
      CheckpointError: the file is damaged.
    """
    arrays = {}
    try:
        for number, content in _fields(memoryview(path.read_bytes())):
            if number not in (2, 100) or isinstance(content, int):
                continue
            name_field, blob_field = (1, 7) if number == 100 else (4, 6)
            layer = list(_fields(content))
            parts = [(n, part) for n, part in layer if not isinstance(part, int)]
            name = next((bytes(part).decode() for n, part in parts if n == name_field), "")
            blobs = [_blob(part) for n, part in parts if n == blob_field]
            arrays |= {f"{name}.{index}": blob for index, blob in enumerate(blobs)}
    except (IndexError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a model of Caffe, or is damaged ({error})") from error
    return arrays


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yields number and content of the fields of a message."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire == _BYTES:
            size, position = _varint(message, position)
        elif wire in (_EIGHT, _FOUR):
            size = 8 if wire == _EIGHT else 4
        else:
            raise ValueError(f"wire type {wire}")
        if position + size > len(message):
            raise ValueError("a field exceeds the file")
        yield number, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[position]
        value, shift, position = value | (byte & 127) << shift, shift + 7, position + 1
        if byte < 128:
            return value, position
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _blob(message: memoryview) -> np.ndarray:
    data, shape, sizes = b"", [], []
    for number, content in _fields(message):
        if isinstance(content, int):
            sizes += [content] if number in (1, 2, 3, 4) else []
        elif number == 5:
            data += bytes(content)
        elif number == 7:
            for _, dims in _fields(content):
                shape += [dims] if isinstance(dims, int) else list(_packed(dims))
    shape = shape or sizes
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return np.frombuffer(data, "<f4").reshape(shape)


def _packed(content: memoryview) -> Iterator[int]:
    position = 0
    while position < len(content):
        value, position = _varint(content, position)
        yield value


def tsn(scope: str, names: Collection[str]) -> str:
    """Names of TSN's BN-Inception, see `from_torch`; layers are named by block and kernel."""
    del names
    return replaced(
        scope,
        {
            "^fc$": "fc-action",
            r"^net/(conv|bn)1$": r"conv1/\1_7x7_s2",
            r"^net/(conv|bn)_2": r"conv2/\1_3x3",
            "^net/": "",
            r"/conv_": "/",
            r"/bn_(\w+)$": r"/\1_bn",
        },
    )
