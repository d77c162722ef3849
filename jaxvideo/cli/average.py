"""`average`: mean result of several runs."""

from __future__ import annotations

import argparse
from typing import Any

from jaxvideo.cli.shared import add_command
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


def _average(options: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from jaxvideo.progress import echo

    results = []
    for run in options.runs:
        path = Path(run) / "result.json"
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            results.append({key: result[key] for key in ("top1", "top5", "protocol", "model")})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{run} is not the directory of a finished run ({error})"
            ) from error
    protocols = {result["protocol"] for result in results}
    models = {json.dumps(result["model"], sort_keys=True) for result in results}
    for what, values in (("protocols", protocols), ("models", models)):
        if len(values) > 1:
            raise ConfigError(f"the runs have different {what}:\n  " + "\n  ".join(sorted(values)))
    for run, result in zip(options.runs, results, strict=True):
        echo(f"{100 * result['top1']:6.2f} %  {100 * result['top5']:6.2f} %  {run}")
    top1, top5 = (sum(r[k] for r in results) / len(results) for k in ("top1", "top5"))
    echo(f"{100 * top1:6.2f} %  {100 * top5:6.2f} %  mean top-1 and top-5 of {len(results)} runs")
    echo(protocols.pop())
    return 0
