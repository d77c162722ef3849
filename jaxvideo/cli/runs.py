"""`average` and `fuse`: what several finished runs say together."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from jaxvideo.types import CheckpointError, ConfigError


def add(commands: Any) -> None:
    average = commands.add_parser("average", help="mean result of several runs, e.g. splits")
    average.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a finished run")
    average.set_defaults(run=_average)

    fuse = commands.add_parser("fuse", help="late fusion of runs on the same videos")
    fuse.add_argument(
        "runs", nargs="+", metavar="RUN", help="the folder of a finished run, or its scores.npz"
    )
    weights = fuse.add_mutually_exclusive_group()
    weights.add_argument(
        "--weights", nargs="+", type=float, help="one per run (default: all the same)"
    )
    weights.add_argument(
        "--tune",
        type=float,
        metavar="SHARE",
        help="find the weights on this share of the videos, and tell the result of the others",
    )
    fuse.add_argument("--seed", type=int, default=0, help="with --tune: which videos (default: 0)")
    fuse.add_argument(
        "--how", default="scores", help="scores (as they are; default), softmax of logits, or relu"
    )
    fuse.set_defaults(run=_fuse)


def _average(options: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    results = []
    for run in options.runs:
        path = Path(run) / "result.json"
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            results.append({key: result[key] for key in ("top1", "top5", "protocol", "model")})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{run} is not the folder of a finished run ({error})") from error
    protocols = {result["protocol"] for result in results}
    for what, values in (
        ("protocols", protocols),
        ("models", {json.dumps(result["model"], sort_keys=True) for result in results}),
    ):
        if len(values) > 1:
            raise ConfigError(f"the runs have different {what}:\n  " + "\n  ".join(sorted(values)))
    for run, result in zip(options.runs, results, strict=True):
        print(f"{100 * result['top1']:6.2f} %  {100 * result['top5']:6.2f} %  {run}")
    top1, top5 = (sum(r[k] for r in results) / len(results) for k in ("top1", "top5"))
    print(f"{100 * top1:6.2f} %  {100 * top5:6.2f} %  mean top-1 and top-5 of {len(results)} runs")
    print(protocols.pop())
    return 0


def _fuse(options: argparse.Namespace) -> int:
    from jaxvideo.evaluation.fusion import align, fuse, held_out, load_scores, tune
    from jaxvideo.evaluation.scores import NAMES, estimates, topk_accuracy

    found = [load_scores(run) for run in options.runs]
    runs = align(found, options.runs)
    for name, before, after in zip(options.runs, found, runs, strict=True):
        if left := len(before.labels) - len(after.labels):
            print(
                f"warning: {left} videos of {name} are not in all runs, left out", file=sys.stderr
            )
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
    for name, run in zip(options.runs, runs, strict=True):
        print(f"{100 * topk_accuracy(run.scores, truth, 1):6.2f} %  {name}")
    fused = estimates(fuse([run.scores for run in runs], weights, options.how), truth)
    first, *others = (f"{value} {NAMES[name]}" for name, value in fused.items())
    print(f"{first:>6}, {', '.join(others)} of {len(truth)} videos, {how}")
    return 0
