"""`fuse`: late fusion of several runs."""

from __future__ import annotations

import argparse
from typing import Any

from jaxvideo.cli.shared import add_command


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "fuse",
        _fuse,
        "fuse the scores of several runs on the same videos (late fusion)",
        "Prints the top-1 accuracy of each run and the metrics of the weighted sum.",
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


def _fuse(options: argparse.Namespace) -> int:
    from jaxvideo.evaluation.fusion import align, fuse, held_out, load_scores, tune
    from jaxvideo.evaluation.intervals import estimates, few_videos
    from jaxvideo.evaluation.metrics import METRICS, topk_accuracy
    from jaxvideo.progress import LOG, echo

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
    for name, run in zip(options.runs, runs, strict=True):
        echo(f"{100 * topk_accuracy(run.scores, truth, 1):6.2f} %  {name}")
    fused = estimates(fuse([run.scores for run in runs], weights, options.how), truth)
    first, *others = (f"{value} {METRICS[name].title}" for name, value in fused.items())
    echo(f"{first:>6}, {', '.join(others)} of {len(truth)} videos, {how}")
    if text := few_videos(len(truth)):
        LOG.warning(text)
    return 0
