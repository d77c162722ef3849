"""Reads config files and overrides for commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jaxvideo.types import ConfigError


def load_config(name: str, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Reads the values of a config file.

    Args:
      name: `configs/x.py` or `configs/x.py:argument`.
      overrides: changes such as `optim.lr=0.1`; a leading `config.` is ignored.

    Raises:
      ConfigError: the file does not exist or fails, or it has no key of an override.
    """
    import importlib.util
    import json
    import sys
    from pathlib import Path

    file, _, argument = name.partition(":")
    path = Path(file).resolve()
    spec = importlib.util.spec_from_file_location(path.stem, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config={name}: no such config file")
    # Config files import shared ones as a package.
    root = str(path.parents[1])
    sys.path.insert(0, root)
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config(argument) if argument else module.get_config()
        values = json.loads(json.dumps(config.to_dict()))
    except Exception as error:  # a config file may raise anything
        raise ConfigError(f"--config={name}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(root)
    for change in overrides:
        override(values, change)
    return values


def override(values: dict[str, Any], change: str) -> None:
    """Changes one value of a config in place.

    Args:
      values: nested dict.
      change: `key.of.config=value`.

    Raises:
      ConfigError: the config has no such key, or the value has another type.
    """
    import difflib

    name, found, text = change.partition("=")
    *sections, key = name.removeprefix("config.").split(".")
    section = values
    for part in sections:
        section = section.get(part) if isinstance(section, dict) else None
    # Arguments of a model are checked by the model itself.
    if not found or not isinstance(section, dict) or (key not in section and sections != ["model"]):
        keys = _keys(values)
        near = difflib.get_close_matches(name.removeprefix("config."), keys, n=1)
        hint = f"; did you mean {near[0]!r}?" if found and near else ""
        raise ConfigError(f"override {change!r}: must be KEY=VALUE with a key of the config{hint}")
    before = section.get(key)
    if isinstance(before, dict):
        raise ConfigError(
            f"override {change!r}: {key} is a section; set one of its keys {', '.join(before)}"
        )
    section[key] = _parse(text, before, change)


def _keys(values: dict[str, Any], prefix: str = "") -> list[str]:
    return [
        name
        for key, value in values.items()
        for name in (_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key])
    ]


def _parse(text: str, before: Any, change: str) -> Any:
    """Parses a value to the type of the present value."""
    import ast

    if isinstance(before, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    if isinstance(value, tuple):
        value = list(value)
    allowed = {bool: bool, int: int, float: (int, float), list: list}.get(type(before))
    # bool is a subclass of int.
    if allowed and (not isinstance(value, allowed) or type(value) is bool is not allowed):
        raise ConfigError(
            f"override {change!r}: must have the type of the present value, like {before!r}"
        )
    return value
