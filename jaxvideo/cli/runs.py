"""`average` and `fuse`: what several finished runs say together."""

from __future__ import annotations

import argparse
from typing import Any

from jaxvideo.types import CheckpointError, ConfigError


def add(commands: Any) -> None:
    average = commands.add_parser("average", help="mean result of several runs, e.g. splits")
    average.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a finished run")
    average.set_defaults(run=_average)

    fuse = commands.add_parser("fuse", help="late fusion of runs on the same videos")
    fuse.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a finished run")
    fuse.add_argument(
        "--weights", nargs="+", type=float, help="one per run (default: all the same)"
    )
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
    from pathlib import Path

    import numpy as np

    from jaxvideo.evaluation.fusion import fuse
    from jaxvideo.evaluation.scores import topk_accuracy

    runs = []
    for run in options.runs:
        try:
            with np.load(Path(run) / "scores.npz") as file:
                runs.append({key: file[key] for key in ("scores", "labels", "classes")})
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{run} is not the folder of a finished run ({error})") from error
        for key in ("labels", "classes"):
            if not np.array_equal(runs[0][key], runs[-1][key]):
                raise ConfigError(f"{options.runs[0]} and {run} were tested on other {key}")
    labels = runs[0]["labels"]
    for run, found in zip(options.runs, runs, strict=True):
        print(f"{100 * topk_accuracy(found['scores'], labels, 1):6.2f} %  {run}")
    fused = fuse([run["scores"] for run in runs], options.weights, options.how)
    top1, top5 = (100 * topk_accuracy(fused, labels, k) for k in (1, 5))
    print(
        f"{top1:6.2f} %  top-1, {top5:.2f} % top-5 of {len(labels)} videos, fused ({options.how})"
    )
    return 0
