"""`data`: what a data directory contains, before training."""

from __future__ import annotations

import argparse
import os
from typing import Any

from jaxvideo.cli.shared import add_annotations, add_command
from jaxvideo.types import VideoError

_SAMPLES = 5


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
    command.add_argument("--sheet", metavar="OUT.png", help="also draw frames of the samples")


def _data(options: argparse.Namespace) -> int:
    import numpy as np

    from jaxvideo.data.datasets.load import autodetect, load_splits
    from jaxvideo.progress import echo
    from jaxvideo.report.sheet import sample_frames, write_sheet

    form = autodetect(options.root) if options.form == "auto" else options.form
    splits = load_splits(options.root, form, fold=options.fold, videos=options.videos)
    classes = next(iter(splits.values())).classes
    more = ", ..." if len(classes) > 5 else ""
    echo(f"{options.root}: form {form}, fold {options.fold}")
    echo(f"{len(classes)} classes: {', '.join(classes[:5])}{more}")
    for split, dataset in splits.items():
        echo(f"{split}: {dataset.coverage}")
        if not len(dataset):
            continue
        sets = dataset.label_sets or [(label,) for label in dataset.labels]
        counts = np.bincount([one for labels in sets for one in labels], minlength=len(classes))
        least, most = int(counts.argmin()), int(counts.argmax())
        echo(
            f"  smallest class: {classes[least]} ({counts[least]:,}), largest: {classes[most]} "
            f"({counts[most]:,})" + ", multi-label" * bool(dataset.label_sets)
        )
    split, dataset = next((s, d) for s, d in splits.items() if len(d))
    drawn = np.random.default_rng(0).choice(len(dataset), min(_SAMPLES, len(dataset)), False)
    echo(f"samples of {split}:")
    rows, failed = [], 0
    for index in sorted(map(int, drawn)):
        labels = dataset.label_sets[index] if dataset.label_sets else (dataset.labels[index],)
        name = dataset.paths[index]
        name = name if form == "tfds" else os.path.relpath(name, options.root)
        title = f"{', '.join(classes[label] for label in labels)}  {name}"
        try:
            with dataset.open(index) as video:
                rate = f"{video.fps:g} fps" if video.fps else "no frame rate"
                shape = f"{video.width} x {video.height}, {video.num_frames} frames, {rate}"
                remarks = video.remarks
                rows.append((title, sample_frames(video) if options.sheet else ()))
            echo("; ".join((f"  {title}: {shape}", *remarks)))
        except VideoError as error:
            failed += 1
            rows.append((title, ()))
            echo(f"  {title}: error: {error}")
    if options.sheet:
        write_sheet(options.sheet, rows)
        echo(f"contact sheet: {options.sheet}")
    return 1 if failed else 0
