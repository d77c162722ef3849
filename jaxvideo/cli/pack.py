"""`pack`: a data set into shards that are quick to read."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from jaxvideo.cli.shared import progress

# Of the comparison after packing.
_VIDEOS, _SECONDS, _FRAMES = 8, 2.0, 16


def add(commands: Any) -> None:
    pack = commands.add_parser(
        "pack", help="a data set into ArrayRecord shards, small and quick to read (TFDS)"
    )
    pack.add_argument("root", metavar="ROOT", help="the data folder, as for training")
    pack.add_argument("out", metavar="OUT", help="the folder of the shards")
    pack.add_argument("--form", default="auto", help="of the annotations (default: found out)")
    pack.add_argument("--fold", type=int, default=1, help="of data sets with several (default: 1)")
    pack.add_argument("--size", type=int, default=128, help="short side in pixels (default: 128)")
    pack.add_argument("--format", default="mp4", help="mp4 (H.264; default) or jpeg")
    pack.add_argument("--crf", type=int, default=20, help="H.264's quality, lower is better (20)")
    pack.add_argument("--gop", type=int, default=12, help="frames per key frame (default: 12)")
    pack.add_argument("--quality", type=int, default=90, help="JPEG's, up to 100 (default: 90)")
    pack.add_argument("--workers", type=int, help="processes (default: the cores; 0: none beside)")
    pack.set_defaults(run=_pack)


def _pack(options: argparse.Namespace) -> int:
    from jaxvideo.data.datasets.load import load_splits
    from jaxvideo.data.packed.read import load_packed
    from jaxvideo.data.packed.record import Packing
    from jaxvideo.data.packed.write import pack
    from jaxvideo.types import ConfigError

    packing = Packing(
        format=options.format,
        size=options.size,
        crf=options.crf,
        gop=options.gop,
        quality=options.quality,
    )
    workers = len(os.sched_getaffinity(0)) if options.workers is None else options.workers
    if workers < 0:
        raise ConfigError(f"--workers={workers}: 0 or more")
    found = load_splits(options.root, options.form, fold=options.fold)
    splits = {split: dataset for split, dataset in found.items() if len(dataset)}
    for split, dataset in splits.items():
        print(f"{split}: {dataset.coverage}")
    summary = pack(
        splits,
        options.out,
        packing,
        root=options.root,
        workers=workers,
        watch=lambda videos: progress(videos, "video"),
        note=lambda reason: print(f"left out: {reason}", file=sys.stderr, flush=True),
    )
    before, after = summary.bytes_before / 1e6, summary.bytes_after / 1e6
    share = f" ({100 * after / before:.0f} %)" if before else ""
    print(f"{options.out}: {summary.videos} videos, {len(summary.left_out)} left out")
    print(f"  size   {before:.1f} MB before, {after:.1f} MB after{share}")
    split = next(iter(splits))
    _compare(splits[split], load_packed(options.out, split), options.root)
    return 0


def _compare(dataset, packed, root: str) -> None:
    import numpy as np

    from jaxvideo.data.packed.write import psnr

    place = {name: i for i, name in enumerate(packed.paths)}
    both = [
        (index, place[name])
        for index, path in enumerate(dataset.paths)
        if (name := path.removeprefix(os.path.join(root, ""))) in place
    ]
    sample = both[:: max(len(both) // _VIDEOS, 1)][:_VIDEOS]
    decibels = []
    for index, other in progress(sample, "video"):
        with dataset.open(index) as one, packed.open(other) as two:
            decibels.append(psnr(one, two))
    print(
        f"  PSNR   {np.mean(decibels):.1f} dB against the scaled originals, lowest "
        f"{min(decibels):.1f} ({len(sample)} videos)"
    )
    slow = _clips_per_second(dataset, [index for index, _ in sample])
    fast = _clips_per_second(packed, [index for _, index in sample])
    print(
        f"  speed  {slow:.0f} clips/s per core before, {fast:.0f} after: {fast / slow:.1f} times "
        f"({_FRAMES} frames, stride 1)"
    )


def _clips_per_second(dataset, indices: list[int]) -> float:
    """Clips of random places in these videos, in turn, per second of a core's time."""
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
