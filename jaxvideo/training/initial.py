"""The first weights of a run, where they are not fresh ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxvideo.models import create_model, differences
from jaxvideo.pretrained import SOURCES, adopt, read_weights
from jaxvideo.training.checkpoint import load_variables
from jaxvideo.training.config import Init
from jaxvideo.types import CheckpointError, ConfigError, Preprocessing
from jaxvideo.weights import files, tree

# What networks' weights depend on beside the name of the network.
_FORMS = {argument for source in SOURCES.values() for argument in source.arguments}


def initial_weights(
    init: Init, model: Mapping[str, Any], num_classes: int, preprocessing: Preprocessing, seed: int
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """What `init` names, for a model and its clips.

    Args:
      model: `name` and arguments of `create_model`, without `num_classes`.

    Returns:
      Variables; `model` with the arguments that these weights need; and a line for every way in
      which the clips they were trained on differ from these.

    Raises:
      JaxvideoError: they cannot be read, or do not fit: the difference is listed.
    """
    arguments = dict(model)
    name = arguments.pop("name")
    shared: dict[str, Any] = {
        "num_classes": num_classes,
        "leave_out": init.leave_out,
        "seed": seed,
        "frames": preprocessing.frames,
        "crop": preprocessing.crop,
    }
    if init.parts:
        flat = _joined(init.parts)
        variables = adopt(flat, ", ".join(init.paths), name, **shared, **arguments)
        return variables, {"name": name, **arguments}, []
    if not Path(init.path).is_dir() and not init.inflate and not init.scope:
        where = (None, init.path) if init.path in SOURCES else (init.path, init.source or None)
        weights = read_weights(name, *where, **shared, **arguments)
        notes = _differences(dataclasses.asdict(weights.preprocessing), preprocessing)
        return weights.variables, {**weights.model, **model}, notes
    if Path(init.path).is_dir() and init.source:
        raise ConfigError(f"init.source={init.source!r}: {init.path} is a run's folder, of ours")
    flat, described = _read(init.path)
    theirs = described["model"] if described and not init.scope else None
    if init.scope:
        flat = _part(flat, init.scope, init.path)
    if theirs:
        arguments = {**{k: v for k, v in theirs.items() if k in _FORMS}, **arguments}
        _shift_variances(flat, create_model(**theirs), create_model(name, **arguments))
        if not init.inflate:
            _check_same_network(init.path, theirs, {"name": name, **arguments})
    variables = adopt(flat, init.path, name, **shared, inflate_how=init.inflate, **arguments)
    given = described["preprocessing"] if described else {}
    return variables, {"name": name, **arguments}, _differences(given, preprocessing)


def _read(path: str) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Arrays by our names, of a run or a file of ours; and what describes them."""
    if Path(path).is_dir():
        found, described = load_variables(path)
        flat = tree.flatten(found)
    else:
        flat, described = files.read_arrays(path), files.read_description(path)
    return {name: np.asarray(array) for name, array in flat.items()}, described


def _part(flat: Mapping[str, np.ndarray], scope: str, path: str) -> dict[str, np.ndarray]:
    """The arrays of one scope under the names they have without it: the inverse of `_joined`."""
    found = {}
    for name, array in flat.items():
        collection, _, rest = name.partition("/")
        if rest.startswith(f"{scope}/"):
            found[f"{collection}/{rest.removeprefix(f'{scope}/')}"] = array
    if not found:
        scopes = sorted({name.split("/")[1] for name in flat})
        raise CheckpointError(f"{path} has no scope {scope!r}: {', '.join(scopes)}")
    return found


def _joined(parts: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The arrays of several networks, each under the scope it has in the one they make up."""
    flat = {}
    for scope, path in parts.items():
        for name, array in _read(path)[0].items():
            collection, _, rest = name.partition("/")
            flat[f"{collection}/{scope}/{rest}"] = array
    return flat


def _shift_variances(flat: dict[str, np.ndarray], theirs, ours) -> None:
    """Another epsilon with these variances gives the same numbers."""
    shift = getattr(theirs, "bn_epsilon", 0.0) - getattr(ours, "bn_epsilon", 0.0)
    for name in flat:
        if shift and name.endswith("/var"):
            flat[name] = flat[name] + np.float32(shift)


def _check_same_network(path: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Weights may fit a network that is another one all the same (P3D's wirings, C3D's pools)."""
    different = differences(create_model(**theirs), create_model(**ours))
    if different:
        raise CheckpointError(
            f"{path} holds weights of another network: {'; '.join(different)} here"
        )


def _differences(theirs: Mapping[str, Any], ours: Preprocessing) -> list[str]:
    """Length, stride and crop may change in fine-tuning; pixel values had better not."""
    if not theirs:
        return []
    given = Preprocessing(**theirs)
    return [
        f"the first weights expect preprocessing.{field}={getattr(given, field)}, "
        f"this run has {getattr(ours, field)}"
        for field in ("range", "mean", "std", "order")
        if getattr(given, field) != getattr(ours, field)
    ]
