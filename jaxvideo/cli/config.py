"""`config`: the recipes, and every key of a config with its value."""

from __future__ import annotations

import argparse
from typing import Any

from jaxvideo.cli.shared import Column, add_formats, complete, recipes, show_table
from jaxvideo.types import ConfigError

# Columns of `config show --csv`.
_KEYS = ("key", "value", "changed")


def add(commands: Any) -> None:
    command = commands.add_parser("config", help="list the recipes, or show a config")
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="list the recipes")
    add_formats(listed)
    listed.set_defaults(run=_list, parser=listed)
    show = actions.add_parser(
        "show",
        help="show every key of a config with its value",
        description="Shows every key of a config with its value, as overrides of `jaxvideo train` "
        "(with `--config.` in front for train.py). Values that are not defaults are marked *. "
        "Keys of `preprocessing` that the config leaves open have the network's values.",
    )
    config = show.add_argument("config", metavar="CONFIG", help="recipe, or config file (FILE.py)")
    complete(config, recipes)
    add_formats(show)
    show.set_defaults(run=_show, changes=[], parser=show)


def show_config(name: str, changes: list[str], options: argparse.Namespace) -> None:
    """Prints every key of a config with its value; `options` are those of `add_formats`.

    Raises:
      ConfigError: the config does not exist, or has a wrong key or value.
    """
    from jaxvideo.training import schema
    from jaxvideo.training.config import complete, load_config
    from jaxvideo.training.values import frozen

    values = load_config(name, changes)
    shown = complete(values)
    defaults = _flat(schema.defaults())
    people, rows = not (options.json or options.csv), []
    for key, value in _flat(shown).items():
        section, _, name_ = key.rpartition(".")
        given = values.get(section, {}).get(name_) if section == "preprocessing" else value
        differs = frozen(given) != frozen(defaults.get(key))
        if people:
            rows.append(("*" if differs else " ", f"--{key}={_text(value)}"))
        else:
            rows.append((key, _tuples(value), differs))
    columns = [Column("mark"), Column("override")] if people else map(Column, _KEYS)
    show_table(options, [*columns], rows, document=lambda: shown, heads=False, separator=" ")


def _show(options: argparse.Namespace) -> int:
    show_config(options.config, options.changes, options)
    return 0


def _list(options: argparse.Namespace) -> int:
    import ast

    from jaxvideo.training.config import RECIPES

    paths = sorted(path for path in RECIPES.glob("*.py") if path.stem != "common")
    if not paths:
        raise ConfigError(f"{RECIPES} has no recipes: the installation is incomplete")
    texts = [ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for path in paths]
    rows = [(p.stem, (text or "").partition("\n")[0]) for p, text in zip(paths, texts, strict=True)]
    show_table(options, [Column("recipe"), Column("summary")], rows, name="recipes", heads=False)
    return 0


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return found


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        inner = ", ".join(repr(_tuples(one)) for one in value)
        return f'"({inner}{"," if len(value) == 1 else ""})"'
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"'{text}'" if any(letter in text for letter in ' *()"') else text


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, tuple | list) else value
