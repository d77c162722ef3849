"""Loads config files, applies overrides, and converts the result to a validated `Run`."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import importlib.util
import json
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxvideo.data.datasets.forms import FORMS
from jaxvideo.data.samplers import find_sampler
from jaxvideo.models import model_entry
from jaxvideo.precision import DTYPES
from jaxvideo.training import schema
from jaxvideo.training.losses import get_loss
from jaxvideo.training.optim import check_optim
from jaxvideo.training.schema import Run
from jaxvideo.training.values import describe_type, fits, frozen, parse
from jaxvideo.types import ConfigError, Lowering, Preprocessing

#: Directory of the recipes: `configs/` of the repository, also inside the wheel.
RECIPES = Path(__file__).parent.parent / "configs"

#: Keys that do not affect the results of a run. A resumed run may change them.
HARMLESS = (
    *("loading", "log_seconds", "checkpoint", "compilation_cache", "parallel", "profile"),
    "note",
)


def load_config(name: str, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Returns the values of a config file as nested dicts of JSON types.

    Args:
      name: a file `FILE.py`, or a recipe such as `i3d_rgb`; optionally followed by `:ARGUMENT`.
      overrides: strings `a.b=value`, see `override`.

    Raises:
      ConfigError: the config does not exist, raises an exception, or lacks an overridden key.

    Example:
      values = load_config("motion", ["optim.lr=0.1"])
      run = read_config(values)
    """
    path, argument = find_config(name)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    try:
        with _recipes_importable(path):
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            config = module.get_config(argument) if argument else module.get_config()
            values = json.loads(json.dumps(config.to_dict()))
    except Exception as error:  # a config file is arbitrary code
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ConfigError(f"config {name}: {kind}{error}") from error
    for change in overrides:
        override(values, change)
    return values


def find_config(name: str) -> tuple[Path, str]:
    """Returns the path and the argument of a config, `FILE.py[:ARGUMENT]` or `RECIPE[:ARGUMENT]`.

    Raises:
      ConfigError: there is no such file or recipe; the message suggests similar names.
    """
    file, _, argument = name.partition(":")
    path = Path(file)
    if path.suffix != ".py":
        path = RECIPES / f"{path.name}.py" if path.name == file else path
    if path.is_file():
        return path.resolve(), argument
    recipes = sorted(p.stem for p in RECIPES.glob("*.py") if p.stem != "common")
    near = difflib.get_close_matches(Path(file).stem, recipes, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(
        f"config {name}: {file} is neither a file (FILE.py) nor a recipe.{hint} "
        f"Recipes: {', '.join(recipes)}"
    )


@contextlib.contextmanager
def _recipes_importable(path: Path) -> Iterator[None]:
    """Context in which a config can import `configs.common` and modules in its directory."""
    package = types.ModuleType("configs")
    package.__path__ = [str(path.parent), str(RECIPES)]
    before = {name: sys.modules.pop(name) for name in [*sys.modules] if _is_recipe(name)}
    sys.modules["configs"] = package
    sys.path.insert(0, str(path.parent))
    try:
        yield
    finally:
        sys.path.remove(str(path.parent))
        for name in [name for name in sys.modules if _is_recipe(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def _is_recipe(module: str) -> bool:
    return module.partition(".")[0] == "configs"


def override(values: dict[str, Any], change: str) -> None:
    """Sets one key of a config from the command line.

    Args:
      values: nested dicts, changed in place.
      change: `a.b=value`. The value is read as the type of the key: numbers, `true`, `false`,
        `none`, strings without quotes, tuples as `(1, 2)` or `1,2`. Any key of `model` is allowed.

    Raises:
      ConfigError: the key is unknown (the message suggests a similar one), or the value has the
        wrong type.
    """
    key, equals, text = change.partition("=")
    if not equals:
        raise ConfigError(f"override {change!r}: must have the form a.b=value")
    keys = _leaves(schema.defaults())
    hint = schema.type_of(key)
    inside = [name for name in keys if name.startswith(f"{key}.")]
    if inside or hint == dict[str, str]:
        raise ConfigError(
            f"override {change!r}: {key} is a section; set {' or '.join(inside) or f'{key}.NAME'}"
        )
    if hint is None:
        near = difflib.get_close_matches(key, keys, n=1)
        meant = f". Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"override {change!r}: a config has no key {key!r}{meant}")
    value = parse(text, hint)
    optional = value is None and key.startswith("preprocessing.")
    if not optional and not fits(value, hint):
        raise ConfigError(f"override {change!r}: the value must be {describe_type(hint)}")
    *sections, name = key.split(".")
    section = values
    for part in sections:
        section = section.setdefault(part, {})
    section[name] = json.loads(json.dumps(value))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    return [
        name
        for key, value in values.items()
        for name in (
            _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [prefix + key]
        )
    ]


def read_config(config: Mapping[str, Any]) -> Run:
    """Validates a config and returns it as a `Run`.

    Args:
      config: nested dicts. Missing keys get their defaults.

    Raises:
      ConfigError: a key is unknown, or a value has the wrong type or is not allowed.
    """
    check_keys(config)
    values = {key: frozen(value) for key, value in config.items()}
    for name, section in schema.SECTIONS.items():
        given = {key: frozen(value) for key, value in config.get(name, {}).items()}
        if section is Preprocessing:
            entry = model_entry(config["model"]["name"])
            values[name] = expected_clips(entry.preprocessing, given)
        else:
            values[name] = section(**given)
    run = Run(**values)
    check_optim(run.optim)
    find_sampler(run.augment.sampler, run.preprocessing)  # raises if they do not fit
    get_loss(run.loss)
    sources = ("auto", "motion", "tfds", *FORMS)
    if run.data.source not in sources:
        raise ConfigError(
            f"config.data.source={run.data.source!r}: allowed are {', '.join(sources)}"
        )
    if run.model.get("dtype", "float32") not in DTYPES:
        raise ConfigError(
            f"config.model.dtype={run.model['dtype']!r}: allowed are {', '.join(DTYPES)}"
        )
    lowerings = [lowering.value for lowering in Lowering]
    if run.model.get("lowering", "auto") not in (*lowerings, *Lowering):
        raise ConfigError(
            f"config.model.lowering={run.model['lowering']!r}: allowed are {', '.join(lowerings)}"
        )
    return run


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns every key of a config with its value, as nested dicts of JSON types.

    Keys of `preprocessing` that the config leaves open have the network's values; `fps=0` is the
    frame rate of the video file. `init.weights` becomes `init.path`.

    Raises:
      ConfigError: see `read_config`.
    """
    values = json.loads(json.dumps(dataclasses.asdict(read_config(config))))
    values["model"] = {**schema.defaults()["model"], **values["model"]}
    values["preprocessing"]["fps"] = values["preprocessing"]["fps"] or 0.0
    values["init"]["weights"] = ""
    return values


def check_keys(values: Mapping[str, Any]) -> None:
    """Checks names and types of all keys of a config.

    Raises:
      ConfigError: a key is unknown (the message suggests a similar one), or a value has the wrong
        type.
    """
    _check_section(values, Run, "config")
    for name, section in schema.SECTIONS.items():
        given = values.get(name, {})
        if not isinstance(given, Mapping):
            raise ConfigError(f"config.{name}={given!r}: must be a dict of keys")
        _check_section(given, section, f"config.{name}", optional=section is Preprocessing)


def _check_section(
    given: Mapping[str, Any], cls: type, where: str, *, optional: bool = False
) -> None:
    hints = typing.get_type_hints(cls)
    fields = [field.name for field in dataclasses.fields(cls)]
    for key, value in given.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where} has no key {key!r}.{hint} Allowed are {', '.join(fields)}")
        if dataclasses.is_dataclass(hints[key]) or (optional and value is None):
            continue
        if not fits(value, hints[key]):
            raise ConfigError(f"{where}.{key}={value!r}: must be {describe_type(hints[key])}")


def expected_clips(preprocessing: Preprocessing, given: Mapping[str, Any]) -> Preprocessing:
    """Applies the section `preprocessing` of a config to the preprocessing of a network.

    Args:
      preprocessing: preprocessing of the network or its weights.
      given: the section. A key with None keeps the network's value. `fps=0` selects the frame rate
        of the video file.
    """
    changed = {key: value for key, value in given.items() if value is not None}
    if changed.get("fps") == 0:
        changed["fps"] = None
    return dataclasses.replace(preprocessing, **changed)


def default_workdir(config: Mapping[str, Any], name: str) -> Path:
    """Returns the default run directory `runs/NAME-MODEL-DIGEST`.

    The digest depends on all values that differ from their defaults. Hence the same command
    resumes its run, and another config gets another directory.
    """
    own = _changed(identity(config), schema.defaults())
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
    return Path("runs") / f"{name}-{config['model']['name']}-{digest[:6]}"


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a config that determines the results of a run."""
    kept = {key: value for key, value in config.items() if key not in HARMLESS}
    if "data" in kept:  # the hint is only text of an error message
        kept["data"] = {key: value for key, value in kept["data"].items() if key != "hint"}
    return kept


def _changed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        before = defaults.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            if inside := _changed(value, before):
                found[key] = inside
        elif frozen(value) != frozen(before):
            found[key] = value
    return found


def differences(one: Any, other: Any, where: str = "config") -> list[str]:
    """Returns one line per differing key, such as `config.optim.lr: 0.1 and 0.2`."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = [*one, *(k for k in other if k not in one)]
        return [
            line for k in keys for line in differences(one.get(k), other.get(k), f"{where}.{k}")
        ]
    return [] if one == other else [f"{where}: {one} and {other}"]
