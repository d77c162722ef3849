"""Command line: `jaxvideo COMMAND`. One thin file per command."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence

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
    runs,
    svm,
    train,
    tsne,
    weights,
)
from jaxvideo.cli.parser import STATUSES, USAGE, Parser, in_options, refuse
from jaxvideo.progress import LOG, console, drop_output
from jaxvideo.types import JaxvideoError, UsageError

#: Commands in the order of the help text.
COMMANDS = (
    *(predict, train, config, runs, evaluate, extract, models, weights, convert),
    *(data, doctor, pack, flow),
    *(fuse, average, plan),
    *(fvd, svm, pca, tsne, aslan, expand),
    env,
)


@contextlib.contextmanager
def _filtered(change: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    LOG.addFilter(change)
    try:
        yield
    finally:
        LOG.removeFilter(change)


def make_parser() -> Parser:
    """Returns the parser of all commands."""
    parser = Parser(
        prog="jaxvideo",
        description="Video ConvNets in JAX: prediction, training, features and data tools.",
        epilog=f"`jaxvideo COMMAND --help` describes a command. {STATUSES.capitalize()}.",
    )
    parser.add_argument("--version", action="version", version=f"jaxvideo {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands"
    )
    for command in COMMANDS:
        command.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status.

    Results go to stdout; the log, progress and errors go to stderr. A command whose parser has
    the default `compiles=True` uses the compilation cache.

    Returns:
      0: success; 1: an error with an explanation on stderr; 2: a name or value that the caller
      gave is wrong. If the arguments cannot be parsed, SystemExit(2) is raised instead.

    Example:
      >>> main(["env", "--json"])  # doctest: +SKIP
    """
    parser = make_parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks for completions
        with contextlib.suppress(ImportError):  # the extra [completion]
            import argcomplete

            argcomplete.autocomplete(parser)
    options, others = parser.parse_known_args(arguments)
    if others and not hasattr(options, "changes"):
        options.parser.error(options.parser.unknown(others))

    def advise(record: logging.LogRecord) -> bool:
        """Lets warnings and errors name what this command understands."""
        if record.levelno >= logging.WARNING:
            record.msg, record.args = in_options(record.getMessage(), options.parser), ()
        return True

    stream = sys.stdout if options.command == "train" else sys.stderr
    with console(stream), _filtered(advise):
        try:
            if others:
                options.changes = train.overrides(others, "--", options.parser)
            if getattr(options, "compiles", False):
                startup.use_compilation_cache()
            status = options.run(options)
            sys.stdout.flush()
            return status
        except UsageError as error:
            refuse(options.parser, error)
            return USAGE
        except JaxvideoError as error:
            LOG.error(error)
            return 1
        except BrokenPipeError:  # stdout was closed, as `| head` does
            drop_output()
            return 1
