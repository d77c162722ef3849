"""Parameter trees as flat tables of names: the names are the library's API.

A name is the path through the scopes, joined by slashes: `mixed_4b/branch_1/conv_b/kernel`.
Freezing, decay, inflation and import are functions over such names.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from jaxvideo.types import CheckpointError, ConfigError


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts to `{name: leaf}`, in the tree's order."""
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}/"))
        else:
            flat[name] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *scopes, leaf = name.split("/")
        node = tree
        for scope in scopes:
            node = node.setdefault(scope, {})
        node[leaf] = value
    return tree


def matching(names: Sequence[str], patterns: Sequence[str], what: str) -> set[str]:
    """The names that any of the shell-style patterns matches (`*` also crosses slashes).

    Raises:
      ConfigError: a pattern that matches nothing; `what` says in whose behalf.
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
    """Both flat tables must have the same names and shapes, or the error prints the diff."""
    lines = [f"  missing   {n} {tuple(expected[n].shape)}" for n in expected if n not in found]
    lines += [f"  unknown   {n} {tuple(found[n].shape)}" for n in found if n not in expected]
    lines += [
        f"  shape     {n} {tuple(found[n].shape)}, the model has {tuple(expected[n].shape)}"
        for n in expected
        if n in found and tuple(expected[n].shape) != tuple(found[n].shape)
    ]
    if lines:
        shown = "\n".join(lines[:20])
        more = f"\n  ... and {len(lines) - 20} more" if len(lines) > 20 else ""
        raise CheckpointError(f"{where} does not fit the model:\n{shown}{more}")
