"""`evaluate`: accuracy of a network on a data set."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from jaxvideo.cli.scale import add_processes, connected
from jaxvideo.cli.shared import (
    Column,
    add_command,
    add_formats,
    add_network,
    add_overrides,
    add_views,
    check_output,
    computed_in,
    open_network,
    say,
    show_table,
)
from jaxvideo.types import CheckpointError, ConfigError, DataError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from jaxvideo.data.datasets.dataset import VideoDataset
    from jaxvideo.data.pipeline import Share
    from jaxvideo.network import Network
    from jaxvideo.types import Protocol

# Sections of a config that affect the evaluation. All others belong to the network.
_SETTABLE = ("data", "protocol", "loading", "eval_batch_size")


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "evaluate",
        _evaluate,
        "evaluate a network on a data set by a test protocol",
        "Prints metrics with 95 % intervals and writes result.json, scores.npz (for "
        "`fuse`) and report.html. An interrupted evaluation resumes from the scores in "
        "DIR/partial.",
        compiles=True,
    )
    command.add_argument(
        "--config",
        metavar="FILE",
        help="config file with the data set and the protocol, configs/NAME.py[:ARGUMENT] "
        "(default: that of the run --checkpoint)",
    )
    add_network(command)
    add_overrides(command)
    command.add_argument(
        "--split",
        metavar="NAME",
        help="train, val or test (default: val, or test if there is no val)",
    )
    add_views(command)
    command.add_argument(
        "--aggregation",
        metavar="KIND",
        help="what is averaged over the views: softmax, logits or sigmoid (default: that of the "
        "protocol)",
    )
    command.add_argument(
        "--views",
        type=int,
        metavar="N",
        help="views per call of the network, a multiple of the number of devices (default: "
        "eval_batch_size of the config)",
    )
    command.add_argument(
        "--draws",
        type=int,
        default=1000,
        metavar="N",
        help="bootstrap resamples, for metrics that are not proportions (default: 1000)",
    )
    command.add_argument(
        "--worst",
        type=int,
        default=12,
        metavar="N",
        help="number of videos of highest loss to show in the report (default: 12)",
    )
    command.add_argument(
        "--out", metavar="DIR", help="output directory (default: beside the checkpoint)"
    )
    add_processes(command)
    add_formats(command, "metrics")


def _evaluate(options: argparse.Namespace) -> int:
    with connected(options) as share:
        return _evaluate_share(options, share)


def _evaluate_share(options: argparse.Namespace, share: Share) -> int:
    from jaxvideo.evaluation.intervals import estimates
    from jaxvideo.evaluation.metrics import METRICS
    from jaxvideo.evaluation.partial import Partial
    from jaxvideo.evaluation.protocol import evaluate
    from jaxvideo.inference.features import recipe_of
    from jaxvideo.models import arguments_for
    from jaxvideo.progress import LOG
    from jaxvideo.report.results import coverage_text, write_results
    from jaxvideo.training.config import read_config
    from jaxvideo.training.data_checks import check_inputs
    from jaxvideo.training.validation import join_shares

    if options.worst < 0:
        raise UsageError(f"--worst={options.worst}: must be at least 0")
    if options.draws < 2:
        raise UsageError(f"--draws={options.draws}: must be at least 2")
    if options.out:
        check_output(options.out, folder=True)
    run = read_config(_config(options))
    asked = {name: getattr(options, name) for name in ("clips", "crops", "aggregation")}
    given = {name: value for name, value in asked.items() if value is not None}
    # "windows" does not allow a number of clips.
    if given.get("clips") and run.protocol.starts == "windows":
        given["starts"] = "ends"
    protocol = dataclasses.replace(run.protocol, **given)
    batch_size = options.views or run.eval_batch_size
    net = open_network(options)
    split, dataset = _dataset(run.data, options.split)
    arguments = arguments_for(net.name, net.arguments, exclusive=not dataset.label_sets)
    net = dataclasses.replace(net, arguments=arguments)
    columns = _columns(net.classes, dataset.classes)
    check_inputs(net.preprocessing, dataset)
    score = _scorer(net, protocol, batch_size, columns)
    out = _folder(options, protocol)
    facts = _facts(options, run, net, protocol, dataset, split)
    for what, how in facts.items():
        say(options, f"{what:<10} {how}")
    shared = [] if share.index else _shared(options, dataset)
    for warning in shared:
        LOG.warning(warning)
    described = {**net.spec, "classes": dataset.classes, "described": facts["protocol"]}
    recipe = recipe_of(protocol, described, net.variables, net.preprocessing)
    partial = Partial(out / "partial", recipe)
    part = evaluate(
        score,
        dataset,
        net.preprocessing,
        protocol,
        batch_size=batch_size // share.count,
        loading=run.loading,
        share=share,
        partial=partial,
    )
    result = join_shares(part)
    if share.index:
        return 0
    numbers = estimates(result.scores, result.truth, draws=options.draws)
    facts |= {
        "videos": coverage_text(result),
        "intervals": "95 %; proportions: Wilson's score interval; other metrics: "
        f"{options.draws} bootstrap resamples of the videos, seed 0",
    }
    try:
        notes = write_results(
            out,
            result,
            dataset,
            numbers,
            facts,
            net,
            protocol,
            source=options.checkpoint or options.weights,
            draws=options.draws,
            worst=options.worst,
            warnings=shared,
        )
    except OSError as error:
        raise ConfigError(
            f"{out} cannot be written ({error.strerror}); choose another directory with --out"
        ) from error
    partial.delete()
    say(options)
    if options.json or options.csv:
        rows = [(name, number.value, number.low, number.high) for name, number in numbers.items()]
        more = {"notes": notes, "report": str(out / "report.html")}
        heads = [Column(name) for name in ("metric", "value", "low", "high")]
        show_table(options, heads, rows, name="metrics", facts=facts | more)
    for name, number in numbers.items():
        say(options, f"{METRICS[name].title:<20} {number}")
    say(options, f"{'coverage':<20} {coverage_text(result)}")
    for reason in result.broken.values():
        LOG.warning(f"excluded: {reason}")
    for note in notes[len(shared) :]:
        say(options, note)
    say(options, f"report: {out / 'report.html'}")
    return 0


def _config(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the config of --config or of the run --checkpoint, with its overrides."""
    from pathlib import Path

    from jaxvideo.training.config import load_config, override
    from jaxvideo.training.run_folder import read_run_config

    if options.config:
        values = load_config(options.config)
    elif options.checkpoint and (path := Path(options.checkpoint) / "run.json").is_file():
        try:
            values = read_run_config(path.parent)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read ({error})") from error
    else:
        raise UsageError(
            "no config with a data set and a protocol; pass --config configs/NAME.py, or a run "
            "directory as --checkpoint"
        )
    for change in options.changes:
        if change.partition(".")[0].partition("=")[0] not in _SETTABLE:
            raise UsageError(
                f"--{change}: only {', '.join(_SETTABLE)} can be overridden; the model and its "
                "preprocessing come with the weights"
            )
        override(values, change)
    return values


def _dataset(data, split: str | None):
    """Returns the name of the split and its videos."""
    from jaxvideo.training.inputs import pick, splits_of

    data = dataclasses.replace(data, hint="")  # it names a command that trains
    splits = splits_of(data)
    split = split or ("val" if "val" in splits else "test")
    dataset = pick(splits, data, split)
    if len(dataset.classes) == 1:
        raise DataError(
            f"{data.root or data.source}: all videos have the class {dataset.classes[0]!r}, so "
            "every answer would be right; classification needs at least 2 classes"
        )
    return split, dataset


def _columns(network, data):
    """Returns the output of the network for each class of the data set."""
    import numpy as np

    network, data = [str(name) for name in network], [str(name) for name in data]
    if len(network) == len(data) and all(name == f"class {i}" for i, name in enumerate(network)):
        return np.arange(len(data))  # the names of the classes are unknown
    if sorted(network) != sorted(data):
        only = [sorted(set(a) - set(b))[:3] for a, b in ((network, data), (data, network))]
        raise ConfigError(
            f"the network has {len(network)} classes, the data set {len(data)}, and they differ; "
            f"only in the network: {', '.join(only[0]) or 'none'}; only in the data set: "
            f"{', '.join(only[1]) or 'none'}"
        )
    place = {name: index for index, name in enumerate(network)}
    return np.array([place[name] for name in data])


def _folder(options: argparse.Namespace, protocol):
    from pathlib import Path

    source = Path(options.checkpoint or options.weights)
    name = f"evaluation-{protocol.clips or 'all'}x{protocol.crops}"
    beside = source / name if source.is_dir() else Path("runs") / f"{source.stem}-{name}"
    out = Path(options.out) if options.out else beside
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{out} cannot be created ({error.strerror}); choose another directory with --out"
        ) from error
    return out


def _facts(options, run, net, protocol, dataset, split) -> dict[str, str]:
    """Returns everything that is needed to repeat the evaluation."""
    from jaxvideo.evaluation.protocol import describe_protocol

    p = protocol.apply(net.preprocessing)

    def numbers(section, names) -> str:
        return ", ".join(f"{name} {getattr(section, name)}" for name in names)

    described = describe_protocol(protocol, net.preprocessing, dataset.paths)
    source = options.checkpoint or options.weights
    of = " ".join(f"{key}={value}" for key, value in net.arguments.items())
    return {
        "network": f"{net.name} ({of}) of {source}",
        "data": f"{run.data.root or run.data.source}, {split}: {len(dataset)} videos, "
        f"{len(dataset.classes)} classes",
        "protocol": described + computed_in(net),
        "views": numbers(protocol, ("clips", "crops", "starts", "aggregation")),
        "clip": numbers(p, [field.name for field in dataclasses.fields(p)]),
    }


def _scorer(net: Network, protocol: Protocol, batch_size: int, columns: np.ndarray):
    """Returns a function from uint8 `[batch_size, T, H, W, C]` to scores, on all devices."""
    import jax

    count = jax.device_count()
    if batch_size < 1 or batch_size % count:
        raise UsageError(f"--views={batch_size}: must be a multiple of the {count} devices")
    score = net.scorer(protocol, all_devices=True)
    return lambda video: score(video)[:, columns]


def _shared(options: argparse.Namespace, dataset: VideoDataset) -> list[str]:
    """Returns a warning if the run was trained on videos of the data set."""
    from jaxvideo.names import escape
    from jaxvideo.training.data_checks import shared_videos

    shared = shared_videos(options.checkpoint, dataset) if options.checkpoint else []
    if not shared:
        return []
    return [
        f"{len(shared)} of the {len(dataset)} videos are training videos of this run; the metrics "
        f"are too high. The first: {escape(shared[0])}"
    ]
