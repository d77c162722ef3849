"""The first weights of a run, where they are not fresh ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxvideo.models import create_model, differences, model_entry
from jaxvideo.pretrained import SOURCES, adopt, read_weights
from jaxvideo.progress import LOG
from jaxvideo.training import checkpoint
from jaxvideo.training.config import expected_clips
from jaxvideo.training.schema import Init, Run
from jaxvideo.types import CheckpointError, ConfigError, Preprocessing
from jaxvideo.weights import files, tree

# What networks' weights depend on beside the name of the network.
_FORMS = {"width", *(argument for source in SOURCES.values() for argument in source.arguments)}

# Arguments of a network that its weights do not decide.
_CALLERS = ("name", "num_classes", "dtype", "lowering", "dropout_rate", "bn_groups", "bn_momentum")


# Fields of `Preprocessing` that say what the values of pixels mean.
_PIXELS = ("range", "mean", "std", "order")


def check_paths(init: Init) -> None:
    """Checks that everything `init` names exists.

    Raises:
      ConfigError: the first path that does not.
    """
    for path in init.paths:
        if not Path(path).exists() and path not in SOURCES:
            raise ConfigError(
                f"config.init: {path!r} does not exist. Pass --config.init.weights=FILE, or "
                "--config.init.path= to train from random weights"
            )


def first_weights(
    run: Run, given: Mapping[str, Any], workdir: Path, num_classes: int
) -> tuple[Run, dict[str, Any] | None]:
    """Returns the run with the model arguments and the preprocessing of its first weights.

    Args:
      given: section `preprocessing` of the config. Its keys take precedence over the weights'.

    Returns:
      The run, and the variables. These are None for random weights, and if the run resumes from
      a checkpoint.

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
    LOG.info(f"first weights: {', '.join(run.init.paths)}")
    for note in notes:
        LOG.warning(note)
    model.pop("num_classes", None)
    return dataclasses.replace(run, model=model, preprocessing=clips), variables


def initial_weights(
    init: Init, model: Mapping[str, Any], num_classes: int, given: Mapping[str, Any], seed: int
) -> tuple[dict[str, Any], dict[str, Any], Preprocessing, list[str]]:
    """Reads the weights of `init` for a network.

    Args:
      model: `name` and arguments of `create_model`, without `num_classes`.
      given: section `preprocessing` of a config; None: as the weights expect.
      seed: of parameters that the weights do not have.

    Returns:
      The variables, `model` with the arguments that these weights need, the preprocessing that
      they expect with the keys of `given` in their place, and one warning for each key of `given`
      that gives pixels another meaning than the weights expect.

    Raises:
      JaxvideoError: the weights cannot be read, or do not fit; the message lists the difference.
    """
    arguments = dict(model)
    name = arguments.pop("name")
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


def _read(path: str) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Arrays by our names, of a run or a file of ours; and what describes them."""
    if Path(path).is_dir():
        found, described = checkpoint.load_variables(path)
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


def _differences(expected: Preprocessing, ours: Preprocessing) -> list[str]:
    return [
        f"the first weights expect preprocessing.{field}={getattr(expected, field)}; "
        f"the config sets {getattr(ours, field)}"
        for field in _PIXELS
        if getattr(expected, field) != getattr(ours, field)
    ]
