"""`predict`: class probabilities of videos."""

from __future__ import annotations

import argparse
from typing import Any

from jaxvideo.cli.shared import (
    add_command,
    add_network,
    add_videos,
    add_views,
    computed_in,
    open_network,
)
from jaxvideo.types import ConfigError, JaxvideoError


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "predict",
        _predict,
        "classify videos",
        "Prints the most probable classes of each video. A video that cannot be read is reported "
        "and skipped; the exit status is then 1.",
        compiles=True,
    )
    add_videos(command)
    add_network(command)
    add_views(command)
    command.add_argument(
        "--top", type=int, default=5, metavar="N", help="number of classes to print (default: 5)"
    )
    command.add_argument(
        "--json", action="store_true", help="print one JSON object per video instead of text"
    )


def _predict(options: argparse.Namespace) -> int:
    import json

    from jaxvideo.data.video import find_videos
    from jaxvideo.progress import LOG, echo, track

    if options.top < 1:
        raise ConfigError(f"--top={options.top}: must be at least 1")
    videos = find_videos(options.videos)
    net = open_network(options)
    asked = {"clips": options.clips, "crops": options.crops}
    predict = net.predictor(**asked)
    protocol = net.tested(**asked).describe(net.preprocessing) + computed_in(net)
    if not options.json:
        echo(f"{net.name}: {protocol}")
    failed = 0
    for path in track(videos, "videos"):
        try:
            best = predict(path).top(options.top)
        except JaxvideoError as error:
            LOG.error(error)
            failed += 1
            continue
        if options.json:
            top = [{"class": name, "probability": value} for name, value in best]
            echo(json.dumps({"video": path, "top": top, "model": net.name, "protocol": protocol}))
            continue
        echo(path)
        for name, value in best:
            echo(f"  {100 * value:5.1f} %  {name}")
    return 1 if failed else 0
