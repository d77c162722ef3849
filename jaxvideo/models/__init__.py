"""Networks by name: `list_models`, `create_model`, `register`."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.models import c3d, csn, densenet3d, p3d, resnet3d, slowfast, x3d
from jaxvideo.models.contract import (
    check_fields,
    check_outputs,
    check_width,
    differences,
    head_scopes,
    in_head,
)
from jaxvideo.models.registry import MODELS, Entry
from jaxvideo.names import did_you_mean
from jaxvideo.types import ConfigError, Preprocessing, UsageError

__all__ = [
    "MODELS",
    "Entry",
    "arguments_for",
    "create_model",
    "differences",
    "head_scopes",
    "in_head",
    "list_models",
    "model_entry",
    "register",
    "upgraded_arguments",
]


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names that `create_model` accepts, sorted.

    Args:
      pattern: only names that match it, in the syntax of `fnmatch`.

    Example:
      list_models("*slowfast*")
    """
    return sorted(fnmatch.filter(MODELS, pattern))


def model_entry(name: str) -> Entry:
    """Returns the row of the registry for a name.

    Raises:
      UsageError: there is no such network; the message lists the nearest names.
    """
    if name not in MODELS:
        raise UsageError(
            f"no model {name!r}.{did_you_mean(name, MODELS)} `jaxvideo models` and "
            f"jaxvideo.list_models() list all {len(MODELS)}. A network of your own must be added "
            "first with jaxvideo.register"
        )
    return MODELS[name]


def create_model(name: str, **arguments: Any) -> nn.Module:
    """Creates the linen module of a network; it satisfies `types.Model`.

    Args:
      name: one of `list_models()`.
      **arguments: fields of the module, e.g. `num_classes`, `width`, `dtype`, `bn_groups`.

    Returns:
      A module whose `apply(variables, clip, train=False)` returns `(logits [N, num_classes],
      endpoints)` for a floating-point clip `[N, T, H, W, C]`.

    Raises:
      ConfigError: the name or an argument does not exist.

    Example:
      model = create_model("r2plus1d_18", num_classes=10, width=0.125)
    """
    entry = model_entry(name)
    allowed = {
        f.name for f in dataclasses.fields(entry.build) if f.name not in ("parent", "name")
    } - set(entry.arguments)
    for argument in arguments:
        if argument not in allowed:
            raise UsageError(
                f"model {name!r} has no argument {argument!r}."
                f"{did_you_mean(argument, sorted(allowed))} All: {sorted(allowed)}"
            )
    check_width(arguments.get("width", 1.0))
    # JSON has lists; modules are hashed.
    given = {argument: _tuples(value) for argument, value in arguments.items()}
    return entry.build(**entry.arguments, **{**entry.defaults, **given})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def register(
    name: str,
    build: type[nn.Module],
    *,
    preprocessing: Preprocessing,
    source: str = "",
    arguments: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Adds a network to the registry of this process.

    Afterwards `create_model`, `load`, `list_models` and training (`config.model.name`) know it.
    A program that trains or loads it must call `register` first, e.g. in its config file.

    Args:
      name: a new name.
      build: a linen class that satisfies `types.Model`.
      preprocessing: the clips that the network expects.
      source: where it is described, e.g. "arXiv 1412.0767".
      arguments: fields that define the network; `create_model` does not accept them.
      defaults: values of other fields if `create_model` does not get them.

    Raises:
      ConfigError: the name is taken, or `build` does not satisfy `types.Model`.

    Example:
      jaxvideo.register("my_net", MyNet, preprocessing=Preprocessing(frames=16))
      model = jaxvideo.create_model("my_net", num_classes=10)
    """
    from jaxvideo.models.summary import trace

    if not name or name in MODELS:
        problem = "is taken by another network" if name else "is empty"
        raise ConfigError(f"register: the name {name!r} {problem}; choose another one")
    check_fields(build, name)
    entry = Entry(build, dict(arguments or {}), preprocessing, source, dict(defaults or {}))
    fields = {field.name: field for field in dataclasses.fields(build)}
    given: dict[str, Any] = {**entry.defaults, **entry.arguments}
    if unknown := given.keys() - fields.keys():
        raise ConfigError(
            f"model {name!r}: {build.__name__} has no fields {', '.join(sorted(unknown))}"
        )
    no = dataclasses.MISSING
    empty = [key for key, f in fields.items() if f.default is no and f.default_factory is no]
    if missing := set(empty) - {*given, "num_classes"}:
        raise ConfigError(
            f"model {name!r}: {build.__name__} has no defaults for {', '.join(sorted(missing))}; "
            "pass them as `arguments` or `defaults`"
        )
    classes = given.pop("num_classes", 7)
    model = build(**given, num_classes=classes)
    batch = 2
    traced = trace(model, jax.ShapeDtypeStruct((batch, *preprocessing.shape), jnp.float32))
    check_outputs(model, name, traced, batch)
    MODELS[name] = entry


def upgraded_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Converts arguments of `create_model` that version 0.1 recorded in checkpoints and files.

    There `width` was the number of channels of the stem in some families, and a factor of
    X2D's channels in X3D.
    """
    entry, found = model_entry(name), dict(arguments)
    if "width" not in found:
        return found
    if issubclass(entry.build, densenet3d.DenseNet3D):
        found["width"] /= 2 * entry.defaults.get("growth", densenet3d.DenseNet3D.growth)
    elif entry.build is x3d.X3D:
        found["width"] /= entry.arguments.get("widen", x3d.X3D.widen)
    elif entry.build in (c3d.C3D, csn.CSN, p3d.P3D, resnet3d.ResNet3D, slowfast.SlowFast):
        found["width"] /= 64
    return found


def arguments_for(name: str, arguments: Mapping[str, Any], *, exclusive: bool) -> dict[str, Any]:
    """Returns the arguments of a network for exclusive (softmax) or multi-label (sigmoid) classes.

    At test, the heads of SlowFast, X3D and CSN average the predictions of several positions.
    These are softmaxes for exclusive classes and sigmoids otherwise.
    """
    before, after = ("sigmoid", "softmax") if exclusive else ("softmax", "sigmoid")
    if getattr(create_model(name, **arguments), "positions", None) != before:
        return dict(arguments)
    return {**arguments, "positions": after}
