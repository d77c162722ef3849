"""Command line: `python -m jaxvideo COMMAND`. One thin file per command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from jaxvideo import __version__, startup
from jaxvideo.cli import (
    aslan,
    average,
    config,
    convert,
    data,
    doctor,
    env,
    evaluate,
    expand,
    extract,
    flow,
    fuse,
    fvd,
    models,
    pack,
    pca,
    plan,
    predict,
    svm,
    train,
    tsne,
    weights,
)
from jaxvideo.progress import LOG, console, drop_output
from jaxvideo.types import JaxvideoError

#: Commands in the order of the help text.
COMMANDS = (
    *(predict, train, config, evaluate, extract, models, weights, convert),
    *(data, doctor, pack, flow),
    *(fuse, average, plan),
    *(fvd, svm, pca, tsne, aslan, expand),
    env,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status.

    Results go to stdout; the log, progress and errors go to stderr. A command whose parser has
    the default `compiles=True` uses the compilation cache.

    Returns:
      0: success; 1: an error with an explanation on stderr. argparse exits with 2 if the
      arguments are wrong.

    Example:
      >>> main(["env", "--json"])  # doctest: +SKIP
    """
    parser = argparse.ArgumentParser(
        prog="python -m jaxvideo",
        description="Video ConvNets in JAX: prediction, evaluation, features and data tools.",
        epilog="`python -m jaxvideo COMMAND --help` describes a command.",
    )
    parser.add_argument("--version", action="version", version=f"jaxvideo {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands"
    )
    for command in COMMANDS:
        command.add(commands)
    options, others = parser.parse_known_args(arguments)
    if others and not hasattr(options, "changes"):
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    with console(sys.stdout if options.command == "train" else sys.stderr):
        try:
            if others:
                options.changes = train.overrides(others, "--")
            if getattr(options, "compiles", False):
                startup.use_compilation_cache()
            status = options.run(options)
            sys.stdout.flush()
            return status
        except JaxvideoError as error:
            LOG.error(error)
            return 1
        except BrokenPipeError:  # stdout was closed, as `| head` does
            drop_output()
            return 1
