"""Initial weights of a run from other runs, files or libraries (`config.init`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxvideo.models import create_model, differences, model_entry
from jaxvideo.pretrained import SOURCES, adopt, named, read_weights
from jaxvideo.progress import LOG
from jaxvideo.training import checkpoint
from jaxvideo.training.config import expected_clips
from jaxvideo.training.schema import Init, Run
from jaxvideo.types import CheckpointError, ConfigError, Preprocessing
from jaxvideo.weights import files, tree

# Model arguments that weights depend on, in addition to the name of the network.
_FORMS = {"width", *(argument for source in SOURCES.values() for argument in source.arguments)}

# Model arguments that weights do not determine.
_CALLERS = ("name", "num_classes", "dtype", "lowering", "dropout_rate", "bn_groups", "bn_momentum")

# Fields of `Preprocessing` that define the meaning of pixel values.
_PIXELS = ("range", "mean", "std", "order")


def check_paths(init: Init) -> None:
    """Checks that everything `init` names exists.

    Raises:
      ConfigError: a path does not exist; the message names the first one.
    """
    for path in init.paths:
        if not Path(path).exists() and path not in SOURCES and not path.startswith(named.PREFIX):
            raise ConfigError(
                f"config.init: {path!r} does not exist. Pass --config.init.weights=FILE or "
                "=zoo:TAG, or --config.init.path= to train from random weights"
            )


def first_weights(
    run: Run, given: Mapping[str, Any], workdir: Path, num_classes: int
) -> tuple[Run, dict[str, Any] | None]:
    """Reads the initial weights of a run.

    Args:
      run: the run.
      given: section `preprocessing` of the config. Its keys override the weights' preprocessing.
      workdir: run directory.
      num_classes: number of classes.

    Returns:
      The run with the model arguments and the preprocessing that the weights need, and the
      variables. The variables are None for random weights and if a checkpoint exists.

    Raises:
      JaxvideoError: the weights cannot be read, or do not fit.
    """
    if not run.init.paths:
        return run, None
    with checkpoint.open_checkpoints(workdir, keep=None) as checkpoints:
        described = checkpoint.describe(checkpoints)
    if described:
        model = {key: value for key, value in described["model"].items() if key != "num_classes"}
        clips = Preprocessing(**described["preprocessing"])
        return dataclasses.replace(run, model=model, preprocessing=clips), None
    variables, model, clips, notes = initial_weights(
        run.init, run.model, num_classes, given, run.seed
    )
    LOG.info(f"initial weights: {', '.join(run.init.paths)}")
    for note in notes:
        LOG.warning(note)
    model.pop("num_classes", None)
    return dataclasses.replace(run, model=model, preprocessing=clips), variables


def initial_weights(
    init: Init, model: Mapping[str, Any], num_classes: int, given: Mapping[str, Any], seed: int
) -> tuple[dict[str, Any], dict[str, Any], Preprocessing, list[str]]:
    """Reads the weights of `init` for a network.

    Args:
      init: section `init` of a config.
      model: `name` and arguments of `create_model`, without `num_classes`.
      num_classes: number of classes.
      given: section `preprocessing` of a config. Keys with None follow the weights.
      seed: random seed of parameters that are not in the weights.

    Returns:
      The variables; `model` with the arguments that the weights need; the weights' preprocessing
      overridden by `given`; and one warning for each key of `given` that changes the meaning of
      pixel values.

    Raises:
      JaxvideoError: the weights cannot be read, or do not fit; the message lists the differences.
    """
    arguments = dict(model)
    name = arguments.pop("name")
    init = _downloaded(init, name)
    own = expected_clips(model_entry(name).preprocessing, given)
    shared: dict[str, Any] = {"num_classes": num_classes, "leave_out": init.leave_out, "seed": seed}
    if init.parts:
        shared |= {"frames": own.frames, "crop": own.crop}
        variables = adopt(_joined(init.parts), ", ".join(init.paths), name, **shared, **arguments)
        return variables, {"name": name, **arguments}, own, []
    if not Path(init.path).is_dir() and not init.inflate and not init.scope:
        where = (None, init.path) if init.path in SOURCES else (init.path, init.source or None)
        shared |= {"frames": given.get("frames") or 0, "crop": given.get("crop") or 0}
        weights = read_weights(name, *where, **shared, **arguments)
        clips = expected_clips(weights.preprocessing, given)
        notes = _differences(weights.preprocessing, clips)
        return weights.variables, {**weights.model, **model}, clips, notes
    if Path(init.path).is_dir() and init.source:
        raise ConfigError(
            f"init.source={init.source!r}: {init.path} is a run directory of jaxvideo; "
            "unset init.source"
        )
    flat, described = _read(init.path)
    clips, notes = own, []
    if described and not init.scope:
        expects = Preprocessing(**described["preprocessing"])
        if init.inflate and expects.modality == own.modality:
            pixels = {field: getattr(expects, field) for field in _PIXELS}
            expects = dataclasses.replace(model_entry(name).preprocessing, **pixels)
        if expects.modality == own.modality:
            clips = expected_clips(expects, given)
            notes = _differences(expects, clips)
    theirs = described["model"] if described and not init.scope else None
    if init.scope:
        flat = _part(flat, init.scope, init.path)
    if theirs:
        inherited = _FORMS if init.inflate else [k for k in theirs if k not in _CALLERS]
        arguments = {**{k: theirs[k] for k in inherited if k in theirs}, **arguments}
        _shift_variances(flat, create_model(**theirs), create_model(name, **arguments))
        if not init.inflate:
            _check_same_network(init.path, theirs, {"name": name, **arguments})
    shared |= {"frames": clips.frames, "crop": clips.crop}
    variables = adopt(flat, init.path, name, **shared, inflate_how=init.inflate, **arguments)
    return variables, {"name": name, **arguments}, clips, notes


def _downloaded(init: Init, name: str) -> Init:
    """Replaces weights by name (`zoo:TAG` or `zoo:NETWORK/TAG`) by their files in the cache."""
    if init.path.startswith(named.PREFIX) and init.source:
        raise ConfigError(f"init.source={init.source!r}: unset it, {init.path} needs none")
    parts = {scope: named.cached_path(name, path) for scope, path in init.parts.items()}
    return dataclasses.replace(
        init, path=named.cached_path(name, init.path), weights="", parts=parts
    )


def _read(path: str) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Returns arrays by jaxvideo's names, and the description; None for foreign files."""
    if Path(path).is_dir():
        found, described = checkpoint.load_variables(path)
        flat = tree.flatten(found)
    else:
        flat, described = files.read_arrays(path), files.read_description(path)
    return {name: np.asarray(array) for name, array in flat.items()}, described


def _part(flat: Mapping[str, np.ndarray], scope: str, path: str) -> dict[str, np.ndarray]:
    """Returns the arrays of one scope, without its prefix: the inverse of `_joined`."""
    found = {}
    for name, array in flat.items():
        collection, _, rest = name.partition("/")
        if rest.startswith(f"{scope}/"):
            found[f"{collection}/{rest.removeprefix(f'{scope}/')}"] = array
    if not found:
        scopes = sorted({name.split("/")[1] for name in flat})
        raise CheckpointError(f"{path} has no scope {scope!r}; its scopes are {', '.join(scopes)}")
    return found


def _joined(parts: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Joins the arrays of several networks; each gets its scope as a prefix."""
    flat = {}
    for scope, path in parts.items():
        for name, array in _read(path)[0].items():
            collection, _, rest = name.partition("/")
            flat[f"{collection}/{scope}/{rest}"] = array
    return flat


def _shift_variances(flat: dict[str, np.ndarray], theirs, ours) -> None:
    """Shifts the running variances to compensate for a different BatchNorm epsilon."""
    shift = getattr(theirs, "bn_epsilon", 0.0) - getattr(ours, "bn_epsilon", 0.0)
    for name in flat:
        if shift and name.endswith("/var"):
            flat[name] = flat[name] + np.float32(shift)


def _check_same_network(path: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raises if the networks differ although their parameters have equal shapes.

    Examples are P3D's wirings and C3D's pools.
    """
    different = differences(create_model(**theirs), create_model(**ours))
    if different:
        raise CheckpointError(
            f"{path} has weights of another network. In the file and in config.model: "
            f"{'; '.join(different)}"
        )


def _differences(expected: Preprocessing, ours: Preprocessing) -> list[str]:
    return [
        f"the initial weights expect preprocessing.{field}={getattr(expected, field)}; "
        f"the config sets {getattr(ours, field)}"
        for field in _PIXELS
        if getattr(expected, field) != getattr(ours, field)
    ]
