"""`models`: the table of all networks."""

from __future__ import annotations

import argparse
import fnmatch
import json
from typing import Any

from jaxvideo.cli.shared import Column, add_command, add_formats, show_table
from jaxvideo.names import did_you_mean
from jaxvideo.types import UsageError

_COLUMNS = (
    Column("name"),
    Column("parameters", "params", right=True),
    Column("macs", "GMACs", right=True),
    Column("clip"),
    Column("paper"),
    Column("tags", right=True),
    Column("libraries"),
)


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
    add_formats(command)


def _models(options: argparse.Namespace) -> int:
    # Not `jaxvideo.models`, which imports JAX and Flax.
    from importlib import resources

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
        near = did_you_mean(options.pattern.strip("*"), json.loads(text))
        raise UsageError(f"no network{weights} matches {options.pattern!r}; try '*PART*'.{near}")
    columns, people = _COLUMNS, not (options.json or options.csv)
    if options.endpoints or not people:
        columns = (*columns, Column("endpoints"))
    table = []
    for name, row in rows.items():
        counts = row["parameters"], row["macs"]
        if people:
            counts = f"{counts[0] / 1e6:.2f} M", f"{counts[1] / 1e9:.2f}"
        clip = "x".join(map(str, row["clip"]))
        libraries = (", " if people else " ").join(row["weights"]) or None
        tags = len(row["tags"]) or None
        values = (name, *counts, clip, row["paper"], tags, libraries, " ".join(row["endpoints"]))
        table.append(values[: len(columns)])
    show_table(options, columns, table, document=lambda: rows)
    return 0
