"""`svm`: accuracy of a linear SVM on features."""

from __future__ import annotations

import argparse
from typing import Any

from jaxvideo.cli.shared import (
    Column,
    add_c,
    add_command,
    add_features,
    add_formats,
    describe_folders,
    describe_inputs,
    labeled_splits,
    parse_c,
    show_table,
    train_and_test,
)
from jaxvideo.progress import echo
from jaxvideo.types import DataError


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "svm",
        _svm,
        "train and test a linear SVM on extracted features",
        "The protocol of C3D (arXiv 1412.0767). Needs the extra [analysis].",
    )
    add_features(command)
    add_c(command)
    add_formats(command)
    command.add_argument(
        "--leave-one-out",
        nargs="?",
        const="video",
        metavar="GROUPS",
        help="test each group of videos by an SVM trained on all other groups, over all splits; "
        "GROUPS: video (each video is a group; default), class (a group has one video of each "
        "class), or a file with lines 'path group'",
    )


def _svm(options: argparse.Namespace) -> int:
    from jaxvideo.evaluation.metrics import mean_class_accuracy, top1
    from jaxvideo.progress import LOG
    from jaxvideo.studies import svm
    from jaxvideo.studies.features import all_videos, labeled_features

    c = parse_c(options)
    svm.sklearn("svm")  # fails before the features are read
    if options.leave_one_out is not None:
        dataset = all_videos(list(labeled_splits(options).values()))
        values, tested, indices = labeled_features(options.features, dataset)
        describe_inputs(options, values)
        classes, groups = len(dataset.classes), _groups(options, dataset, tested, indices)
        scores = svm.leave_one_out(values, tested, groups, classes, c)
        how = f"leave-one-out over {len(set(groups.tolist()))} groups"
        chosen = f"C = {c:g}" if c else "C chosen by cross-validation for each group"
        available = len(dataset)
    else:
        train_set, test_set = train_and_test(options)
        train, labels, _ = labeled_features(options.features, train_set)
        values, tested, _ = labeled_features(options.features, test_set)
        describe_inputs(options, train)
        if train.shape[1] != values.shape[1]:
            raise DataError(
                f"training videos have {train.shape[1]} features, test videos {values.shape[1]}"
            )
        classes, available = len(train_set.classes), len(test_set)
        chosen = "C = {:g}" if c else "C = {:g}, chosen by cross-validation on the training videos"
        c = c or svm.choose_c(
            train,
            labels,
            report=lambda c, accuracy: LOG.info(
                f"C = {c:g}: accuracy {100 * accuracy:.2f} % in cross-validation"
            ),
        )
        chosen = chosen.format(c)
        scores = svm.svm_scores(train, labels, values, classes, c)
        how = f"trained on {len(train)} of {len(train_set)} videos"
    accuracy, mean = top1(scores, tested), mean_class_accuracy(scores, tested)
    values = (accuracy, mean, len(tested), available, classes)
    if options.json or options.csv:
        facts = {"features": describe_folders(options.features), "svm": f"{chosen}, {how}"}
        names = ("accuracy", "mean_class_accuracy", "videos", "videos_of_the_split", "classes")
        row = dict(zip(names, values, strict=True))
        columns = [Column(name) for name in names]
        show_table(options, columns, [values], document=lambda: {**row, **facts})
        return 0
    echo(
        f"accuracy {100 * accuracy:.2f} %, mean class accuracy {100 * mean:.2f} % of {len(tested)} "
        f"of {available} videos, {classes} classes\n  linear SVM, {chosen}, {how}"
    )
    return 0


def _groups(options: argparse.Namespace, dataset, labels, indices):
    import numpy as np

    from jaxvideo.studies.features import groups_from_file
    from jaxvideo.studies.svm import one_of_each

    if options.leave_one_out == "video":
        return np.arange(len(labels))
    if options.leave_one_out == "class":
        return one_of_each(labels)
    return groups_from_file(options.leave_one_out, options.annotations, dataset, indices)
