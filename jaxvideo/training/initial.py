"""Initial weights of a run from other runs, files or libraries (`config.init`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxvideo.models import create_model, differences, head_scopes, in_head, model_entry
from jaxvideo.pretrained import SOURCES, adopt, fresh_values, named, read_weights
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


class Initial(NamedTuple):
    """Initial weights of a network.

    Attributes:
      variables: `{"params": ..., "batch_stats": ...}`.
      model: `name` and arguments of `create_model`, without `num_classes`.
      preprocessing: preprocessing of the weights, overridden by the config.
      notes: warnings.
      fresh: classes that are not in the weights; their part of the classifier is random.
    """

    variables: dict[str, Any]
    model: dict[str, Any]
    preprocessing: Preprocessing
    notes: list[str]
    fresh: list[str]


def first_weights(
    run: Run,
    given: Mapping[str, Any],
    recorded: Mapping[str, Any] | None,
    classes: Sequence[str],
) -> tuple[Run, dict[str, Any] | None]:
    """Reads the initial weights of a run.

    Args:
      run: the run.
      given: section `preprocessing` of the config. Its keys override the weights' preprocessing.
      recorded: description of the checkpoint from which the run resumes; None for a new run.
      classes: class names of the data.

    Returns:
      The run with the model arguments and the preprocessing that the weights need, and the
      variables. The variables are None for random weights and if a checkpoint exists.

    Raises:
      JaxvideoError: the weights cannot be read, or do not fit.
    """
    if not run.init.paths:
        return run, None
    if recorded:
        model = {key: value for key, value in recorded["model"].items() if key != "num_classes"}
        clips = Preprocessing(**recorded["preprocessing"])
        return dataclasses.replace(run, model=model, preprocessing=clips), None
    found = initial_weights(run.init, run.model, classes, given, run.seed)
    where = ", ".join(run.init.paths)
    if found.fresh and not run.epochs:
        raise CheckpointError(
            f"config.epochs=0.0 tests the weights of {where}, which lack {len(found.fresh)} of the "
            f"{len(classes)} classes of the data: {_listed(found.fresh)}"
        )
    LOG.info(f"initial weights: {where}{f', step {run.init.step}' * bool(run.init.step)}")
    for note in found.notes:
        LOG.warning(note)
    return dataclasses.replace(run, model=found.model, preprocessing=found.preprocessing), (
        found.variables
    )


def initial_weights(
    init: Init,
    model: Mapping[str, Any],
    classes: Sequence[str],
    given: Mapping[str, Any],
    seed: int,
) -> Initial:
    """Reads the weights of `init` for a network.

    A classifier that `init.leave_out` does not match is aligned with `classes` by name. Classes
    that the weights do not have start from random values. If the weights do not name their
    classes, the number of classes must agree, and the order is kept.

    Args:
      init: section `init` of a config.
      model: `name` and arguments of `create_model`, without `num_classes`.
      classes: class names of the data.
      given: section `preprocessing` of a config. Keys with None follow the weights.
      seed: random seed of parameters that are not in the weights.

    Raises:
      JaxvideoError: the weights cannot be read, or do not fit; the message lists the differences.
    """
    arguments = dict(model)
    name = arguments.pop("name")
    init = _downloaded(init, name)
    own = expected_clips(model_entry(name).preprocessing, given)
    shared: dict[str, Any] = {"leave_out": init.leave_out, "seed": seed}
    if init.parts:
        shared |= {"frames": own.frames, "crop": own.crop, "num_classes": len(classes)}
        variables = adopt(_joined(init.parts), ", ".join(init.paths), name, **shared, **arguments)
        return Initial(variables, {"name": name, **arguments}, own, [], [])
    read = _from_library if _is_library(init) else _from_ours
    return read(init, name, arguments, classes, given, own, shared)


def _is_library(init: Init) -> bool:
    """Returns True for a whole file or package, which `read_weights` reads."""
    return not Path(init.path).is_dir() and not init.inflate and not init.scope


def _from_library(init, name, arguments, classes, given, own, shared) -> Initial:
    """Reads another library's file or package, or a converted file."""
    del own
    if init.step:
        raise ConfigError(f"init.step={init.step!r}: {init.path} is not a run directory")
    where = (None, init.path) if init.path in SOURCES else (init.path, init.source or None)
    shared |= {"frames": given.get("frames") or 0, "crop": given.get("crop") or 0}
    count = len(classes) if _new_head(init, name, arguments) else None
    weights = read_weights(name, *where, num_classes=count, **shared, **arguments)
    if count is None and _unnamed(weights.classes) and len(weights.classes) != len(classes):
        # Raises, unless `leave_out` has the file's own name of the classifier.
        weights = read_weights(name, *where, num_classes=len(classes), **shared, **arguments)
    model = {**weights.model, "name": name, **arguments}
    del model["num_classes"]
    clips = expected_clips(weights.preprocessing, given)
    have = None if count else weights.classes
    aligned, notes, fresh = _aligned(weights.variables, model, clips, have, classes, shared["seed"])
    return Initial(
        aligned, model, clips, [*_differences(weights.preprocessing, clips), *notes], fresh
    )


def _from_ours(init, name, arguments, classes, given, own, shared) -> Initial:
    """Reads a run directory, or a part or a 2-D network of a converted file."""
    if Path(init.path).is_dir() and init.source:
        raise ConfigError(
            f"init.source={init.source!r}: {init.path} is a run directory of jaxvideo; "
            "unset init.source"
        )
    flat, described = _read(init.path, init.step)
    if init.scope:
        flat, described = _part(flat, init.scope, init.path), None
    clips, notes, have = own, [], None
    count = len(classes)
    if described:
        expects = Preprocessing(**described["preprocessing"])
        if init.inflate and expects.modality == own.modality:
            pixels = {field: getattr(expects, field) for field in _PIXELS}
            expects = dataclasses.replace(model_entry(name).preprocessing, **pixels)
        if expects.modality == own.modality:
            clips = expected_clips(expects, given)
            notes = _differences(expects, clips)
        theirs = described["model"]
        inherited = _FORMS if init.inflate else [k for k in theirs if k not in _CALLERS]
        arguments = {**{k: theirs[k] for k in inherited if k in theirs}, **arguments}
        _shift_variances(flat, create_model(**theirs), create_model(name, **arguments))
        if not init.inflate:
            _check_same_network(init.path, theirs, {"name": name, **arguments})
        if not _new_head(init, name, arguments):
            have = described.get("classes")
            count = len(have) if have and not _unnamed(have) else count
    shared |= {"frames": clips.frames, "crop": clips.crop, "num_classes": count}
    variables = adopt(flat, init.path, name, **shared, inflate_how=init.inflate, **arguments)
    model = {"name": name, **arguments}
    aligned, more, fresh = _aligned(variables, model, clips, have, classes, shared["seed"])
    return Initial(aligned, model, clips, [*notes, *more], fresh)


def _downloaded(init: Init, name: str) -> Init:
    """Replaces weights by name (`zoo:TAG` or `zoo:NETWORK/TAG`) by their files in the cache."""
    if init.path.startswith(named.PREFIX) and init.source:
        raise ConfigError(f"init.source={init.source!r}: unset it, {init.path} needs none")
    parts = {scope: named.cached_path(name, path) for scope, path in init.parts.items()}
    return dataclasses.replace(
        init, path=named.cached_path(name, init.path), weights="", parts=parts
    )


def _new_head(init: Init, name: str, arguments: Mapping[str, Any]) -> bool:
    """Returns True if `leave_out` matches the kernels of the classifier."""
    heads = head_scopes(create_model(name, **arguments))
    return any(fnmatchcase(f"{scope}/kernel", p) for scope in heads for p in init.leave_out)


def _unnamed(classes: Sequence[str]) -> bool:
    return all(name == f"class {i}" for i, name in enumerate(classes))


def _aligned(
    variables: dict[str, Any],
    model: Mapping[str, Any],
    clips: Preprocessing,
    theirs: Sequence[str] | None,
    ours: Sequence[str],
    seed: int,
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Aligns the classifier with other classes by name.

    Args:
      variables: variables with the weights' classifier.
      model: `name` and arguments of the network.
      clips: its clips.
      theirs: class names of the weights; None for a new classifier.
      ours: class names of the data.
      seed: seed of classes that the weights do not have.

    Returns:
      The variables, notes, and the classes that the weights do not have.
    """
    if theirs is None or list(theirs) == list(ours):
        return variables, [], []
    if _unnamed(theirs):
        note = (
            "the initial weights do not name their classes; their classifier is used as it is, "
            f"for {_listed(ours)} in this order"
        )
        return variables, [note], []
    place = {name: index for index, name in enumerate(theirs)}
    known = [index for index, name in enumerate(ours) if name in place]
    fresh = [name for name in ours if name not in place]
    network = create_model(**model, num_classes=len(ours))
    flat = tree.flatten(variables)
    heads = {name for name in flat if in_head(network, name)}
    random = fresh_values(network, clips.shape, seed, heads) if fresh else {}
    for name in heads:
        before = np.asarray(flat[name])
        after = np.zeros((*before.shape[:-1], len(ours)), before.dtype)
        if fresh:
            after[:] = random[name]
        after[..., known] = before[..., [place[ours[index]] for index in known]]
        flat[name] = jnp.asarray(after)
    notes = ["the classifier of the initial weights is put into the order of the data's classes"]
    if fresh:
        notes = [
            f"{len(fresh)} of {len(ours)} classes are not in the initial weights and start from "
            f"random values: {_listed(fresh)}"
        ]
    return tree.unflatten(flat), notes, fresh


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


def _read(path: str, step: str = "") -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Returns arrays by jaxvideo's names, and the description; None for foreign files."""
    if Path(path).is_dir():
        wanted = int(step) if step.isdecimal() else step or None
        found, described = checkpoint.load_variables(path, wanted)
        flat = tree.flatten(found)
    elif step:
        raise ConfigError(f"init.step={step!r}: {path} is not a run directory")
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
