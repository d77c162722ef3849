"""`flow`: optical flow of videos."""

from __future__ import annotations

import argparse
from typing import Any

from jaxvideo.cli.shared import add_command, add_videos
from jaxvideo.types import HOST_FLOWS, VideoError


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "flow",
        _flow,
        "compute optical flow and store it beside each video",
        "Writes NAME.flow.mkv, which networks with flow input then read. Videos that have one are "
        "skipped.",
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


def _flow(options: argparse.Namespace) -> int:
    from jaxvideo.data.video import find_videos
    from jaxvideo.inference.flow import store_flow
    from jaxvideo.progress import LOG, echo, track

    written = skipped = failed = 0
    for path in track(find_videos(options.videos), "videos"):
        try:
            new = store_flow(path, options.method, options.size)
        except VideoError as error:
            LOG.error(error)
            failed += 1
            continue
        written, skipped = written + new, skipped + (not new)
    echo(f"{written} written, {skipped} skipped (already present), {failed} failed")
    return 1 if failed else 0
