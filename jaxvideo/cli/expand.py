"""`expand`: X3D's way from an image network to a video network."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from jaxvideo.types import ConfigError

_ROW = "{:<12}{:<9}{:<13}{:>7}{:>6}{:>7}{:>7}{:>12}{:>14}{:>9}"


def add(commands: Any) -> None:
    expand = commands.add_parser("expand", help="X3D's expansion of a tiny network to a budget")
    expand.add_argument("--start", default="x2d", help="x2d (default), or an X3D of `models`")
    expand.add_argument("--target", help="multiply-adds of a clip: 2GMAC, 600MMAC, 2e9")
    expand.add_argument(
        "--objective",
        default="motion",
        help="motion (default): accuracy after a short training on the motion data; a command "
        "with {model_json} in it that prints a number; published: the paper's own steps",
    )
    expand.add_argument("--steps", type=int, help="at most so many expansions")
    expand.add_argument(
        "--out",
        metavar="DIR",
        default="runs/expand",
        help="steps.json and all that was tried; begun again, it goes on (default: runs/expand)",
    )
    motion = expand.add_argument_group("the objective motion")
    motion.add_argument(
        "--base-crop", type=int, default=48, help="pixels that stand for 112 (default: 48)"
    )
    motion.add_argument(
        "--base-fps", type=float, default=4.0, help="frames per second of x2d (default: 4)"
    )
    motion.add_argument("--epochs", type=float, default=27.0, help="of each training (default: 27)")
    motion.add_argument("--train-videos", type=int, default=1200, help="(default: 1200)")
    motion.add_argument("--val-videos", type=int, default=320, help="(default: 320)")
    expand.set_defaults(run=_expand, compiles=True)


def _expand(options: argparse.Namespace) -> int:
    import dataclasses
    from pathlib import Path

    from jaxvideo import expansion

    out = Path(options.out)
    if options.objective == "published":
        if options.target:
            raise ConfigError("--objective published has all of the paper's steps: no --target")
        steps = expansion.published()
    else:
        if not options.target:
            raise ConfigError("--target is missing: multiply-adds, as in 2GMAC, 600MMAC or 2e9")
        if options.steps is not None and options.steps < 1:
            raise ConfigError(f"--steps={options.steps}: must be at least 1")
        start = expansion.start_factors(options.start)
        target = expansion.parse_macs(options.target)
        steps = expansion.expand(start, target, _objective(options, out), steps=options.steps)
    heads = ("move", "network", "T x S^2", "fps", "b", "d", "width", "MMACs", "parameters", "value")
    print(_ROW.format(*heads), flush=True)
    rows = []
    for step in steps:
        f = step.factors
        value = "-" if step.value is None else f"{step.value:.4g}"
        numbers = f"{f.fps:.3g}", f"{f.bottleneck:g}", f"{f.depth:g}", f"{f.width:g}"
        counts = f"{step.macs / 1e6:.1f}", f"{step.parameters:,}"
        size = f"{f.frames} x {f.crop}^2"
        print(_ROW.format(step.move, step.name, size, *numbers, *counts, value), flush=True)
        rows.append(dataclasses.asdict(step))
        expansion.write_json(out / "steps.json", rows)
    print(f"steps: {out / 'steps.json'}")
    return 0


def _objective(options: argparse.Namespace, out):
    from jaxvideo import expansion

    told = options.objective
    if told == "motion":
        names = ("base_crop", "base_fps", "epochs", "train_videos", "val_videos")
        scale = {name: getattr(options, name) for name in names}
        objective = expansion.motion_objective(out / "candidates", **scale)
        told += f" {scale}"
    else:
        objective = expansion.command_objective(told)
    number = 0

    def telling(factors):
        nonlocal number
        number += 1
        what = f"candidate {number}: {factors.describe()}"
        print(f"{what}, {expansion.complexity(factors) / 1e6:.1f} MMACs", file=sys.stderr)
        value = objective(factors)
        print(f"{what}: {value:.4g}", file=sys.stderr, flush=True)
        return value

    return expansion.remembered(telling, out / "evaluations.json", told)
