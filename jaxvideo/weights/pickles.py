"""Pickles of arrays and tensors, read without importing or calling anything that they name.

A pickle is a program that names classes and functions. Arrays and tensors are rebuilt by the
functions of this file. Any other class or function becomes a `StandIn`, which stores what it is
given and does nothing. So a checkpoint may contain an `argparse.Namespace`, a config or an
optimizer. A pickle that names a function of the standard library that data does not need, such as
`os.system`, is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import pickle
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


class StandIn:
    """An object of a class of the file, or the result of a function of the file.

    Attributes:
      origin: name of the class or function.
      arguments: arguments of the call.
      state: the state of the object, often a dict of its attributes.
      items: its items, if it is a dict.
    """

    __slots__ = ("arguments", "items", "state")

    origin = ""

    def __new__(cls, *arguments: Any, **named: Any) -> StandIn:
        self = object.__new__(cls)
        self.arguments = (arguments, named)
        self.state = None
        self.items = {}
        return self

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def __call__(self, *arguments: Any, **named: Any) -> StandIn:
        return StandIn(*arguments, **named)

    def append(self, value: Any) -> None:
        """Ignores an item of a list or of a set."""

    add = append

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the object; empty if it has none."""
        state = self.state
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], dict):
            state = state[0]  # the second one holds slots
        return state if isinstance(state, dict) else {}


@functools.lru_cache(maxsize=1024)
def _stand_in(origin: str) -> type[StandIn]:
    return type("StandIn", (StandIn,), {"__slots__": (), "origin": origin})


@dataclasses.dataclass(frozen=True, slots=True)
class Storage:
    """Numbers of a torch file: `read` returns them as a flat array."""

    read: Callable[[], np.ndarray]


class Tensor:
    """A view of a storage; the numbers are read by `array`."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: Storage, offset: Any, shape: Any, strides: Any):
        if not isinstance(storage, Storage):
            raise pickle.UnpicklingError("it has a tensor that was not written by torch.save")
        self.storage, self.offset = storage, int(offset)
        self.shape = tuple(map(int, shape))
        self.strides = tuple(map(int, strides))

    def array(self) -> np.ndarray:
        """Returns a copy as an array."""
        flat = self.storage.read()[self.offset :]
        sizes = zip(self.shape, self.strides, strict=True)
        if 0 in self.shape:
            return np.zeros(self.shape, flat.dtype)
        last = sum((n - 1) * s for n, s in sizes)
        if min(self.shape, default=1) < 0 or min(self.strides, default=0) < 0 or last >= len(flat):
            raise pickle.UnpicklingError("it has a tensor that exceeds its storage")
        strides = [s * flat.itemsize for s in self.strides]
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides).copy()


def load(file: Any, storage: Callable[[Any], Any] | None = None) -> Any:
    """Reads one pickle from a file.

    Args:
      file: a binary file.
      storage: returns the `Storage` of a persistent identifier; None if the file has none.

    Returns:
      The content. Arrays are `Array`, tensors are `Tensor`; other objects are `StandIn`.

    Raises:
      pickle.UnpicklingError: the pickle calls a function that data does not need.
    """
    # Caffe2's pickles are from Python 2. Its strings, also with array contents, are Latin-1.
    return _Unpickler(file, storage).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, storage: Callable[[Any], Any] | None):
        super().__init__(file, encoding="latin1")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")
        known = _KNOWN.get((module, name))
        if known is not None:
            return known
        top = module.split(".")[0]
        origin = f"{module}.{name}"
        python = top in sys.stdlib_module_names or top in _PYTHON_2
        if python and ("." in name or not _HARMLESS.fullmatch(origin)):
            raise pickle.UnpicklingError(f"it calls {origin}, which data does not need")
        return _stand_in(origin)

    def persistent_load(self, pid: Any) -> Any:
        if self._storage is None:
            raise pickle.UnpicklingError("it refers to objects outside the file")
        return self._storage(pid)


# Classes of the standard library whose objects are data. Their stand-ins do nothing either.
_HARMLESS = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|uuid\.UUID|copy_?reg\.\w+|functools\.partial|"
    r"re\._compile|(collections|pathlib|datetime|zoneinfo|decimal|fractions|enum|typing|random|"
    r"itertools|logging|threading)(\.\w+)+|"  # pathlib._local since Python 3.13
    r"(builtins|__builtin__)\.(object|set|frozenset|list|tuple|dict|int|long|float|complex|bool|"
    r"str|unicode|bytes|bytearray|range|xrange|slice|NoneType|type|Ellipsis|property)"
)
_PYTHON_2 = ("__builtin__", "copy_reg", "commands", "os2", "exceptions", "cPickle", "UserDict")


# --- Arrays -------------------------------------------------------------------------------

# A pickle must not call NumPy's own constructors: it could make them interpret bytes as pointers,
# and could modify the functions. The replacements below support arrays of numbers only.

_NUMBERS = re.compile(r"[<>|=]?[biuf]\d+")


class _Function:
    """A function that a pickle can call but neither inspect nor change."""

    __slots__ = ("_function",)

    def __init__(self, function):
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments):
        return self._function(*arguments)

    def __setattr__(self, name, value):
        raise pickle.UnpicklingError(f"it sets {name} of a function")


class _Dict(dict):
    """An `OrderedDict`; torch's have attributes, which are ignored."""

    __slots__ = ()

    def __setstate__(self, state):
        pass


class _Dtype:
    """A dtype; None for one that is not of numbers, such as text or objects."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any):
        numbers = isinstance(code, str) and _NUMBERS.fullmatch(code)
        self.dtype = np.dtype(code) if numbers else None

    def __setstate__(self, state):
        order, *rest = state[1:5]
        if self.dtype is not None and (any(rest) or order not in "<>|="):
            raise pickle.UnpicklingError("it has an array of records")
        if self.dtype is not None:
            self.dtype = self.dtype.newbyteorder(order)


class Array:
    """An array under construction; `array` is None if it is not one of numbers."""

    __slots__ = ("array",)

    def __init__(self):
        self.array: np.ndarray | None = np.zeros(0, np.float32)

    def __setstate__(self, state):
        _, shape, kind, fortran, content = state
        self.array = _from_bytes(content, kind, shape, "F" if fortran else "C").array


def _from_bytes(content, kind, shape, order="C") -> Array:
    made = Array()
    if kind.dtype is None:
        made.array = None
        return made
    content = content.encode("latin1") if isinstance(content, str) else bytes(content)
    flat = np.frombuffer(content, kind.dtype)
    made.array = flat.reshape(tuple(map(int, shape)), order="F" if order == "F" else "C")
    return made


def _latin1(text, encoding) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding!r}")
    return text.encode("latin1")


# --- Tensors ------------------------------------------------------------------------------


def _tensor(storage, offset, shape, strides, *_: Any) -> Tensor:
    return Tensor(storage, offset, shape, strides)


def _parameter(data, *_: Any) -> Any:
    return data


def _from_type(function, kind, arguments: Sequence[Any], state: Any) -> Any:
    del kind, state
    return function(*arguments) if isinstance(function, _Function) else StandIn()


_KNOWN: Mapping[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Function(lambda code, align=False, copy=True: _Dtype(code)),
    ("numpy", "ndarray"): _Function(lambda: None),  # an argument of _reconstruct, never called
    ("numpy._core.multiarray", "_reconstruct"): _Function(lambda kind, shape, code: Array()),
    ("numpy._core.multiarray", "scalar"): _Function(lambda kind, c: _from_bytes(c, kind, ())),
    ("numpy._core.numeric", "_frombuffer"): _Function(_from_bytes),
    ("collections", "OrderedDict"): _Function(lambda *items: _Dict(*items)),
    ("_codecs", "encode"): _Function(_latin1),
    ("__builtin__", "bytes"): _Function(lambda: b""),  # contents of an empty array
    ("torch._utils", "_rebuild_tensor"): _Function(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): _Function(_parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): _Function(_from_type),
}
