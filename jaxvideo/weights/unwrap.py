"""The weights inside a checkpoint: entries of dicts that contain them, and prefixes of names.

A file may contain a whole training state, with the weights under a key such as `state_dict`. All
names may have prefixes, of wrappers such as `torch.compile` and of modules such as Lightning's.
"""

from __future__ import annotations

import collections
import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxvideo.types import CheckpointError
from jaxvideo.weights import torch_files
from jaxvideo.weights.pickles import Array, StandIn, Tensor

# Keys that always contain the weights, in the order of preference.
_WEIGHTS = ("state_dict", "model_state_dict", "model_state", "blobs")

# Keys that contain the weights if nothing beside them does. Averaged weights come last.
_MAYBE = (
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "state",
    "generator",
    "state_dict_ema",
    "model_state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema_model",
    "ema",
    "params_ema",
)

# Names of other parts of a training state.
_TRAINING = re.compile(
    r"optim|sched|scaler|^amp|rng|random|criterion|loss|hist|meter|metric|arg|cfg|conf|hyper|meta|"
    r"callback|loop|epoch|iter|step|best|acc|top|lr|momentum",
    re.IGNORECASE,
)

# Prefixes of names, by torch.compile and torch's parallel wrappers. No network has such a module.
_WRAPPERS = ("module.", "_orig_mod.")

# Modules that contain the network in a library's own names.
_MODULES = ("backbone.", "model.")

# Maximum nesting depth of dicts.
_DEPTH = 12


def arrays_of(content: Any, path: Path) -> dict[str, np.ndarray]:
    """Returns the named arrays of a file's content.

    Args:
      content: what a reader returns: nested dicts of arrays and of objects that are ignored.
      path: the file, for error messages.

    Returns:
      Arrays by name; keys of nested dicts are joined by slashes.

    Raises:
      CheckpointError: dicts are nested too deep, or the file contains a pickled network.
    """
    for _ in range(_DEPTH):
        key = _wrapper(content, path)
        if not key:
            break
        content = content[key]
    if torch_files.is_network(content):
        raise torch_files.network_error(path, content)
    arrays: dict[str, np.ndarray] = {}
    _collect(content, "", arrays, _DEPTH)
    return bare(arrays)


def bare(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns arrays without the prefixes of torch.compile and of parallel training.

    Example:
      >>> bare({"module._orig_mod.fc.weight": 1})
      {'fc.weight': 1}
    """
    named = dict(arrays)
    while named:
        prefix = next((p for p in _WRAPPERS if all(name.startswith(p) for name in named)), "")
        if not prefix:
            break
        named = {name.removeprefix(prefix): array for name, array in named.items()}
    return named


def _wrapper(content: Any, path: Path) -> str:
    """Returns the key under which a dict contains weights; "" if the dict is the weights."""
    if not isinstance(content, Mapping):
        return ""
    for key in _WEIGHTS:
        if isinstance(content.get(key), Mapping):
            return key
    filled = [key for key, value in content.items() if _has_arrays(value, _DEPTH)]
    others = {k for k in filled if k not in _MAYBE and not _TRAINING.search(str(k))}
    found = [key for key in _MAYBE if key in filled and isinstance(content[key], Mapping)]
    if found and not others and not (found[0] == "params" and "batch_stats" in content):
        return found[0]
    networks = {key: value for key, value in content.items() if torch_files.is_network(value)}
    if networks and not others:
        key, network = next(iter(networks.items()))
        raise torch_files.network_error(path, network, str(key))
    return ""


def _has_arrays(value: Any, depth: int) -> bool:
    if isinstance(value, Mapping):
        return depth > 0 and any(_has_arrays(inner, depth - 1) for inner in value.values())
    return _is_array(value)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | Array | np.ndarray)


def _collect(value: Any, name: str, into: dict[str, np.ndarray], depth: int) -> None:
    if isinstance(value, Array):
        value = value.array
    elif isinstance(value, Tensor):
        value = value.array()
    if isinstance(value, Mapping):
        if not depth:
            raise CheckpointError(f"dicts are nested more than {_DEPTH} deep at {name}")
        for key, inner in value.items():
            _collect(inner, f"{name}/{key}" if name else str(key), into, depth - 1)
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        into[name] = value
    elif isinstance(value, StandIn) and value.items:  # a dict of another class
        _collect(value.items, name, into, depth)


def fitted_names(theirs: Collection[str], wanted: Collection[str]) -> dict[str, str]:
    """Maps names of a file to names without prefixes, so that most of them are wanted.

    A prefix is what most names of a file begin with, such as `model.` or `net._orig_mod.`. If the
    wanted names begin with `backbone.` or `model.` and those of the file do not, as in a file of a
    backbone alone, it is added.

    Args:
      theirs: names in the file.
      wanted: names that the network needs. They may contain the wildcard `*`.

    Example:
      >>> fitted_names(["net.model.fc.weight"], ["fc.weight"])
      {'net.model.fc.weight': 'fc.weight'}
    """
    exact = {name for name in wanted if "*" not in name}
    globs = [re.compile(fnmatch.translate(name)) for name in wanted if "*" in name]

    def hits(names: Iterable[str]) -> int:
        return sum(n in exact or any(g.match(n) for g in globs) for n in names)

    best, most = {name: name for name in theirs}, hits(theirs)
    for added in ("", *(p for p in _MODULES if any(name.startswith(p) for name in exact))):
        for removed in _prefixes(theirs):
            names = {
                name: added + name.removeprefix(removed) if name.startswith(removed) else name
                for name in theirs
            }
            if hits(names.values()) > most and len(set(names.values())) == len(names):
                best, most = names, hits(names.values())
    return best


def _prefixes(names: Collection[str], limit: int = 6) -> list[str]:
    """Returns the dotted prefixes that at least half of the names have, from short to long."""
    found = [""]
    for _ in range(limit):
        start = found[-1]
        inside = [name[len(start) :].split(".")[0] for name in names if name.startswith(start)]
        counted = collections.Counter(inside).most_common(1)
        if not counted or 2 * counted[0][1] < len(names):
            break
        found.append(f"{start}{counted[0][0]}.")
    return found
