"""`aslan`: action similarity."""

from __future__ import annotations

import argparse
from typing import Any

from jaxvideo.cli.shared import Column, add_command, add_formats, describe_folders, show_table
from jaxvideo.types import UsageError


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "aslan",
        _aslan,
        "run the ASLAN benchmark of action similarity",
        "Do two videos show the same action? Cross-validates a linear SVM on twelve similarity "
        "measures per kind of feature, as C3D does. Needs the extra [analysis].",
    )
    command.add_argument(
        "features",
        nargs="+",
        metavar="FEATURES",
        help="directory that `extract` wrote; one per kind of feature",
    )
    command.add_argument(
        "pairs",
        metavar="PAIRS",
        help="file with lines 'first,second,same,split', or View2.mat of ASLAN",
    )
    add_formats(command)
    command.add_argument(
        "--c", type=float, default=1.0, metavar="C", help="regularization of the SVM (default: 1)"
    )


def _aslan(options: argparse.Namespace) -> int:
    import numpy as np

    from jaxvideo.progress import echo
    from jaxvideo.studies import aslan
    from jaxvideo.studies.features import read_features
    from jaxvideo.studies.svm import sklearn

    if not options.c > 0:
        raise UsageError(f"--c={options.c}: must be positive")
    sklearn("svm")  # fails before the features are read
    pairs = aslan.read_pairs(options.pairs)
    videos = aslan.pair_videos(pairs)
    kinds = [read_features([folder], videos) for folder in options.features]
    common = sorted(set.intersection(*(set(indices.tolist()) for _, indices in kinds)))
    found = [videos[index] for index in common]
    values = [kind[np.isin(indices, common)] for kind, indices in kinds]
    kept = np.flatnonzero(np.isin(pairs.first, found) & np.isin(pairs.second, found))
    vectors = aslan.pair_vectors(pairs.take(kept), found, values)
    result = aslan.verify(vectors, pairs.take(kept), options.c)
    described = describe_folders(options.features)
    if options.json or options.csv:
        found = {
            "accuracy": float(result.accuracy),
            "standard_error": float(result.standard_error),
            "auc_mean_of_splits": float(result.aucs.mean()),
            "auc_all_pairs": float(result.auc),
            "pairs": len(kept),
            "splits": len(result.accuracies),
            "measures": vectors.shape[1],
            "c": options.c,
        }
        columns, row = [Column(name) for name in found], [*found.values()]
        show_table(options, columns, [row], document=lambda: {**found, "features": described})
        return 0
    for text in described:
        echo(text)
    echo(
        f"accuracy {100 * result.accuracy:.2f} +- {100 * result.standard_error:.2f} %, AUC "
        f"{100 * result.aucs.mean():.2f} % (mean of the splits; {100 * result.auc:.2f} % of all "
        f"pairs together)\n  {len(kept)} of {len(pairs.same)} pairs, {len(result.accuracies)} "
        f"splits, {vectors.shape[1]} measures, linear SVM, C = {options.c:g}"
    )
    return 0
