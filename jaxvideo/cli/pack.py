"""`pack`: a data set as ArrayRecord shards."""

from __future__ import annotations

import argparse
import os
import time
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

# Comparison after packing: number of videos, seconds per measurement, frames per clip.
_VIDEOS, _SECONDS, _FRAMES = 8, 2.0, 16


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "pack",
        _pack,
        "re-encode a data set into ArrayRecord shards that are fast to read (TFDS)",
        "Train on the result with --data.root=OUT --data.source=tfds. Unreadable videos are left "
        "out. Afterwards size, quality and decoding speed are compared with the original files.",
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
        "--format", default="mp4", help="mp4 (H.264) or jpeg (one image per frame) (default: mp4)"
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
    add_formats(command, "size, quality and speed")


def _pack(options: argparse.Namespace) -> int:
    from jaxvideo.data.datasets.load import load_splits
    from jaxvideo.data.packed.read import load_packed
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
    paths = options.root, options.out
    engine = chosen_engine(options, paths, "workers", len(os.sched_getaffinity(0)))
    check_output(options.out, "OUT", folder=True)
    found = load_splits(options.root, options.form, fold=options.fold)
    splits = {split: dataset for split, dataset in found.items() if len(dataset)}
    for split, dataset in splits.items():
        say(options, f"{split}: {dataset.coverage}")
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
    say(options, f"{options.out}: {summary.videos} videos, {len(summary.left_out)} left out")
    say(options, f"  size   {before:.1f} MB before, {after:.1f} MB after{share}")
    split = next(iter(splits))
    found = _compare(options, splits[split], load_packed(options.out, split))
    if options.json or options.csv:
        facts = {
            "out": options.out,
            "videos": summary.videos,
            "left_out": len(summary.left_out),
            "bytes_before": summary.bytes_before,
            "bytes_after": summary.bytes_after,
            **found,
        }
        columns = [Column(name) for name in facts]
        show_table(options, columns, [[*facts.values()]], document=lambda: facts)
    return 0


def _compare(options: argparse.Namespace, dataset, packed) -> dict[str, float]:
    import numpy as np

    from jaxvideo.data.packed.write import psnr
    from jaxvideo.progress import track

    root = options.root

    place = {name: i for i, name in enumerate(packed.paths)}
    both = [
        (index, place[name])
        for index, path in enumerate(dataset.paths)
        if (name := path.removeprefix(os.path.join(root, ""))) in place
    ]
    sample = both[:: max(len(both) // _VIDEOS, 1)][:_VIDEOS]
    decibels = []
    for index, other in track(sample, "videos"):
        with dataset.open(index) as one, packed.open(other) as two:
            decibels.append(psnr(one, two))
    say(
        options,
        f"  PSNR   {np.mean(decibels):.1f} dB against the scaled originals, lowest "
        f"{min(decibels):.1f} dB ({len(sample)} videos)",
    )
    slow = _clips_per_second(dataset, [index for index, _ in sample])
    fast = _clips_per_second(packed, [index for _, index in sample])
    say(
        options,
        f"  speed  {slow:.0f} clips/s per core before, {fast:.0f} after: {fast / slow:.1f} times "
        f"({_FRAMES} frames, stride 1)",
    )
    return {
        "psnr": float(np.mean(decibels)),
        "lowest_psnr": float(min(decibels)),
        "clips_per_second_before": slow,
        "clips_per_second_after": fast,
    }


def _clips_per_second(dataset, indices: list[int]) -> float:
    """Measures decoded clips per second of CPU time, at random positions in these videos."""
    import numpy as np

    from jaxvideo.data.decode import read_clip
    from jaxvideo.types import View, Window

    rng = np.random.default_rng(0)
    clips, started, used = 0, time.perf_counter(), time.process_time()
    while not clips or time.perf_counter() - started < _SECONDS:
        with dataset.open(indices[clips % len(indices)]) as file:
            start = rng.integers(max(file.num_frames - _FRAMES, 0) + 1)
            frames = tuple((start + i) % file.num_frames for i in range(_FRAMES))
            side = min(file.height, file.width)
            read_clip(file, [View(frames, Window(0, 0, side, side))], 112)
        clips += 1
    return clips / max(time.process_time() - used, 1e-9)
