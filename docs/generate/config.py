"""The reference of the config, from the dataclasses in `jaxvideo/training/schema.py`."""

import dataclasses
import inspect

from generate.text import code, entries, escaped, linked, table
from jaxvideo.training import schema

HEAD = """# Config reference

Every key of a config with its type and its default, generated from
`jaxvideo/training/schema.py`. [Training](../training.md) explains how configs are written and
overridden: `--optim.lr=0.05` for `jaxvideo train`, `--config.optim.lr=0.05` for `train.py`.
`jaxvideo config show RECIPE` prints these keys with the values of a recipe.
"""
SECTIONS = {
    "init": "First weights of a run, see [First weights](../training.md#first-weights).",
    "preprocessing": "Clips, see [Sampling](../data.md#sampling). Here a default is that of the "
    "class. In a config every key defaults to None: as the weights of `init` have it, or else the "
    "network.",
    "data": "The data set, see [Forms](../data.md#forms).",
    "augment": "Random crops and augmentation, see [Augmentation](../data.md#augmentation).",
    "optim": "Optimizer and schedule, see "
    "[Losses, optimizers, schedules](../training.md#losses-optimizers-schedules).",
    "protocol": "The test protocol, see [Protocol](../evaluation.md#protocol).",
    "loading": "Loading; these keys change no numbers.",
    "checkpoint": "Checkpoints, see [Resuming](../training.md#resuming).",
    "parallel": "Several devices, see [Split memory and work](../pods.md#split-memory-and-work).",
}


def described(cls: type) -> dict[str, str]:
    """Returns the description of every field of a dataclass, also of inherited ones."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            found |= entries(inspect.getdoc(base) or "")
    missing = {field.name for field in dataclasses.fields(cls)} - set(found)
    if missing:
        raise ValueError(f"{cls.__name__}: the docstring does not describe {sorted(missing)}")
    return found


def _rows(cls: type, names):
    texts = described(cls)
    for field in dataclasses.fields(cls):
        if field.name not in names:
            continue
        default = field.default
        if default is dataclasses.MISSING:
            factory = field.default_factory
            default = None if factory is dataclasses.MISSING else factory()
        yield code(field.name), code(field.type), code(repr(default)), _text(texts[field.name])


def _text(text: str) -> str:
    return linked(escaped(text))


def pages() -> dict[str, str]:
    head = ("key", "type", "default", "meaning")
    own = [f.name for f in dataclasses.fields(schema.Run) if f.name not in schema.SECTIONS]
    parts = [HEAD, "## Top level\n", table(head, _rows(schema.Run, own))]
    for name, cls in schema.SECTIONS.items():
        names = [field.name for field in dataclasses.fields(cls)]
        parts += [f"## `{name}`\n", f"{SECTIONS[name]}\n", table(head, _rows(cls, names))]
    return {"config.md": "\n".join(parts)}
