"""`config`: the recipes, and every key of a config with its value."""

from __future__ import annotations

import argparse
from typing import Any

from jaxvideo.cli.shared import (
    Column,
    add_formats,
    complete,
    csv_line,
    recipes,
    show_table,
)
from jaxvideo.progress import echo
from jaxvideo.types import ConfigError


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
    add_formats(show, "keys and values")
    show.set_defaults(run=_show, changes=[], parser=show)


def show_config(
    name: str, changes: list[str], *, as_json: bool = False, as_csv: bool = False
) -> str:
    """Returns every key of a config with its value, one per line.

    Raises:
      ConfigError: the config does not exist, or has a wrong key or value.
    """
    import json

    from jaxvideo.training import schema
    from jaxvideo.training.config import complete, load_config
    from jaxvideo.training.values import frozen

    values = load_config(name, changes)
    shown = complete(values)
    if as_json:
        return json.dumps(shown, indent=2)
    defaults = _flat(schema.defaults())
    lines = [csv_line(("key", "value", "changed"))] if as_csv else []
    for key, value in _flat(shown).items():
        section, _, name_ = key.rpartition(".")
        given = values.get(section, {}).get(name_) if section == "preprocessing" else value
        differs = frozen(given) != frozen(defaults.get(key))
        text = f"{'*' if differs else ' '} --{key}={_text(value)}"
        lines.append(csv_line((key, _tuples(value), differs)) if as_csv else text)
    return "\n".join(lines)


def _show(options: argparse.Namespace) -> int:
    form = {"as_json": options.json, "as_csv": options.csv}
    echo(show_config(options.config, options.changes, **form))
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
