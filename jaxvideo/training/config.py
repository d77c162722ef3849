"""Loads config files, applies overrides, and converts the result to a validated `Run`."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import fnmatch
import hashlib
import importlib.util
import json
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxvideo.data.datasets.forms import FORMS
from jaxvideo.names import did_you_mean, network_names
from jaxvideo.precision import DTYPES
from jaxvideo.training import schema
from jaxvideo.training.loggers import check_loggers
from jaxvideo.training.schema import Run
from jaxvideo.training.values import describe_type, fits, frozen, parse, type_of
from jaxvideo.types import ConfigError, Lowering, Preprocessing, UsageError

#: Directory of the recipes: `configs/` of the repository, also inside the wheel.
RECIPES = Path(__file__).parent.parent / "configs"

#: Keys that do not affect the results of a run. A resumed run may change them.
HARMLESS = (
    *("loading", "log_seconds", "checkpoint", "compilation_cache", "parallel", "profile"),
    *("loggers", "log_steps", "note"),
)

#: Keys by the names that other libraries give them, for suggestions.
OTHER_NAMES = {
    **dict.fromkeys(("learning_rate", "base_lr"), "optim.lr"),
    **dict.fromkeys(("optimizer", "optim.name", "optim.optimizer"), "optim.rule"),
    **dict.fromkeys(("scheduler", "lr_schedule", "lr_scheduler"), "optim.schedule"),
    **dict.fromkeys(("wd", "decay"), "optim.weight_decay"),
    **dict.fromkeys(("grad_clip", "clip_grad", "max_grad_norm"), "optim.clip_norm"),
    **dict.fromkeys(("warmup", "warmup_steps"), "optim.warmup_epochs"),
    **dict.fromkeys(("num_epochs", "max_epochs", "n_epochs"), "epochs"),
    **dict.fromkeys(("batch", "bs", "train_batch_size"), "batch_size"),
    **dict.fromkeys(("num_workers", "workers"), "loading.workers"),
    **dict.fromkeys(("dataset", "data_dir", "data_path", "data_root"), "data.root"),
    **dict.fromkeys(("pretrained", "checkpoint_path", "weights"), "init.weights"),
    **dict.fromkeys(("arch", "network", "net", "backbone"), "model.name"),
    **dict.fromkeys(("precision", "amp", "fp16", "bf16"), "model.dtype"),
    **dict.fromkeys(("num_frames", "clip_len", "clip_length"), "preprocessing.frames"),
    **dict.fromkeys(("crop_size", "input_size"), "preprocessing.crop"),
    **dict.fromkeys(("gradient_accumulation", "accumulate_steps"), "parallel.accumulate"),
}


def load_config(name: str, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Returns the values of a config file as nested dicts of JSON types.

    Args:
      name: a file `FILE.py`, or a recipe such as `i3d_rgb`; optionally followed by `:ARGUMENT`.
      overrides: strings `a.b=value`, see `override`.

    Raises:
      ConfigError: the config does not exist, raises an exception, or lacks an overridden key
        (`UsageError` if a name that the caller gave is wrong).

    Example:
      values = load_config("motion", ["optim.lr=0.1"])
      run = read_config(values)
    """
    path, argument = find_config(name)
    if argument and not _takes_argument(path):
        raise UsageError(f"config {name}: {path.name} has no variants; omit :{argument}")
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
        if argument and type(error) is ValueError:  # the recipes refuse unknown variants so
            near = _variants(argument, error)
            what = f"{path.stem} has no variant {argument!r}.{near}" if near else str(error)
            raise UsageError(f"config {name}: {what}") from error
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ConfigError(f"config {name}: {kind}{error}") from error
    for change in overrides:
        override(values, change)
    return values


def _variants(argument: str, error: ValueError) -> str:
    """Returns the question that suggests variants; the recipe's error lists names or patterns."""
    allowed = re.findall(r"[\w*]+", str(error).rpartition("allowed")[2])
    names = [n for n in network_names() if any(fnmatch.fnmatch(n, p) for p in allowed if "*" in p)]
    return did_you_mean(argument, [one for one in allowed if "*" not in one] + names)


def find_config(name: str) -> tuple[Path, str]:
    """Returns the path and the argument of a config, `FILE.py[:ARGUMENT]` or `RECIPE[:ARGUMENT]`.

    Raises:
      UsageError: there is no such file or recipe; the message suggests similar names.
    """
    file, _, argument = name.partition(":")
    path = Path(file)
    if path.suffix != ".py":
        path = RECIPES / f"{path.name}.py" if path.name == file else path
    if path.is_file():
        return path.resolve(), argument
    recipes = sorted(p.stem for p in RECIPES.glob("*.py") if p.stem != "common")
    if path.suffix == ".py" and path.parent.is_dir():
        beside = sorted(p.stem for p in path.parent.glob("*.py") if p.stem != "common")
        near = did_you_mean(path.stem, list(dict.fromkeys([*beside, *recipes])))
    else:
        near = did_you_mean(path.stem, recipes)
    raise UsageError(
        f"config {name}: {file} is neither a file (FILE.py) nor a recipe.{near} `jaxvideo config "
        "list` lists the recipes"
    )


def _takes_argument(path: Path) -> bool:
    """Returns True unless `get_config` of a config file certainly has no parameter."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return True  # importing it fails with a better message
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "get_config":
            given = node.args
            return bool(given.args or given.posonlyargs or given.vararg)
    return True


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
      UsageError: the key is unknown (the message suggests similar ones), or the value has the
        wrong type.
    """
    key, equals, text = change.partition("=")
    if not equals:
        raise UsageError(f"override {change!r}: must have the form a.b=value")
    keys = _leaves(schema.defaults())
    hint = type_of(key)
    inside = [name for name in keys if name.startswith(f"{key}.")]
    if inside or hint == dict[str, str]:
        raise UsageError(
            f"override {change!r}: {key} is a section; set {' or '.join(inside) or f'{key}.NAME'}"
        )
    if hint is None:
        raise UsageError(f"override {change!r}: a config has no key {key!r}.{suggest_keys(key)}")
    value = parse(text, hint)
    optional = value is None and key.startswith("preprocessing.")
    if not optional and not fits(value, hint):
        raise UsageError(f"override {change!r}: the value must be {describe_type(hint)}")
    *sections, name = key.split(".")
    section = values
    for part in sections:
        section = section.setdefault(part, {})
    section[name] = json.loads(json.dumps(value))


def suggest_keys(key: str, prefix: str = "", others: Iterable[str] = ()) -> str:
    """Returns the question that suggests keys for an unknown one; "" without suggestions.

    Args:
      key: the unknown key.
      prefix: precedes the keys, such as "--".
      others: other names to suggest, without prefix.
    """
    last = key.rpartition(".")[2]
    if other := OTHER_NAMES.get(key) or OTHER_NAMES.get(last):
        return f" Did you mean {prefix + other!r}?"
    names = [prefix + name for name in [*others, *_leaves(schema.defaults())]]
    return did_you_mean(key, names) or did_you_mean(last, names)


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
    check_config(config)
    from jaxvideo.data.samplers import find_sampler
    from jaxvideo.models import model_entry
    from jaxvideo.training.losses import get_loss
    from jaxvideo.training.optim import check_optim

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


def check_config(config: Mapping[str, Any]) -> None:
    """Checks whatever can be checked before JAX and the models are imported, which takes seconds.

    Args:
      config: nested dicts.

    Raises:
      ConfigError: see `read_config`, which calls this function first.
    """
    check_keys(config)
    for name, section in schema.SECTIONS.items():
        if section is not Preprocessing:
            section(**{key: frozen(value) for key, value in config.get(name, {}).items()})
    model, source = config.get("model", {}), config.get("data", {}).get("source", "csv")
    sources = ("auto", "motion", "tfds", *FORMS)
    if source not in sources:
        raise UsageError(
            f"config.data.source={source!r}: allowed are {', '.join(sources)}."
            f"{did_you_mean(str(source), sources)}"
        )
    if model.get("dtype", "float32") not in DTYPES:
        raise UsageError(f"config.model.dtype={model['dtype']!r}: allowed are {', '.join(DTYPES)}")
    lowerings = [lowering.value for lowering in Lowering]
    if model.get("lowering", "auto") not in (*lowerings, *Lowering):
        raise UsageError(
            f"config.model.lowering={model['lowering']!r}: allowed are {', '.join(lowerings)}"
        )
    check_loggers(config.get("loggers", ()))
    if "num_classes" in model:
        raise UsageError(
            f"config.model.num_classes={model['num_classes']!r}: cannot be set, because the number "
            "of classes is that of the data set; remove it"
        )


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
            raise UsageError(
                f"{where} has no key {key!r}.{did_you_mean(key, fields)} Allowed are "
                f"{', '.join(fields)}"
            )
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
