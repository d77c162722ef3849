"""`average`: mean result of several runs."""

from __future__ import annotations

import argparse
from typing import Any

from jaxvideo.cli.shared import Column, add_command, add_formats, percent, say, show_table
from jaxvideo.types import CheckpointError, ConfigError


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "average",
        _average,
        "average the results of several runs, such as the splits of UCF101",
        "All runs must have the same model and test protocol.",
    )
    command.add_argument("runs", nargs="+", metavar="RUN", help="run directory with a result.json")
    add_formats(command, "runs and their mean")


def _average(options: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from jaxvideo.evaluation.metrics import METRICS

    results = []
    for run in options.runs:
        path = Path(run) / "result.json"
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            known = {key: result[key] for key in ("top1", "protocol", "model")}
            results.append({**known, "top5": result.get("top5")})  # not with few classes
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{run} is not the directory of a finished run ({error})"
            ) from error
    protocols = {result["protocol"] for result in results}
    models = {json.dumps(result["model"], sort_keys=True) for result in results}
    for what, values in (("protocols", protocols), ("models", models)):
        if len(values) > 1:
            raise ConfigError(f"the runs have different {what}:\n  " + "\n  ".join(sorted(values)))
    names = [name for name in ("top1", "top5") if None not in [one[name] for one in results]]
    columns = [Column(name, METRICS[name].title, percent, right=True) for name in names]
    rows = [
        (*(result[name] for name in names), run)
        for run, result in zip(options.runs, results, strict=True)
    ]
    means = {name: sum(result[name] for result in results) / len(results) for name in names}
    protocol = protocols.pop()
    if not options.json:
        rows.append((*means.values(), f"mean of {len(results)} runs"))
    facts = {"mean": means, "protocol": protocol}
    show_table(options, [*columns, Column("run", name=True)], rows, name="runs", facts=facts)
    say(options, protocol)
    return 0
