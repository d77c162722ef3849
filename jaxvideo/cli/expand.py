"""`expand`: X3D expansion."""

from __future__ import annotations

import argparse
from typing import Any

from jaxvideo.cli.shared import Column, add_command, add_formats, check_output, say, show_table
from jaxvideo.types import UsageError

_COLUMNS = (
    Column("move", width=10),
    Column("network", width=7),
    Column("size", "T x S^2", width=11),
    Column("fps", text="{:.3g}", right=True, width=5),
    Column("bottleneck", "b", "{:g}", right=True, width=4),
    Column("depth", "d", "{:g}", right=True, width=5),
    Column("width", text="{:g}", right=True, width=5),
    Column("macs", "MMACs", lambda macs: f"{macs / 1e6:.1f}", right=True, width=10),
    Column("parameters", text="{:,}", right=True, width=12),
    Column("value", text="{:.4g}", right=True, width=7),
)


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "expand",
        _expand,
        "run X3D expansion: grow a small network to a budget, one axis at a time",
        "Feichtenhofer, arXiv 2004.04730, section 3. Each step trains six candidates. A repeated "
        "command resumes from --out.",
        compiles=True,
    )
    command.add_argument(
        "--start",
        default="x2d",
        metavar="NAME",
        help="network to start from: x2d, or an X3D listed by `models` (default: x2d)",
    )
    command.add_argument(
        "--target",
        metavar="MACS",
        help="budget in multiply-adds of one clip, such as 2GMAC, 600MMAC or 2e9",
    )
    command.add_argument(
        "--objective",
        default="motion",
        help="what to maximize: motion (accuracy after a short training on the motion data), or a "
        "command with {model_json} in it whose last output is a number; or published: print the "
        "steps of the paper without training (default: motion)",
    )
    command.add_argument("--steps", type=int, metavar="N", help="maximum number of expansions")
    command.add_argument(
        "--out",
        metavar="DIR",
        default="runs/expand",
        help="output directory: steps.json and all candidates (default: runs/expand)",
    )
    add_formats(command)
    motion = command.add_argument_group("options of --objective motion")
    motion.add_argument(
        "--base-crop",
        type=int,
        default=48,
        metavar="PIXELS",
        help="crop of x2d, instead of 112 (default: 48)",
    )
    motion.add_argument(
        "--base-fps",
        type=float,
        default=4.0,
        metavar="FPS",
        help="frame rate of x2d in 1/s (default: 4)",
    )
    motion.add_argument(
        "--epochs", type=float, default=27.0, help="epochs of each training (default: 27)"
    )
    motion.add_argument(
        "--train-videos",
        type=int,
        default=1200,
        metavar="N",
        help="size of the training set (default: 1200)",
    )
    motion.add_argument(
        "--val-videos",
        type=int,
        default=320,
        metavar="N",
        help="size of the test set (default: 320)",
    )


def _expand(options: argparse.Namespace) -> int:
    import dataclasses
    from pathlib import Path

    from jaxvideo.studies import expansion
    from jaxvideo.studies.objectives import write_json

    check_output(options.out, folder=True)
    out = Path(options.out)
    if options.objective == "published":
        if options.target:
            raise UsageError("--objective published prints all steps of the paper; omit --target")
        steps = expansion.published()
    else:
        if not options.target:
            raise UsageError(
                "--target is missing; pass multiply-adds, such as 2GMAC, 600MMAC or 2e9"
            )
        if options.steps is not None and options.steps < 1:
            raise UsageError(f"--steps={options.steps}: must be at least 1")
        start = expansion.start_factors(options.start)
        target = expansion.parse_macs(options.target)
        steps = expansion.expand(start, target, _objective(options, out), steps=options.steps)
    rows = []

    def finished():  # a step takes hours
        for step in steps:
            rows.append(dataclasses.asdict(step))
            write_json(out / "steps.json", rows)
            f = step.factors
            numbers = (f.fps, f.bottleneck, f.depth, f.width, step.macs, step.parameters)
            yield (step.move, step.name, f"{f.frames} x {f.crop}^2", *numbers, step.value)

    path = str(out / "steps.json")
    show_table(options, _COLUMNS, finished(), document=lambda: {"steps": rows, "file": path})
    say(options, f"steps: {path}")
    return 0


def _objective(options: argparse.Namespace, out):
    import itertools

    from jaxvideo.progress import LOG
    from jaxvideo.studies import expansion, objectives

    what = options.objective
    if what == "motion":
        names = ("base_crop", "base_fps", "epochs", "train_videos", "val_videos")
        scale = {name: getattr(options, name) for name in names}
        objective = objectives.motion_objective(out / "candidates", **scale)
        what += f" {scale}"
    else:
        objective = objectives.command_objective(what)
    numbers = itertools.count(1)

    def logged(factors):
        candidate = f"candidate {next(numbers)}: {factors.describe()}"
        LOG.info(f"{candidate}, {expansion.complexity(factors) / 1e6:.1f} MMACs")
        value = objective(factors)
        LOG.info(f"{candidate}: {value:.4g}")
        return value

    return objectives.remembered(logged, out / "evaluations.json", what)
