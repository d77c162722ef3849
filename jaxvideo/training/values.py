"""Parses and type-checks values of config keys."""

from __future__ import annotations

import ast
import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from jaxvideo.training.schema import Run


def parse(text: str, hint: Any) -> Any:
    """Parses a command line value for a key of type `hint`; `fits` checks the result."""
    if hint is str:
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    if typing.get_origin(hint) is tuple and value is not None:
        if isinstance(value, str):
            value = value.split(",")
        value = tuple(value) if isinstance(value, tuple | list) else (value,)
    if hint is float and type(value) is int:
        value = float(value)
    return value


def frozen(value: Any) -> Any:
    """Converts lists to tuples recursively: JSON has lists, the dataclasses have tuples."""
    if isinstance(value, tuple | list):
        return tuple(frozen(one) for one in value)
    return value


def describe_type(hint: Any) -> str:
    """Returns the description of a type for error messages."""
    if isinstance(hint, types.UnionType):
        return " or ".join(map(describe_type, typing.get_args(hint)))
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
    if hint is type(None):
        return "None"
    if typing.get_origin(hint) is tuple:
        return "a tuple"
    return names.get(hint, "a section of keys")


def fits(value: Any, hint: Any) -> bool:
    """Returns True if a value has the type `hint`."""
    if hint is Any:
        return True
    if isinstance(hint, types.UnionType):
        return any(fits(value, one) for one in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        return isinstance(value, tuple | list) and (
            typing.get_args(hint)[-1] is not ... or all(fits(one, inner) for one in value)
        )
    if typing.get_origin(hint) is dict:
        return isinstance(value, Mapping)
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def type_of(key: str) -> Any:
    """Returns the type of a key such as "optim.lr"; None if there is no such key."""
    cls: Any = Run
    for part in key.split("."):
        if typing.get_origin(cls) is dict:
            cls = typing.get_args(cls)[1]
        elif dataclasses.is_dataclass(cls) and part in (hints := typing.get_type_hints(cls)):
            cls = hints[part]
        else:
            return None
    return cls
