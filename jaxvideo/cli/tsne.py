"""`tsne`: picture of features."""

from __future__ import annotations

import argparse
import os
from typing import Any

from jaxvideo.cli.shared import (
    add_command,
    add_features,
    check_output,
    describe_inputs,
    labeled_splits,
)
from jaxvideo.types import UsageError


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "tsne",
        _tsne,
        "draw a t-SNE picture of features, colored by class",
        "Uses the videos of all splits. Needs the extra [analysis].",
    )
    add_features(command)
    command.add_argument(
        "--perplexity",
        type=float,
        default=30.0,
        metavar="P",
        help="effective number of neighbors; must be less than the number of videos (default: 30)",
    )
    command.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    command.add_argument(
        "--limit",
        type=int,
        default=5000,
        metavar="N",
        help="maximum number of videos, sampled at random (default: 5000)",
    )
    command.add_argument(
        "--out", default="tsne.png", metavar="PICTURE", help="picture (default: tsne.png)"
    )


def _tsne(options: argparse.Namespace) -> int:
    import numpy as np

    from jaxvideo.progress import echo
    from jaxvideo.report.features import check_picture, draw_embedding
    from jaxvideo.studies import svm
    from jaxvideo.studies.features import all_videos, match_features, read_features

    if options.limit < 2:
        raise UsageError(f"--limit={options.limit}: must be at least 2")
    if options.seed < 0:
        raise UsageError(f"--seed={options.seed}: must be at least 0")
    check_output(options.out)
    check_picture(options.out)
    svm.sklearn("manifold")  # fails before the features are read
    dataset = all_videos(list(labeled_splits(options).values()))
    matched = match_features(options.features[0], dataset.paths)
    chosen = sorted(index for index, _ in matched)
    if len(chosen) > options.limit:
        drawn = np.random.default_rng(options.seed).choice(chosen, options.limit, replace=False)
        chosen = sorted(drawn.tolist())
    values, found = read_features(options.features, [dataset.paths[index] for index in chosen])
    describe_inputs(options, values)
    points = svm.embed(values, options.seed, options.perplexity)
    labels = np.asarray(dataset.labels)[np.asarray(chosen)[found]]
    names = ", ".join(os.path.basename(os.path.abspath(folder)) for folder in options.features)
    title = f"t-SNE of {len(points)} videos: {names}, perplexity {options.perplexity:g}"
    draw_embedding(options.out, points, labels, dataset.classes, title)
    echo(f"picture of {len(points)} of {len(dataset)} videos: {options.out}")
    return 0
