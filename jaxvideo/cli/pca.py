"""`pca`: compactness of features."""

from __future__ import annotations

import argparse
from typing import Any

from jaxvideo.cli.shared import (
    Column,
    add_c,
    add_command,
    add_features,
    add_formats,
    check_output,
    describe_folders,
    describe_inputs,
    parse_c,
    percent,
    say,
    show_table,
    train_and_test,
)
from jaxvideo.types import DataError


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "pca",
        _pca,
        "measure the accuracy of a linear SVM after PCA to few dimensions",
        "The compactness curve of C3D (arXiv 1412.0767). Prints a table and draws a curve. Needs "
        "the extra [analysis].",
    )
    add_features(command)
    add_c(command)
    command.add_argument(
        "--dimensions",
        nargs="+",
        type=int,
        metavar="N",
        help="numbers of principal components (default: 10 50 100 200 500, as far as possible)",
    )
    add_formats(command)
    command.add_argument(
        "--out", default="pca.png", metavar="PICTURE", help="picture (default: pca.png)"
    )


def _pca(options: argparse.Namespace) -> int:
    from jaxvideo.report.features import check_picture, draw_compactness
    from jaxvideo.studies import svm
    from jaxvideo.studies.features import labeled_features

    c = parse_c(options)
    check_output(options.out)
    check_picture(options.out)
    svm.sklearn("svm")  # fails before the features are read
    train_set, test_set = train_and_test(options)
    train, labels, _ = labeled_features(options.features, train_set)
    values, tested, _ = labeled_features(options.features, test_set)
    if train.shape[1] != values.shape[1]:
        raise DataError(
            f"training videos have {train.shape[1]} features, test videos {values.shape[1]}"
        )
    describe_inputs(options, train)
    possible = [d for d in svm.DIMENSIONS if d <= min(train.shape)]
    dimensions = options.dimensions or possible or [min(train.shape)]
    columns = (
        Column("dimensions", right=True),
        Column("accuracy", f"accuracy of {len(tested)} of {len(test_set)} videos", percent),
    )
    rows = []

    def computed():  # a row takes up to minutes
        for row in svm.compactness(train, labels, values, tested, dimensions, c):
            rows.append(row)
            yield row

    facts = {
        "features": describe_folders(options.features),
        "training_videos": len(train),
        "test_videos": len(tested),
        "picture": options.out,
    }
    show_table(options, columns, computed(), facts=facts)
    title = f"Accuracy after PCA: {len(train)} training and {len(tested)} test videos"
    draw_compactness(options.out, {", ".join(options.features): rows}, title)
    say(options, f"picture: {options.out}")
    return 0
