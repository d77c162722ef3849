"""`train`: the training program, also called by `train.py`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxvideo import startup
from jaxvideo.cli.parser import USAGE, Parser, refuse
from jaxvideo.cli.scale import add_processes
from jaxvideo.cli.shared import complete, recipes
from jaxvideo.names import did_you_mean
from jaxvideo.progress import LOG, console, echo
from jaxvideo.types import Interrupted, JaxvideoError, UsageError


def add(commands: Any) -> None:
    command = commands.add_parser(
        "train",
        help="train a network by a config",
        description="Trains a network by a config, tests it and writes a run directory. The same "
        "command resumes an interrupted run. Any value of the config can be overridden: "
        "--optim.lr=0.05.",
    )
    config = command.add_argument(
        "config",
        metavar="CONFIG",
        help="recipe, such as i3d_rgb or i3d_rgb:smoke, or config file (FILE.py)",
    )
    complete(config, recipes)
    _add_options(command)
    command.set_defaults(run=_run, changes=[], parser=command, program="jaxvideo")


def make_parser() -> Parser:
    """Returns the parser of `train.py`."""
    parser = Parser(
        prog="python train.py",
        description="Trains a network by a config, tests it and writes a run directory. The same "
        "command resumes an interrupted run. Any value of the config can be overridden: "
        "--config.optim.lr=0.05.",
    )
    parser.add_argument(
        "--config", metavar="FILE", required=True, help="config file, FILE.py or FILE.py:ARGUMENT"
    )
    _add_options(parser)
    parser.set_defaults(program="python -m jaxvideo")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `train.py`; returns the exit status."""
    parser = make_parser()
    options, others = parser.parse_known_args(arguments)
    with console(sys.stdout):
        try:
            options.changes = overrides(others, "--config.", parser)
            return _run(options)
        except UsageError as error:
            refuse(parser, error)
            return USAGE
        except JaxvideoError as error:
            LOG.error(error)
            return 1


def overrides(arguments: Sequence[str], prefix: str, parser: Parser | None = None) -> list[str]:
    """Returns `a.b=value` for arguments such as `--config.a.b=value`.

    Args:
      arguments: those that argparse does not know.
      prefix: "--config." for `train.py`, "--" for commands.
      parser: parser of the command, whose options are suggested too.

    Raises:
      UsageError: an argument of another form, or a misspelled option.
    """
    from jaxvideo.training.config import suggest_keys
    from jaxvideo.training.values import type_of

    other = "--" if prefix == "--config." else "--config."
    changes = []
    for argument in arguments:
        change = argument.removeprefix(prefix)
        name = argument.partition("=")[0]
        options = parser.options() if parser else []
        near = ""
        if prefix == "--" and argument.startswith("--") and "." not in name:
            if not type_of(name[2:]):
                near = suggest_keys(name[2:], prefix, [option[2:] for option in options])
        elif change == argument and "." not in name:
            near = did_you_mean(name, options)
        if near:
            raise UsageError(f"no option{' or config key' * (prefix == '--')} {name}.{near}")
        if change == argument or (prefix == "--" and change.startswith("config.")):
            meant = argument.removeprefix(other).lstrip("-")
            hint = f"; write {prefix}{meant}" if argument.startswith("--") else ""
            raise UsageError(
                f"unknown argument {argument!r}{hint}. Values of the config are overridden by "
                f"{prefix}KEY=VALUE, for instance {prefix}optim.lr=0.1"
            )
        if "=" not in change:
            raise UsageError(f"argument {argument!r} needs an equals sign: {argument}=VALUE")
        changes.append(change)
    return changes


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        help="run directory (default: one in runs/ that is named after the config and its values)",
    )
    parser.add_argument("--name", metavar="NAME", help="short for --workdir runs/NAME")
    parser.add_argument(
        "--print-config", action="store_true", help="print the whole config and exit"
    )
    add_processes(parser)


def _run(options: argparse.Namespace) -> int:
    if options.name and (options.workdir or options.name in ("..", ".") or "/" in options.name):
        raise UsageError(
            f"--name={options.name}: must be the name of a directory in runs/, without --workdir"
        )
    if options.print_config:
        from jaxvideo.cli.config import show_config

        echo(show_config(options.config, options.changes))
        return 0
    from jaxvideo.training.config import check_config, default_workdir, load_config

    values = load_config(options.config, options.changes)
    check_config(values)  # before JAX is imported
    # Orbax logs a line per file operation, and the traceback of every error that it also raises.
    from absl import logging

    logging.set_verbosity(logging.FATAL)
    with startup.abortable():
        from jaxvideo.report import run as pictures
        from jaxvideo.training import distributed
        from jaxvideo.training.loop import train
        from jaxvideo.training.run_folder import shorter_run

    name = Path(options.config.partition(":")[0]).stem
    if options.workdir or options.name:
        workdir = Path(options.workdir or Path("runs", options.name))
    else:
        workdir = default_workdir(values, name)
        workdir = shorter_run(workdir, values) or workdir
    distributed.start(
        options.coordinator, options.processes, options.process, detect=options.distributed
    )
    try:
        with distributed.together():
            result = train(values, workdir)
    except Interrupted as stop:
        LOG.warning(stop)
        return 0
    if distributed.writes():
        for picture in pictures.draw_run(workdir):
            LOG.info(f"picture: {picture}")
        _conclude(result, workdir, options.program)
    return 0


def _conclude(result: dict[str, Any], workdir: Path, program: str) -> None:
    """Logs the worst videos, the best step, and how to use the run."""
    wrong = [row for row in result.get("worst", []) if row["prediction"] not in row["labels"]]
    if wrong:
        LOG.info("wrong videos of highest loss:")
        for row in wrong[:5]:
            labels = ", ".join(row["labels"])
            LOG.info(f"  {row['video']!r}: {labels}, predicted {row['prediction']}")
    best = result.get("best_one_clip")
    if best:
        LOG.info(
            f"best one-clip validation: {100 * best['val_top1']:.1f} % at step {best['step']} "
            "(--step best uses it; the newest step is the default)"
        )
    LOG.info(f"classify videos: {program} predict VIDEO --checkpoint {shlex.quote(str(workdir))}")
