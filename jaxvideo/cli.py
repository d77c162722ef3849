"""The command line: `python -m jaxvideo {models, predict, convert, average}`. Thin."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from jaxvideo import __version__
from jaxvideo.types import CheckpointError, ConfigError, JaxvideoError, Preprocessing, Protocol


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; the exit status is 0, 1 for an error that was explained, 2 for usage."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxvideo", description="Video ConvNets in JAX, on one's own videos."
    )
    parser.add_argument("--version", action="version", version=f"jaxvideo {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    models = commands.add_parser("models", help="table of all networks")
    models.set_defaults(run=_models)

    predict = commands.add_parser("predict", help="class probabilities of video files")
    predict.add_argument("files", nargs="+", metavar="FILE", help="a video file")
    predict.add_argument(
        "--checkpoint", required=True, metavar="RUN", help="a run's folder, or converted weights"
    )
    predict.add_argument("--clips", type=int, help="clips per video (default: the run's protocol)")
    predict.add_argument("--crops", type=int, help="crops per clip, 1 or 3")
    predict.add_argument("--top", type=int, default=5, help="classes to print (default: 5)")
    predict.set_defaults(run=_predict)

    convert = commands.add_parser("convert", help="another library's weights to ours")
    convert.add_argument("file", metavar="IN", help="safetensors, torch's, npz, pickle of arrays")
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

    print(
        f"{'name':<20}{'parameters':>12}{'GMACs':>9}  {'input':<16}{'endpoints':<28}"
        f"{'source':<18}weights from"
    )
    for name, entry in MODELS.items():
        s = summarise(name)
        ends = list(s.endpoints)
        print(
            f"{name:<20}{s.parameters:>12,}{s.macs / 1e9:>9.3f}  "
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


def _predict(options: argparse.Namespace) -> int:
    import numpy as np

    from jaxvideo.data.decode import open_video, read_clip
    from jaxvideo.data.views import protocol_views
    from jaxvideo.models import create_model
    from jaxvideo.training.step import make_predict_step

    if options.top < 1:
        raise ConfigError(f"--top={options.top}: must be at least 1")
    variables, described = _open(options.checkpoint)
    preprocessing = Preprocessing(**described["preprocessing"])
    asked = {"clips": options.clips, "crops": options.crops}
    given = {key: value for key, value in asked.items() if value is not None}
    protocol = Protocol(**{**described["protocol"], "aggregation": "softmax", **given})
    model = create_model(**described["model"])
    clip = protocol.apply(preprocessing)
    predict = _jitted(make_predict_step(model, preprocessing, protocol.aggregation))
    classes = described["classes"]
    print(f"{described['model']['name']}: {protocol.describe(preprocessing)}")
    failed = 0
    for path in options.files:
        try:
            with open_video(path) as video:
                clips = protocol_views(
                    video.num_frames, video.height, video.width, video.fps, clip, protocol
                )
                # Clip by clip: thirty views of 64 x 224 x 224 at once need gigabytes.
                scores = [
                    np.asarray(predict(variables, read_clip(video, views, clip.crop)))
                    for views in clips
                ]
        except JaxvideoError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        mean = np.concatenate(scores).mean(0)
        print(path)
        for index in np.argsort(-mean)[: options.top]:
            print(f"  {100 * mean[index]:5.1f} %  {classes[index]}")
    return 1 if failed else 0


def _open(path: str):
    """(variables, description) of a run's folder or of a file of weights."""
    from pathlib import Path

    from jaxvideo.pretrained import open_weights
    from jaxvideo.training.checkpoint import load_variables

    if not Path(path).is_file():
        return load_variables(path)
    weights = open_weights(path)
    return weights.variables, {
        "model": weights.model,
        "preprocessing": dataclasses.asdict(weights.preprocessing),
        "protocol": dataclasses.asdict(Protocol()),
        "classes": weights.classes,
    }


def _jitted(function):
    import jax

    return jax.jit(function)
