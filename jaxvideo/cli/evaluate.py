"""`evaluate`: the scores of a data set under a protocol, and all one needs to believe them."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from jaxvideo.cli.shared import add_overrides, add_weights, computed_in, open_network
from jaxvideo.types import CheckpointError, ConfigError

# Parts of a config that a test reads; the others are the network's own.
_SETTABLE = ("data", "protocol", "loading", "eval_batch_size")


def add(commands: Any) -> None:
    command = commands.add_parser(
        "evaluate", help="accuracy of a network on a data set, by a protocol, and a report"
    )
    command.add_argument(
        "--config",
        metavar="FILE",
        help="whose data and protocol; default: those of --checkpoint's run",
    )
    add_weights(command)
    add_overrides(command)
    command.add_argument(
        "--split",
        metavar="NAME",
        help="train, val or test (default: val, or test if there is none)",
    )
    command.add_argument("--clips", type=int, help="clips per video (default: the config's)")
    command.add_argument("--crops", type=int, help="crops per clip: 1, 3, 5 or 10")
    command.add_argument(
        "--aggregation", help="mean of softmax (or sigmoid) or of logits over the views"
    )
    command.add_argument(
        "--views", type=int, help="views per call of the network (default: eval_batch_size)"
    )
    command.add_argument("--draws", type=int, default=1000, help="of the bootstrap (default: 1000)")
    command.add_argument(
        "--worst", type=int, default=12, help="videos of the highest loss to show (default: 12)"
    )
    command.add_argument(
        "--out", metavar="DIR", help="where the results go (default: beside the checkpoint)"
    )
    command.set_defaults(run=_evaluate, compiles=True)


def _evaluate(options: argparse.Namespace) -> int:

    from jaxvideo.evaluation.protocol import evaluate
    from jaxvideo.evaluation.scores import NAMES, estimates
    from jaxvideo.models import arguments_for
    from jaxvideo.training.config import read_config

    if options.worst < 0 or options.draws < 2:
        raise ConfigError(f"--worst={options.worst}, --draws={options.draws}: from 0, from 2")
    run = read_config(_config(options))
    asked = {name: getattr(options, name) for name in ("clips", "crops", "aggregation")}
    given = {name: value for name, value in asked.items() if value is not None}
    if given.get("clips") and run.protocol.starts == "windows":  # which have no number
        given["starts"] = "ends"
    protocol = dataclasses.replace(run.protocol, **given)
    batch_size = options.views or run.eval_batch_size
    net = open_network(options)
    preprocessing = net.preprocessing
    split, dataset = _dataset(run.data, options.split)
    arguments = arguments_for(net.name, net.arguments, exclusive=not dataset.label_sets)
    net = dataclasses.replace(net, arguments=arguments)
    columns = _columns(net.classes, dataset.classes)
    out = _folder(options, protocol)
    facts = _facts(options, run, net, protocol, dataset, split)
    for what, how in facts.items():
        print(f"{what:<10} {how}", flush=True)
    network = _predictor(net, protocol, batch_size)
    result = evaluate(
        lambda video: network(video)[:, columns],
        dataset,
        preprocessing,
        protocol,
        batch_size=batch_size,
        loading=run.loading,
        progress=_progress(),
    )
    numbers = estimates(result.scores, result.truth, draws=options.draws)
    notes = _notes(result, protocol)
    print()
    for name, number in numbers.items():
        print(f"{NAMES[name]:<20} {number}")
    print(f"{'coverage':<20} {_coverage(result)}")
    for reason in result.broken.values():
        print(f"warning: not counted: {reason}", file=sys.stderr)
    for note in notes:
        print(note)
    facts |= {
        "videos": _coverage(result),
        "intervals": f"95 %, {options.draws} bootstrap draws of the videos, seed 0",
    }
    _write(options, out, result, dataset, numbers, facts, notes, net, protocol)
    print(f"report: {out / 'report.html'}")
    return 0


def _config(options: argparse.Namespace) -> dict[str, Any]:
    """The config of --config, or of the run that --checkpoint is, with what --set changes."""
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
        raise ConfigError("which data, by which protocol? --config configs/NAME.py")
    for change in options.changes:
        if change.partition(".")[0].partition("=")[0] not in _SETTABLE:
            raise ConfigError(
                f"--{change}: only {', '.join(_SETTABLE)} can be overridden; the model and its "
                "preprocessing come with the weights"
            )
        override(values, change)
    return values


def _dataset(data, split: str | None):
    """The split to test on, and its name. Training videos need not be there."""
    from jaxvideo.training.inputs import pick, splits_of

    splits = splits_of(data)
    split = split or ("val" if "val" in splits else "test")
    return split, pick(splits, data, split)


def _columns(network, data):
    """For each class of the data, where the network answers it."""
    import numpy as np

    network, data = [str(name) for name in network], [str(name) for name in data]
    if len(network) == len(data) and all(name == f"class {i}" for i, name in enumerate(network)):
        return np.arange(len(data))  # nobody knows their names
    if sorted(network) != sorted(data):
        only = [sorted(set(a) - set(b))[:3] for a, b in ((network, data), (data, network))]
        raise ConfigError(
            f"the network has {len(network)} classes, the data {len(data)}, and they differ: "
            f"{', '.join(only[0]) or 'none'} in the network alone, {', '.join(only[1]) or 'none'} "
            "in the data alone"
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
        raise ConfigError(f"{out} cannot be made ({error.strerror}); another --out") from error
    return out


def _facts(options, run, net, protocol, dataset, split) -> dict[str, str]:
    """What was tested on what and how: every number that the result depends on."""

    p = protocol.apply(net.preprocessing)

    def numbers(section, names) -> str:
        return ", ".join(f"{name} {getattr(section, name)}" for name in names)

    source = options.checkpoint or options.weights
    of = " ".join(f"{key}={value}" for key, value in net.arguments.items())
    return {
        "network": f"{net.name} ({of}) of {source}",
        "data": f"{run.data.root or run.data.source}, {split}: {len(dataset)} videos, "
        f"{len(dataset.classes)} classes",
        "protocol": protocol.describe(net.preprocessing) + computed_in(net),
        "views": numbers(protocol, ("clips", "crops", "starts", "aggregation")),
        "clip": numbers(p, [field.name for field in dataclasses.fields(p)]),
    }


def _predictor(net, protocol, batch_size: int):
    """`uint8 [batch_size, T, H, W, C]` to scores, on all devices."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from jaxvideo.inference.predict import make_predictor
    from jaxvideo.models.folding import fold

    count = jax.device_count()
    if batch_size < 1 or batch_size % count:
        raise ConfigError(f"--views={batch_size}: must be a multiple of the {count} devices")
    mesh = jax.make_mesh((count,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    model, clip = net.model, protocol.apply(net.preprocessing)
    variables = fold(model, net.variables, clip.shape)
    variables = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    predict = make_predictor(
        model, clip, protocol.aggregation, place=lambda video: jax.device_put(video, split)
    )
    return lambda video: predict(variables, video)


def _progress():
    """Says every two seconds how far it is."""
    import time

    from jaxvideo.training.log import duration

    started = told = time.perf_counter()

    def tell(done: int, total: int, waited: float) -> None:
        nonlocal told
        now = time.perf_counter()
        if now - told < 2 or not done:
            return
        told = now
        rate = done / (now - started)
        print(
            f"clip {done}/{total}  {rate:.1f} clips/s  data wait "
            f"{100 * waited / (now - started):.0f} %  ETA {duration((total - done) / rate)}",
            file=sys.stderr,
            flush=True,
        )

    return tell


def _coverage(result) -> str:
    left = result.expected - len(result.labels) - len(result.broken)
    text = f"{100 * result.coverage:.2f} %, {len(result.labels)} of {result.expected} videos"
    return f"{text}; {len(result.broken)} unreadable, {left} not there or in quarantine"


def _notes(result, protocol) -> list[str]:
    import numpy as np

    notes = []
    if protocol.clips == 1 and protocol.crops == 1:
        notes.append(
            "One-clip validation: one center crop of one clip per video. Published numbers are "
            "usually means over several clips and crops, and higher."
        )
    if result.coverage < 1:
        notes.append(
            f"The numbers are of the {len(result.labels)} videos that could be scored; top-1 is "
            f"{100 * result.coverage * result.top1:.2f} % if the others count as wrong."
        )
    if wrong := int((~np.isfinite(result.scores)).any(1).sum()):
        notes.append(f"The scores of {wrong} videos are not finite; they count as wrong.")
    return notes


def _write(options, out, result, dataset, numbers, facts, notes, net, protocol) -> None:
    """`result.json`, `scores.npz`, which `fuse` reads, and `report.html`."""
    import json

    from jaxvideo.evaluation.fusion import SCORES, Scores, save_scores, video_names
    from jaxvideo.report.evaluation import evaluation_page
    from jaxvideo.report.page import write
    from jaxvideo.training.checkpoint import versions

    names = video_names(dataset.paths)
    videos = tuple(names[video] for video in result.videos)
    report = {
        **{name: number.value for name, number in numbers.items()},
        "intervals": {name: [number.low, number.high] for name, number in numbers.items()},
        "loss": result.loss,
        "protocol": facts["protocol"],
        "model": net.spec,
        "checkpoint": options.checkpoint or options.weights,
        "videos": len(result.labels),
        "expected_videos": result.expected,
        "coverage": result.coverage,
        "unreadable_videos": len(result.broken),
        "broken": result.broken,
        "notes": notes,
        "views": dataclasses.asdict(protocol),
        "clip": dataclasses.asdict(protocol.apply(net.preprocessing)),
        "bootstrap": {"draws": options.draws, "seed": 0, "level": 0.95},
        "seconds": round(result.seconds, 1),
        "data_wait": round(result.data_wait, 1),
        "versions": versions(),
    }
    found = Scores(result.scores, result.labels, dataset.classes, videos, result.label_sets)
    save_scores(out / SCORES, found)
    title = f"{net.name} on {facts['data'].partition(':')[0]}"
    write(
        out / "report.html",
        evaluation_page(title, result, dataset, numbers, facts, notes, worst=options.worst),
    )
    write(out / "result.json", json.dumps(report, indent=2) + "\n")
