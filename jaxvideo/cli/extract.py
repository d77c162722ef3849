"""`extract`: features of videos."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from typing import TYPE_CHECKING, Any

from jaxvideo.cli.scale import add_processes, connected
from jaxvideo.cli.shared import (
    add_command,
    add_network,
    add_videos,
    add_views,
    check_output,
    computed_in,
    open_network,
)
from jaxvideo.types import DataError, UsageError

if TYPE_CHECKING:
    from jaxvideo.data.pipeline import Share


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "extract",
        _extract,
        "extract features of videos",
        "Writes one .npz per video with the arrays `features`, `starts` (first frame of each clip) "
        "and `times` (seconds). Finished files are skipped if the command is repeated.",
        compiles=True,
    )
    add_videos(command)
    add_network(command)
    add_views(command)
    command.add_argument("--out", required=True, metavar="DIR", help="output directory")
    command.add_argument(
        "--endpoint",
        metavar="NAME",
        default="pre_logits",
        help="endpoint of the network, such as avg_pool, fc6 or logits; or prob, the softmax of "
        "the logits (default: pre_logits, the input of the classifier)",
    )
    command.add_argument(
        "--every",
        type=int,
        metavar="N",
        help="start a clip every N frames (instead of --clips)",
    )
    command.add_argument(
        "--per-clip", action="store_true", help="keep one row per clip instead of their mean"
    )
    command.add_argument(
        "--keep-map",
        action="store_true",
        help="keep the feature map instead of its mean over time and space",
    )
    command.add_argument(
        "--normalize", action="store_true", help="divide features by their L2 norm"
    )
    command.add_argument(
        "--threads",
        type=int,
        default=2,
        metavar="N",
        help="number of videos to decode in parallel (default: 2)",
    )
    add_processes(command)


def _extract(options: argparse.Namespace) -> int:
    with connected(options) as share:
        return _extract_share(options, share)


def _extract_share(options: argparse.Namespace, share: Share) -> int:
    from concurrent.futures import ThreadPoolExecutor

    from jaxvideo.inference.features import (
        Extraction,
        feature_files,
        is_extracted,
        make_extractor,
        recipe_of,
        write_features,
    )
    from jaxvideo.progress import LOG, echo, track
    from jaxvideo.training import distributed

    if options.threads < 1:
        raise UsageError(f"--threads={options.threads}: must be at least 1")
    if options.every is not None and options.every < 1:
        raise UsageError(f"--every={options.every}: must be at least 1")
    if options.every is not None and options.clips is not None:
        raise UsageError("--every and --clips are mutually exclusive; omit one of them")
    check_output(options.out, folder=True)
    files = feature_files(options.videos, options.out)
    # By position, not by what is missing, since other processes write meanwhile.
    files = dict(itertools.islice(files.items(), share.index, None, share.count))
    net = open_network(options)
    preprocessing = net.preprocessing
    protocol = net.tested(clips=options.clips, crops=options.crops)
    protocol = dataclasses.replace(protocol, aggregation="softmax")
    extraction = Extraction(
        options.endpoint,
        protocol,
        options.every or 0,
        options.per_clip,
        options.keep_map,
        options.normalize,
    )
    extract = make_extractor(net.model, net.variables, preprocessing, extraction)
    recipe = recipe_of(extraction, net.spec, net.variables, preprocessing)
    about = {
        "recipe": recipe,
        "model": net.name,
        "endpoint": extraction.endpoint,
        "protocol": extraction.describe(preprocessing),
        "per_clip": extraction.per_clip,
    }
    echo(f"{about['model']}: {about['protocol']}{computed_in(net)}")
    todo = [video for video, target in files.items() if not is_extracted(target, recipe)]

    def one(video: str) -> None:
        write_features(files[video], {**extract(video), **about, "video": video})

    written = failed = 0
    with ThreadPoolExecutor(options.threads) as pool:
        try:
            for started in track([pool.submit(one, video) for video in todo], "videos"):
                try:
                    started.result()
                except DataError as error:
                    LOG.error(error)
                    failed += 1
                    continue
                written += 1
        finally:
            pool.shutdown(cancel_futures=True)
    counts = [written, len(files) - len(todo), failed]
    parts = [json.loads(part) for part in distributed.gather(json.dumps(counts).encode())]
    written, skipped, failed = map(sum, zip(*parts, strict=True))
    echo(f"{written} written, {skipped} skipped (already present), {failed} failed")
    return 1 if failed else 0
