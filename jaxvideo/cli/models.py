"""`models`: the table of all networks."""

from __future__ import annotations

import argparse
import fnmatch
import json
from typing import Any

from jaxvideo.cli.shared import add_command
from jaxvideo.types import ConfigError


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "models",
        _models,
        "list all networks",
        "Columns: parameters in millions, multiply-adds of one clip in billions, clip shape "
        "(frames x height x width x channels), paper, number of weights that can be downloaded by "
        "name (see `weights list`), and libraries whose weight files can be read.",
    )
    command.add_argument(
        "pattern", nargs="?", default="*", help="names to list, such as '*slowfast*' (default: all)"
    )
    command.add_argument(
        "--weights",
        action="store_true",
        help="only networks with weights that can be downloaded by name",
    )
    command.add_argument("--endpoints", action="store_true", help="list the endpoints, too")
    command.add_argument("--json", action="store_true", help="print JSON instead")


def _models(options: argparse.Namespace) -> int:
    # Not `jaxvideo.models`, which imports JAX and Flax.
    from importlib import resources

    from jaxvideo.progress import echo
    from jaxvideo.weights import zoo

    text = resources.files("jaxvideo").joinpath("models/table.json").read_text(encoding="utf-8")
    rows = {
        name: {**row, "tags": [one.tag for one in zoo.rows_of(name)]}
        for name, row in json.loads(text).items()
        if fnmatch.fnmatchcase(name, options.pattern)
        and (name in zoo.networks() or not options.weights)
    }
    if not rows:
        weights = " with weights" if options.weights else ""
        raise ConfigError(f"no network{weights} matches {options.pattern!r}; try '*PART*'")
    if options.json:
        echo(json.dumps(rows, indent=2))
        return 0
    wide = max(*map(len, rows), 4)
    echo(f"{'name':<{wide}}  {'params':>9}  {'GMACs':>8}  {'clip':<14}  {'paper':<16}  tags  files")
    for name, row in rows.items():
        echo(
            f"{name:<{wide}}  {row['parameters'] / 1e6:>7.2f} M  {row['macs'] / 1e9:>8.2f}  "
            f"{'x'.join(map(str, row['clip'])):<14}  {row['paper']:<16}  "
            f"{len(row['tags']) or '-':>4}  {', '.join(row['weights']) or '-'}"
        )
        if options.endpoints:
            echo(f"{'':<{wide}}  {' '.join(row['endpoints'])}")
    return 0
