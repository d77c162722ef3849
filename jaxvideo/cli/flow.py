"""`flow`: optical flow of videos."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from jaxvideo.cli.scale import add_engine, chosen_engine
from jaxvideo.cli.shared import add_command, add_videos
from jaxvideo.types import HOST_FLOWS, ConfigError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

# Videos per task of Beam's workers; a result is a file.
_BEAM_BLOCK = 4


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
    command.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="number of worker processes; 0: none. For methods of the host; tvl1 uses all cores or "
        "the accelerator anyway (default: 0)",
    )
    add_engine(command)


def _flow(options: argparse.Namespace) -> int:
    import contextlib
    import functools

    from jaxvideo.data.engines import map_items
    from jaxvideo.data.video import find_videos
    from jaxvideo.inference.features import output_paths
    from jaxvideo.inference.flow import FlowRequest, difference, store_or_reason
    from jaxvideo.progress import LOG, echo, track

    engine = chosen_engine(options, (*options.videos, options.out), "workers", 0)
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
    jobs = [(video, targets[video]) for video in todo]
    function = functools.partial(store_or_reason, request=request)
    # A directory that the workers of Beam see.
    folder = options.out or os.path.commonpath(
        [os.path.dirname(os.path.abspath(video)) for video in targets]
    )
    stored = map_items(function, jobs, engine, folder=folder, block=_BEAM_BLOCK)
    failed = 0
    with contextlib.closing(stored) as results:
        for _, reason in track(results, "videos", len(jobs)):
            if reason:
                LOG.error(reason)
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
