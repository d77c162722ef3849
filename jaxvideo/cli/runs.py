"""`runs`: one line per training run."""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any

from jaxvideo.cli.shared import Column, add_command, add_formats, percent, say, show_table


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "runs",
        _runs,
        "list the training runs of a directory with their results",
        "Columns: time of the start, network, data, finished epochs, video top-1 of the final "
        "test, best one-clip validation top-1 with its step, and state. A run without result is "
        "resumed by repeating its command.",
    )
    command.add_argument(
        "folder", nargs="?", default="runs", metavar="DIR", help="directory (default: runs)"
    )
    add_formats(command, "runs with all their columns")


_COLUMNS = (
    Column("path", "run", name=True),
    Column("started"),
    Column("network"),
    Column("data", name=True),
    Column("epochs", right=True),
    Column("top1", "top-1", percent, right=True),
    Column("best_top1", "best", percent, right=True),
    Column("best_step", "at step", right=True),
    Column("state"),
)


def _runs(options: argparse.Namespace) -> int:
    from jaxvideo.training.runs import STATES, RunSummary, find_runs

    runs = find_runs(options.folder)
    if options.json or options.csv:
        names = {"path", "data"}
        fields = [field.name for field in dataclasses.fields(RunSummary)]
        columns = [Column(name, name=name in names) for name in fields]
        table = [[_iso(v) if k == "started" else v for k, v in vars(run).items()] for run in runs]
        show_table(options, columns, table, name="runs", facts={"folder": options.folder})
        return 0
    if not runs:
        say(options, f"no runs in {options.folder}")
        return 0
    rows = []
    for run in runs:
        epochs = None if run.epochs is None else f"{run.epoch or 0:g}/{run.epochs:g}"
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started))
        what = (run.path, when, run.network, run.data or None, epochs)
        rows.append((*what, run.top1, run.best_top1, run.best_step, run.state))
    show_table(options, _COLUMNS, rows)
    counts = [f"{n} {s}" for s in STATES if (n := sum(run.state == s for run in runs))]
    say(options, f"{len(runs)} run{'s' * (len(runs) > 1)}: {', '.join(counts)}")
    return 0


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
