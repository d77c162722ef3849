"""`pack`: a data set as ArrayRecord shards."""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from typing import Any

from jaxvideo.cli.scale import add_engine, chosen_engine
from jaxvideo.cli.shared import (
    Column,
    add_annotations,
    add_command,
    add_formats,
    check_output,
    say,
    show_table,
)
from jaxvideo.types import DataError, UsageError

# CPU seconds of each measurement of speed.
_SECONDS = 1.0


def _decibels(value: float) -> str:
    return "lossless" if math.isinf(value) else f"{value:.1f}"


_COLUMNS = (
    Column("format"),
    Column("clip_bytes", "kB per 16 frames", lambda n: f"{n / 1e3:.1f}", right=True),
    Column("total_bytes", "all videos, MB", lambda n: f"{n / 1e6:,.1f}", right=True),
    Column("psnr", "PSNR, dB", _decibels, right=True),
    Column("lowest_psnr", "lowest", _decibels, right=True),
    Column("clips_16", "clips/s, 16 frames", "{:.0f}", right=True),
    Column("clips_64", "64 frames", "{:.0f}", right=True),
)


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "pack",
        _pack,
        "re-encode a data set into ArrayRecord shards that are fast to read (TFDS)",
        "Train on the result with --data.root=OUT --data.source=tfds. Unreadable videos are left "
        "out. First, size, quality and speed of all formats are measured on a sample, and one is "
        "recommended: the fastest whose shards fit into half of the memory, or else the smallest.",
    )
    add_annotations(command)
    command.add_argument("out", metavar="OUT", help="output directory")
    command.add_argument(
        "--size",
        type=int,
        default=128,
        metavar="PIXELS",
        help="short side of the stored frames (default: 128)",
    )
    command.add_argument(
        "--format",
        default="mp4",
        help="mp4 (H.264), jpeg (one image per frame) or raw (uncompressed planes of luma and "
        "color) (default: mp4)",
    )
    command.add_argument(
        "--sample",
        type=int,
        default=4,
        metavar="N",
        help="number of videos for the comparison of formats; 0: no comparison (default: 4)",
    )
    command.add_argument(
        "--compare", action="store_true", help="compare the formats, and do not write OUT"
    )
    command.add_argument(
        "--crf",
        type=int,
        default=20,
        metavar="N",
        help="H.264 constant rate factor; lower means better quality (default: 20)",
    )
    command.add_argument(
        "--gop", type=int, default=12, metavar="N", help="frames per H.264 key frame (default: 12)"
    )
    command.add_argument(
        "--quality", type=int, default=90, metavar="N", help="JPEG quality, 1 to 100 (default: 90)"
    )
    command.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="number of worker processes; 0: none (default: number of cores)",
    )
    add_engine(command)
    add_formats(command, "comparison of formats")


def _pack(options: argparse.Namespace) -> int:
    from jaxvideo.data.datasets.load import load_splits
    from jaxvideo.data.packed.record import Packing
    from jaxvideo.data.packed.write import pack
    from jaxvideo.progress import LOG, track

    packing = Packing(
        format=options.format,
        size=options.size,
        crf=options.crf,
        gop=options.gop,
        quality=options.quality,
    )
    if options.sample < int(options.compare):
        raise UsageError(f"--sample={options.sample}: must be at least {int(options.compare)}")
    paths = options.root, options.out
    engine = chosen_engine(options, paths, "workers", len(os.sched_getaffinity(0)))
    check_output(options.out, "OUT", folder=True)
    found = load_splits(options.root, options.form, fold=options.fold)
    splits = {split: dataset for split, dataset in found.items() if len(dataset)}
    for split, dataset in splits.items():
        say(options, f"{split}: {dataset.coverage}")
    facts: dict[str, Any] = {"out": options.out, "format": options.format}
    rows: list[Any] = []
    if options.sample:
        rows, facts["recommended"] = _compare(options, splits, packing)
    if not options.compare:
        summary = pack(
            splits,
            options.out,
            packing,
            root=options.root,
            engine=engine,
            watch=lambda videos: track(videos, "videos"),
            note=lambda reason: LOG.warning(f"left out: {reason}"),
        )
        before, after = summary.bytes_before / 1e6, summary.bytes_after / 1e6
        share = f" ({100 * after / before:.0f} %)" if before else ""
        say(
            options,
            f"{options.out}: {summary.videos} videos, {len(summary.left_out)} left out; "
            f"{before:.1f} MB before, {after:.1f} MB as {packing.format}{share}",
        )
        facts |= {
            "videos": summary.videos,
            "left_out": len(summary.left_out),
            "bytes_before": summary.bytes_before,
            "bytes_after": summary.bytes_after,
        }
    if options.json or options.csv:
        show_table(options, _COLUMNS, rows, name="formats", facts=facts)
    return 0


def _compare(options: argparse.Namespace, splits, packing) -> tuple[list[Any], str | None]:
    """Prints the table of formats; returns its rows and the recommended format."""
    from pathlib import Path

    from jaxvideo.data.packed.compare import compare, draw_sample, recommend
    from jaxvideo.data.packed.record import usable_formats
    from jaxvideo.progress import LOG, track

    (split, dataset), *_ = splits.items()
    videos = sum(map(len, splits.values()))
    sample = draw_sample(dataset, options.sample)
    with tempfile.TemporaryDirectory(prefix="jaxvideo-pack-") as folder:
        measuring = compare(sample, packing, videos, Path(folder), _SECONDS)
        try:
            found = list(track(measuring, "formats", 1 + len(usable_formats())))
        except DataError as error:
            LOG.warning(f"the formats are not compared: {error}")
            return [], None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    best = recommend(found[1:], memory).format
    exact = options.json  # JSON has no infinity
    rows = [
        (
            one.format,
            one.clip_bytes or None,
            one.total_bytes or None,
            *(None if exact and math.isinf(x or 0) else x for x in (one.psnr, one.lowest_psnr)),
            *one.speeds.values(),
        )
        for one in found
    ]
    if not (options.json or options.csv):
        say(options, f"formats, by {len(sample)} videos of {split} (clips per second of one core):")
        show_table(options, _COLUMNS, rows, indent="  ")
        say(
            options,
            f"recommended: --format {best} (the fastest for 16 frames whose shards fit into half "
            f"of the {memory / 1e9:.0f} GB of memory; the smallest if none fits)",
        )
    return rows, best
