"""Parameter trees as flat dicts by name.

A name is the path through the scopes joined by slashes, such as `mixed_4b/branch_1/conv_b/kernel`.
Freezing, weight decay, inflation and import are functions over such names, which are part of the
public interface.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from jaxvideo.types import CheckpointError, ConfigError


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns `{name: leaf}` of nested dicts, in their order.

    Args:
      tree: nested dicts.
      prefix: prefix of all names.

    Example:
      >>> flatten({"conv1": {"kernel": 1}})
      {'conv1/kernel': 1}
    """
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}/"))
        else:
            flat[name] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested dicts from `{name: leaf}`; the inverse of `flatten`.

    Example:
      >>> unflatten({"conv1/kernel": 1})
      {'conv1': {'kernel': 1}}
    """
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *scopes, leaf = name.split("/")
        node = tree
        for scope in scopes:
            node = node.setdefault(scope, {})
        node[leaf] = value
    return tree


def matching(names: Sequence[str], patterns: Sequence[str], what: str) -> set[str]:
    """Returns the names that match any of the shell-style patterns; `*` also matches slashes.

    Args:
      names: all names.
      patterns: patterns as in `fnmatch`.
      what: name of the setting that contains the patterns, for the error message.

    Raises:
      ConfigError: a pattern matches nothing.

    Example:
      >>> matching(["conv1/kernel", "fc/kernel"], ["fc/*"], "frozen")
      {'fc/kernel'}
    """
    found: set[str] = set()
    for pattern in patterns:
        hits = fnmatch.filter(names, pattern)
        if not hits:
            raise ConfigError(
                f"{what}: the pattern {pattern!r} matches no parameter. Some names: "
                f"{', '.join(list(names)[:: max(len(names) // 6, 1)])}"
            )
        found.update(hits)
    return found


def check_same(expected: Mapping[str, Any], found: Mapping[str, Any], where: str) -> None:
    """Checks that two flat dicts have the same names and shapes.

    Args:
      expected: leaves of the model.
      found: leaves of a file.
      where: the file, for the error message.

    Raises:
      CheckpointError: they differ; the message lists the differences.
    """
    kinds = (
        [f"  missing   {n} {tuple(expected[n].shape)}" for n in expected if n not in found],
        [f"  unknown   {n} {tuple(found[n].shape)}" for n in found if n not in expected],
        [
            f"  shape     {n} {tuple(found[n].shape)}, the model has {tuple(expected[n].shape)}"
            for n in expected
            if n in found and tuple(expected[n].shape) != tuple(found[n].shape)
        ],
    )
    if any(kinds):
        shown = [line for lines in kinds for line in _shortened(lines)]
        raise CheckpointError("\n".join([f"{where} does not fit the model:", *shown]))


def _shortened(lines: Sequence[str], most: int = 10) -> list[str]:
    """Returns the first lines, and how many more there are of their kind."""
    if len(lines) <= most:
        return list(lines)
    kind = lines[0].split()[0]
    return [*lines[: most - 2], f"  {kind:<9} ... and {len(lines) - most + 2} more"]
