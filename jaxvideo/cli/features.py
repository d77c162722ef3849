"""`extract`, and what the papers did with features: `svm`, `pca`, `tsne`, `aslan`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from jaxvideo.cli.shared import add_videos, add_weights, computed_in, open_network, progress
from jaxvideo.types import ConfigError, DataError


def add(commands: Any) -> None:
    extract = commands.add_parser("extract", help="features of videos, an .npz for each")
    add_videos(extract)
    add_weights(extract)
    extract.add_argument("--out", required=True, metavar="DIR", help="the folder of the files")
    extract.add_argument(
        "--endpoint",
        default="pre_logits",
        help="an endpoint of the network, e.g. avg_pool, fc6 or logits; or prob, the softmax of "
        "the logits (default: pre_logits, the input of the classifier)",
    )
    extract.add_argument("--clips", type=int, help="clips per video (default: the run's protocol)")
    extract.add_argument("--crops", type=int, help="crops per clip, averaged: 1, 3, 5 or 10")
    extract.add_argument(
        "--every", type=int, metavar="FRAMES", help="instead of --clips: a clip begins so often"
    )
    extract.add_argument("--per-clip", action="store_true", help="a row per clip, not their mean")
    extract.add_argument(
        "--keep-map", action="store_true", help="the endpoint as it is, not its mean over T, H, W"
    )
    extract.add_argument("--normalize", action="store_true", help="to an L2 norm of 1")
    extract.add_argument(
        "--threads", type=int, default=2, help="videos that are read at the same time (default: 2)"
    )
    extract.set_defaults(run=_extract, compiles=True)

    svm = commands.add_parser("svm", help="a linear SVM on features")
    _add_labeled(svm)
    _add_c(svm)
    svm.add_argument(
        "--leave-one-out",
        nargs="?",
        const="video",
        metavar="GROUPS",
        help="test every group of all splits' videos by the others: video (each is a group; "
        "default), class (a group has one video of every class), or a file of lines 'path group'",
    )
    svm.set_defaults(run=_svm)

    pca = commands.add_parser("pca", help="accuracy of a linear SVM over dimensions of PCA")
    _add_labeled(pca)
    _add_c(pca)
    pca.add_argument("--dimensions", nargs="+", type=int, help="default: 10 50 100 200 500")
    pca.add_argument("--out", default="pca.png", help="the picture (default: pca.png)")
    pca.set_defaults(run=_pca)

    tsne = commands.add_parser("tsne", help="a t-SNE picture of features, colored by class")
    _add_labeled(tsne)
    tsne.add_argument("--perplexity", type=float, default=30.0)
    tsne.add_argument("--seed", type=int, default=0)
    tsne.add_argument(
        "--limit", type=int, default=5000, help="videos at most, drawn with --seed (default: 5000)"
    )
    tsne.add_argument("--out", default="tsne.png", help="the picture (default: tsne.png)")
    tsne.set_defaults(run=_tsne)

    aslan = commands.add_parser("aslan", help="ASLAN: do two videos show the same action?")
    aslan.add_argument(
        "features", nargs="+", metavar="FEATURES", help="a folder of `extract` per kind of feature"
    )
    aslan.add_argument(
        "pairs", metavar="PAIRS", help="lines 'first,second,same,split', or ASLAN's View2.mat"
    )
    aslan.add_argument("--c", type=float, default=1.0, help="of the SVM (default: 1)")
    aslan.set_defaults(run=_aslan)


def _add_labeled(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "features",
        nargs="+",
        metavar="FEATURES",
        help="a folder of `extract`; of several, features stand side by side",
    )
    command.add_argument(
        "--annotations", required=True, metavar="ROOT", help="the data folder, in any form"
    )
    command.add_argument("--fold", type=int, default=1, help="of UCF101, HMDB51 (default: 1)")
    command.add_argument(
        "--lists",
        nargs=2,
        metavar=("TRAIN", "TEST"),
        help="files of lines 'path label' in ROOT, if they are not train.csv and val.csv",
    )


def _add_c(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--c",
        default="1",
        help="of the SVM: a number, or auto, by cross-validation on training videos (default: 1)",
    )


def _extract(options: argparse.Namespace) -> int:
    from concurrent.futures import ThreadPoolExecutor

    from jaxvideo.extraction import (
        Extraction,
        feature_files,
        is_extracted,
        make_extractor,
        recipe_of,
        write_features,
    )

    if options.threads < 1:
        raise ConfigError(f"--threads={options.threads}: must be at least 1")
    if options.every is not None and (options.every < 1 or options.clips is not None):
        raise ConfigError(f"--every={options.every}: at least 1 frame, and without --clips")
    files = feature_files(options.videos, options.out)
    net = open_network(options)
    preprocessing, protocol = (
        net.preprocessing,
        net.tested(clips=options.clips, crops=options.crops),
    )
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
    print(f"{about['model']}: {about['protocol']}{computed_in(net)}", flush=True)
    todo = [video for video, target in files.items() if not is_extracted(target, recipe)]

    def one(video: str) -> None:
        write_features(files[video], {**extract(video), **about, "video": video})

    written = failed = 0
    with ThreadPoolExecutor(options.threads) as pool:
        try:
            for started in progress([pool.submit(one, video) for video in todo], "video"):
                try:
                    started.result()
                except DataError as error:
                    print(f"error: {error}", file=sys.stderr, flush=True)
                    failed += 1
                    continue
                written += 1
        finally:
            pool.shutdown(cancel_futures=True)
    print(f"{written} written, {len(files) - len(todo)} there already, {failed} failed")
    return 1 if failed else 0


def _svm(options: argparse.Namespace) -> int:
    from jaxvideo.evaluation import features
    from jaxvideo.evaluation.scores import mean_class_accuracy, topk_accuracy

    c = _c(options)
    features.sklearn("svm")  # missing is an error now, not after everything is read
    if options.leave_one_out is not None:
        dataset = _all_videos(options)
        values, tested, indices = features.labeled_features(options.features, dataset, progress)
        _tell(options, values)
        classes, groups = len(dataset.classes), _groups(options, dataset, tested, indices)
        scores = features.leave_one_out(values, tested, groups, classes, c, progress)
        how = f"trained on all but one of {len(set(groups.tolist()))} groups, each in turn"
        chosen = f"C = {c:g}" if c else "C chosen anew on what it is trained on"
        there = len(dataset)
    else:
        train_set, test_set = _train_and_test(options)
        train, labels, _ = features.labeled_features(options.features, train_set, progress)
        values, tested, _ = features.labeled_features(options.features, test_set, progress)
        _tell(options, train)
        _check_width(train, values)
        classes, there = len(train_set.classes), len(test_set)
        chosen = "C = {:g}" if c else "C = {:g}, chosen on the training videos"
        c = c or features.choose_c(train, labels, tell=_tell_candidate)
        chosen = chosen.format(c)
        scores = features.svm_scores(train, labels, values, classes, c)
        how = f"trained on {len(train)} of {len(train_set)} videos"
    accuracy, mean = topk_accuracy(scores, tested, 1), mean_class_accuracy(scores, tested)
    print(
        f"accuracy {100 * accuracy:.2f} %, mean class accuracy {100 * mean:.2f} % of {len(tested)} "
        f"of {there} videos, {classes} classes\n  linear SVM, {chosen}, {how}"
    )
    return 0


def _pca(options: argparse.Namespace) -> int:
    from jaxvideo.evaluation import features
    from jaxvideo.report.features import draw_compactness

    c = _c(options)
    features.sklearn("svm")
    train_set, test_set = _train_and_test(options)
    train, labels, _ = features.labeled_features(options.features, train_set, progress)
    values, tested, _ = features.labeled_features(options.features, test_set, progress)
    _check_width(train, values)
    _tell(options, train)
    # Of the usual dimensions those that there are; of the given ones all, or an error.
    possible = [d for d in features.DIMENSIONS if d <= min(train.shape)]
    dimensions = options.dimensions or possible or [min(train.shape)]
    print(f"{'dimensions':>10}  accuracy of {len(tested)} of {len(test_set)} videos")
    rows = []
    for row in features.compactness(train, labels, values, tested, dimensions, c):
        rows.append(row)
        print(f"{row[0]:>10}  {100 * row[1]:.2f} %", flush=True)
    draw_compactness(options.out, {", ".join(options.features): rows})
    print(f"picture: {options.out}")
    return 0


def _tsne(options: argparse.Namespace) -> int:
    import numpy as np

    from jaxvideo.evaluation import features
    from jaxvideo.report.features import draw_embedding

    if options.limit < 2 or options.seed < 0:
        raise ConfigError(f"--limit={options.limit}, --seed={options.seed}: at least 2, and 0")
    features.sklearn("manifold")
    dataset = _all_videos(options)
    matched = features.match_features(options.features[0], dataset.paths)
    chosen = sorted(index for index, _ in matched)
    if len(chosen) > options.limit:
        drawn = np.random.default_rng(options.seed).choice(chosen, options.limit, replace=False)
        chosen = sorted(drawn.tolist())
    values, found = features.read_features(
        options.features, [dataset.paths[index] for index in chosen], progress
    )
    _tell(options, values)
    points = features.embed(values, options.seed, options.perplexity)
    labels = np.asarray(dataset.labels)[np.asarray(chosen)[found]]
    draw_embedding(options.out, points, labels, dataset.classes)
    print(f"picture of {len(points)} of {len(dataset)} videos: {options.out}")
    return 0


def _aslan(options: argparse.Namespace) -> int:
    import dataclasses

    import numpy as np

    from jaxvideo.evaluation import verification
    from jaxvideo.evaluation.features import describe_features, read_features, sklearn

    if not options.c > 0:
        raise ConfigError(f"--c={options.c}: must be positive")
    sklearn("svm")
    pairs = verification.read_pairs(options.pairs)
    videos = verification.pair_videos(pairs)
    kinds = [read_features([folder], videos, progress) for folder in options.features]
    common = sorted(set.intersection(*(set(indices.tolist()) for _, indices in kinds)))
    there = [videos[index] for index in common]
    values = [kind[np.isin(indices, common)] for kind, indices in kinds]
    whole = np.isin(pairs.first, there) & np.isin(pairs.second, there)
    asked = len(whole)
    kept = np.flatnonzero(whole)
    pairs = dataclasses.replace(
        pairs,
        first=tuple(pairs.first[i] for i in kept),
        second=tuple(pairs.second[i] for i in kept),
        same=pairs.same[kept],
        split=pairs.split[kept],
    )
    vectors = verification.pair_vectors(pairs, there, values)
    result = verification.verify(vectors, pairs, options.c)
    for folder in options.features:
        print(describe_features(folder))
    print(
        f"accuracy {100 * result.accuracy:.2f} +- {100 * result.standard_error:.2f} %, AUC "
        f"{100 * result.aucs.mean():.2f} % (mean of the splits; {100 * result.auc:.2f} % of all "
        f"pairs together)\n  {len(kept)} of {asked} pairs, {len(result.accuracies)} splits, "
        f"{vectors.shape[1]} measures, linear SVM, C = {options.c:g}"
    )
    return 0


def _c(options: argparse.Namespace) -> float | None:
    """The number, or None for one that is to be chosen."""
    if options.c == "auto":
        return None
    try:
        c = float(options.c)
    except ValueError:
        c = 0.0
    if not c > 0:
        raise ConfigError(f"--c={options.c}: a positive number, or auto")
    return c


def _splits(options: argparse.Namespace) -> dict[str, Any]:
    from jaxvideo.data.datasets import load_splits

    if options.lists:
        lists = {"train": options.lists[0], "val": options.lists[1]}
        return load_splits(options.annotations, "csv", fold=options.fold, lists=lists)
    return load_splits(options.annotations, fold=options.fold)


def _train_and_test(options: argparse.Namespace):
    splits = _splits(options)
    tests = [splits[name] for name in ("val", "test") if name in splits]
    if "train" not in splits or not tests:
        raise DataError(
            f"{options.annotations} has the split {', '.join(splits)}: one to train on and one to "
            "test are needed"
        )
    return splits["train"], tests[0]


def _all_videos(options: argparse.Namespace):
    """The videos of all splits as one data set."""
    import dataclasses

    sets = list(_splits(options).values())
    paths = tuple(path for part in sets for path in part.paths)
    labels = tuple(label for part in sets for label in part.labels)
    return dataclasses.replace(sets[0], paths=paths, labels=labels)


def _groups(options: argparse.Namespace, dataset, labels, indices):
    import numpy as np

    from jaxvideo.data.datasets import read_annotations
    from jaxvideo.evaluation.features import one_of_each

    if options.leave_one_out == "video":
        return np.arange(len(labels))
    if options.leave_one_out == "class":
        return one_of_each(labels)
    found = read_annotations(options.leave_one_out, options.annotations)
    group = dict(zip(found.paths, found.labels, strict=True))
    missing = [dataset.paths[i] for i in indices if dataset.paths[i] not in group]
    if missing:
        raise DataError(
            f"{options.leave_one_out} names no group of {len(missing)} videos, such as {missing[0]}"
        )
    return np.asarray([group[dataset.paths[i]] for i in indices])


def _check_width(train, test) -> None:
    if train.shape[1] != test.shape[1]:
        raise DataError(
            f"training videos have {train.shape[1]} features, test videos {test.shape[1]}"
        )


def _tell(options: argparse.Namespace, values) -> None:
    from jaxvideo.evaluation.features import describe_features

    for folder in options.features:
        print(describe_features(folder))
    print(f"{values.shape[1]} features of {len(values)} videos", flush=True)


def _tell_candidate(c: float, accuracy: float) -> None:
    line = f"C = {c:g}: {100 * accuracy:.2f} % in cross-validation on the training videos"
    print(line, file=sys.stderr, flush=True)
