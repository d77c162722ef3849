"""`fuse`: late fusion of several runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from jaxvideo.cli.shared import Column, add_command, add_formats, percent, say, show_table


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "fuse",
        _fuse,
        "fuse the scores of several runs on the same videos (late fusion)",
        "Prints the top-1 accuracy, weight and protocol of each run, and the metrics of the "
        "weighted sum.",
    )
    command.add_argument("runs", nargs="+", metavar="RUN", help="run directory, or its scores.npz")
    weights = command.add_mutually_exclusive_group()
    weights.add_argument(
        "--weights", nargs="+", type=float, metavar="W", help="one per run (default: all equal)"
    )
    weights.add_argument(
        "--tune",
        type=float,
        metavar="SHARE",
        help="optimize the weights on this share of the videos (0 to 1) and report the metrics of "
        "the remaining videos",
    )
    command.add_argument(
        "--seed", type=int, default=0, help="random seed of the --tune split (default: 0)"
    )
    command.add_argument(
        "--how",
        default="scores",
        metavar="RULE",
        help="what is summed: scores (as stored), softmax (of logits), or relu (negative scores "
        "set to 0, rows normalized) (default: scores)",
    )
    add_formats(command, "runs and their fusion")


def _fuse(options: argparse.Namespace) -> int:
    from jaxvideo.evaluation.fusion import align, fuse, held_out, load_scores, tune
    from jaxvideo.evaluation.intervals import estimates, few_videos
    from jaxvideo.evaluation.metrics import METRICS, topk_accuracy
    from jaxvideo.progress import LOG

    found = [load_scores(run) for run in options.runs]
    runs = align(found, options.runs)
    for name, before, after in zip(options.runs, found, runs, strict=True):
        if left := len(before.labels) - len(after.labels):
            LOG.warning(f"{left} videos of {name} are excluded: other runs have no scores for them")
    weights, how = options.weights, f"fused ({options.how})"
    if options.tune is not None:
        part, rest = held_out(len(runs[0].labels), options.tune, options.seed)
        tuned = [run.take(part) for run in runs]
        weights = tune([run.scores for run in tuned], tuned[0].truth, options.how)
        runs = [run.take(rest) for run in runs]
        how += (
            f", weights {' '.join(f'{weight:.3g}' for weight in weights)} tuned on {len(part)} "
            f"other videos (a share of {options.tune:g}, seed {options.seed})"
        )
    truth = runs[0].truth
    fused = estimates(fuse([run.scores for run in runs], weights, options.how), truth)
    shares = [1.0] * len(runs) if weights is None else [float(weight) for weight in weights]
    columns = (
        Column("top1", "top-1", percent, right=True),
        Column("weight", text="{:.3g}", right=True),
        Column("run", name=True),
        Column("protocol"),
    )
    rows: list[tuple[Any, ...]] = [
        (topk_accuracy(run.scores, truth, 1), share, name, _protocol(name))
        for name, run, share in zip(options.runs, runs, shares, strict=True)
    ]
    numbers = {name: dataclasses.asdict(number) for name, number in fused.items()}
    facts = {"fused": numbers, "videos": len(truth), "rule": how}
    if options.csv:
        rows.append((fused["top1"].value if "top1" in fused else None, None, how, None))
    show_table(options, columns, rows, name="runs", facts=facts)
    first, *others = (f"{value} {METRICS[name].title}" for name, value in fused.items())
    say(options, f"{first:>6}, {', '.join(others)} of {len(truth)} videos, {how}")
    if text := few_videos(len(truth)):
        LOG.warning(text)
    return 0


def _protocol(run: str) -> str | None:
    """Returns the test protocol of a run; None if `result.json` does not exist or lacks it."""
    path = Path(run)
    try:
        text = (path if path.is_dir() else path.parent).joinpath("result.json").read_text("utf-8")
        return json.loads(text)["protocol"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
