"""`flow`: optical flow of videos."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from jaxvideo.cli.shared import add_command, add_videos
from jaxvideo.types import HOST_FLOWS, ConfigError, DataError, UsageError

if TYPE_CHECKING:
    from pathlib import Path


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "flow",
        _flow,
        "compute optical flow and store it beside each video",
        "Writes NAME.flow.mkv, which networks with flow input then read. Videos that have one are "
        "skipped. Flow of another method or size is never mixed with it.",
        compiles=True,
    )
    add_videos(command)
    command.add_argument(
        "--method",
        default="tvl1",
        help=f"tvl1 (on the device), {', '.join(HOST_FLOWS)}; warped_METHOD compensates camera "
        "motion (default: tvl1)",
    )
    command.add_argument(
        "--size",
        type=int,
        default=256,
        metavar="PIXELS",
        help="scale frames down to this short side first (default: 256)",
    )
    command.add_argument(
        "--format",
        default="mkv",
        help="mkv (lossless, for networks), jpeg (flow_x_00001.jpg and flow_y_00001.jpg, as in "
        "mmaction2) or png (colors of the Middlebury benchmark); jpeg and png need --out "
        "(default: mkv)",
    )
    command.add_argument(
        "--out",
        metavar="DIR",
        help="write below this directory, in the same structure (default: beside each video)",
    )
    command.add_argument(
        "--overwrite",
        action="store_true",
        help="replace flow that was computed by another method or at another size",
    )


def _flow(options: argparse.Namespace) -> int:
    from jaxvideo.data.video import find_videos
    from jaxvideo.inference.features import output_paths
    from jaxvideo.inference.flow import FlowRequest, difference, store_flow
    from jaxvideo.progress import LOG, echo, track

    request = FlowRequest(options.method, options.size, options.format)
    if options.out:
        paths = output_paths(options.videos, options.out)
        targets = {video: request.target(video, path) for video, path in paths.items()}
    elif request.format != "mkv":
        # Pictures beside the videos would turn their directory into a video of frames.
        raise UsageError(f"--format {request.format} needs --out DIR")
    else:
        targets = {video: request.target(video) for video in find_videos(options.videos)}
    _check_distinct(targets)
    found = {video: difference(target, request) for video, target in targets.items()}
    others = [text for text in found.values() if text]
    if others and not options.overwrite:
        raise ConfigError(
            f"{len(others)} of {len(targets)} videos have other flow, which must not be mixed. "
            f"The first: {others[0]}. Pass --overwrite to replace it, or --out DIR to keep both"
        )
    todo = [video for video, difference in found.items() if difference != ""]
    failed = 0
    for video in track(todo, "videos"):
        try:
            store_flow(video, request, targets[video])
        except DataError as error:
            LOG.error(error)
            failed += 1
    replaced = f" ({len(others)} of other settings replaced)" if others and not failed else ""
    echo(
        f"{len(todo) - failed} written{replaced}, {len(targets) - len(todo)} skipped (already "
        f"present), {failed} failed"
    )
    return 1 if failed else 0


def _check_distinct(targets: dict[str, Path]) -> None:
    whose: dict[Path, str] = {}
    for video, target in targets.items():
        if whose.setdefault(target, video) != video:
            raise ConfigError(
                f"{whose[target]} and {video} would both be written to {target}; rename one of them"
            )
