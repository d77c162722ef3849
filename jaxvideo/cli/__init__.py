"""The command line: `python -m jaxvideo COMMAND`. Thin; a file per topic."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from jaxvideo import __version__, startup
from jaxvideo.cli import (
    config,
    data,
    doctor,
    env,
    evaluate,
    expand,
    features,
    models,
    pack,
    plan,
    runs,
    train,
    videos,
    weights,
)
from jaxvideo.types import JaxvideoError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status.

    0: success; 1: an error with an explanation on stderr; argparse exits with 2 if the arguments
    are wrong. A command whose parser has the default `compiles=True` uses the compilation cache.
    """
    parser = argparse.ArgumentParser(
        prog="python -m jaxvideo", description="Video ConvNets in JAX, on one's own videos."
    )
    parser.add_argument("--version", action="version", version=f"jaxvideo {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for topic in (
        models,
        train,
        config,
        videos,
        weights,
        runs,
        evaluate,
        features,
        data,
        doctor,
        pack,
        expand,
        plan,
        env,
    ):
        topic.add(commands)
    options, others = parser.parse_known_args(arguments)
    if getattr(options, "compiles", False):
        startup.use_compilation_cache()
    try:
        if others and not hasattr(options, "changes"):
            parser.error(f"unrecognized arguments: {' '.join(others)}")
        if others:
            options.changes = train.overrides(others, "--")
        status = options.run(options)
        sys.stdout.flush()
        return status
    except JaxvideoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `| head` has read enough
        from jaxvideo.training.log import drop_output

        drop_output()
        return 1
