"""`data`: what a data directory contains, before training."""

from __future__ import annotations

import argparse
import os
from typing import Any

from jaxvideo.cli.shared import (
    Column,
    add_annotations,
    add_command,
    add_formats,
    check_output,
    say,
    show_table,
)
from jaxvideo.names import escape
from jaxvideo.types import VideoError

_SAMPLES = 5

_COLUMNS = (
    Column("video", name=True),
    *map(Column, ("classes", "width", "height", "frames", "fps", "error")),
)


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "data",
        _data,
        "show the classes, counts and samples of a data directory",
        "Exit status 1 if a sampled video cannot be read.",
    )
    add_annotations(command)
    command.add_argument(
        "--videos", default="", metavar="DIR", help="directory of the videos (default: ROOT)"
    )
    command.add_argument(
        "--index",
        action="store_true",
        help="also read the frame tables of all videos into the cache directory, on all cores; "
        "training does this by itself as it reads",
    )
    command.add_argument("--sheet", metavar="OUT.png", help="also draw frames of the samples")
    add_formats(command, "samples")


def _data(options: argparse.Namespace) -> int:
    import numpy as np

    from jaxvideo.data.datasets.load import autodetect, load_splits
    from jaxvideo.report.sheet import sample_frames, write_sheet

    if options.sheet:
        check_output(options.sheet, "--sheet")
    form = autodetect(options.root) if options.form == "auto" else options.form
    splits = load_splits(options.root, form, fold=options.fold, videos=options.videos)
    classes = next(iter(splits.values())).classes
    packed = getattr(next(iter(splits.values())), "stored", "")
    more = ", ..." if len(classes) > 5 else ""
    say(options, f"{escape(options.root)}: form {form}, fold {options.fold}")
    say(options, f"{len(classes)} classes: {', '.join(map(escape, classes[:5]))}{more}")
    if packed:
        say(options, packed)
    found = {}
    for split, dataset in splits.items():
        say(options, f"{split}: {dataset.coverage}")
        found[split] = {
            "videos": len(dataset),
            "missing": len(dataset.missing),
            "quarantined": len(dataset.quarantined),
            "multi_label": bool(dataset.label_sets),
        }
        if not len(dataset):
            continue
        sets = dataset.label_sets or [(label,) for label in dataset.labels]
        counts = np.bincount([one for labels in sets for one in labels], minlength=len(classes))
        least, most = int(counts.argmin()), int(counts.argmax())
        found[split]["videos_of_classes"] = dict(zip(classes, counts.tolist(), strict=True))
        say(
            options,
            f"  smallest class: {escape(classes[least])} ({counts[least]:,}), largest: "
            f"{escape(classes[most])} ({counts[most]:,})"
            + ", multi-label"
            * bool(dataset.label_sets),
        )
    if options.index:
        say(options, _index(splits))
    split, dataset = next((s, d) for s, d in splits.items() if len(d))
    drawn = np.random.default_rng(0).choice(len(dataset), min(_SAMPLES, len(dataset)), False)
    say(options, f"samples of {split}:")
    rows, samples = [], []
    for index in sorted(map(int, drawn)):
        labels = dataset.label_sets[index] if dataset.label_sets else (dataset.labels[index],)
        name = dataset.paths[index]
        name = name if form == "tfds" else os.path.relpath(name, options.root)
        names = [classes[label] for label in labels]
        title = f"{', '.join(map(escape, names))}  {escape(name)}"
        try:
            with dataset.open(index) as video:
                rate = f"{video.fps:g} fps" if video.fps else "no frame rate"
                shape = f"{video.width} x {video.height}, {video.num_frames} frames, {rate}"
                remarks = video.remarks
                rows.append((title, sample_frames(video) if options.sheet else ()))
                size = (video.width, video.height, video.num_frames, video.fps or None)
            say(options, "; ".join((f"  {title}: {shape}", *remarks)))
            samples.append((name, names, *size, None))
        except VideoError as error:
            rows.append((title, ()))
            say(options, f"  {title}: error: {error}")
            samples.append((name, names, None, None, None, None, str(error)))
    if options.sheet:
        write_sheet(options.sheet, rows)
        say(options, f"contact sheet: {options.sheet}")
    if options.json or options.csv:
        facts = {"root": options.root, "form": form, "fold": options.fold, "splits": found}
        facts |= {"classes": list(classes), "sampled_split": split, "stored": packed or None}
        show_table(options, _COLUMNS, samples, name="samples", facts=facts)
    return 1 if any(sample[-1] for sample in samples) else 0


def _index(splits: Any) -> str:
    from jaxvideo.data.cache import build_index
    from jaxvideo.startup import cache_directory

    threads = len(os.sched_getaffinity(0))
    failed = sum(build_index(dataset, threads) for dataset in splits.values())
    count = sum(map(len, splits.values())) - failed
    text = f"frame tables of {count:,} videos are in {cache_directory() / 'frames'}"
    return text + f"; {failed:,} videos cannot be opened" * bool(failed)
