"""The command line: `python -m jaxvideo {models, predict}`. Thin: flags in, lines out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from jaxvideo import __version__
from jaxvideo.types import ConfigError, JaxvideoError, Preprocessing, Protocol


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
    predict.add_argument("--checkpoint", required=True, metavar="RUN", help="a run's folder")
    predict.add_argument("--clips", type=int, help="clips per video (default: the run's protocol)")
    predict.add_argument("--crops", type=int, help="crops per clip, 1 or 3")
    predict.add_argument("--top", type=int, default=5, help="classes to print (default: 5)")
    predict.set_defaults(run=_predict)

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

    print(f"{'name':<14}{'parameters':>12}{'GMACs':>9}  {'input':<16}{'endpoints':<28}source")
    for name, entry in MODELS.items():
        s = summarise(name)
        ends = list(s.endpoints)
        print(
            f"{name:<14}{s.parameters:>12,}{s.macs / 1e9:>9.3f}  "
            f"{'x'.join(map(str, s.input_shape)):<16}"
            f"{f'{ends[0]} ... {ends[-2]} ({len(ends)})':<28}{entry.source}"
        )
    return 0


def _predict(options: argparse.Namespace) -> int:
    import numpy as np

    from jaxvideo.data.decode import open_video, read_clip
    from jaxvideo.data.views import protocol_views
    from jaxvideo.models import create_model
    from jaxvideo.training.checkpoint import load_variables
    from jaxvideo.training.step import make_predict_step

    if options.top < 1:
        raise ConfigError(f"--top={options.top}: must be at least 1")
    variables, described = load_variables(options.checkpoint)
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


def _jitted(function):
    import jax

    return jax.jit(function)
