def svm_scores(
    values: np.ndarray, labels: np.ndarray, tested: np.ndarray, classes: int, c: float = 1.0
) -> np.ndarray:
    """Scores of a linear SVM, one class against the rest (liblinear, squared hinge, L2).

    Args:
      values, labels: what it is trained on, `[M, D]` and `[M]`.
      tested: `[K, D]`.

    Returns:
      f64 `[K, classes]`, signed distances; minus infinity for a class without training video.

    Raises:
      ConfigError: C is not positive.
      DataError: fewer than two classes to train on.
    """
    if not c > 0:
        raise ConfigError(f"C={c}: must be positive")
    present = np.unique(labels)
    if len(present) < 2:
        raise DataError(f"an SVM is trained on at least two classes, here {len(present)}")
    # The primal problem converges whatever the features' scale, and draws nothing at random.
    svm = sklearn("svm").LinearSVC(C=c, dual=False, max_iter=10_000)
    found = svm.fit(values, labels).decision_function(tested)
    scores = np.full((len(tested), classes), -np.inf)
    scores[:, present] = np.stack([-found, found], 1) if found.ndim == 1 else found
    return scores


def choose_c(
    values: np.ndarray,
    labels: np.ndarray,
    candidates: Sequence[float] = CANDIDATES,
    folds: int = 5,
    tell: Callable[[float, float], None] = lambda c, accuracy: None,
) -> float:
    """The C of the best cross-validated accuracy, the smallest of equals; see only training data.

    Folds are stratified and drawn with a fixed seed; there are fewer where a class has fewer
    videos. `tell` is called with every candidate and its accuracy.

    Raises:
      DataError: a class has a single video, so there is nothing to validate on.
    """
    counts = np.bincount(labels)
    fewest = int(counts[counts > 0].min())
    if fewest < 2:
        raise DataError(
            f"class {int(np.flatnonzero(counts == 1)[0])} has a single training video: C cannot "
            "be chosen by cross-validation, give it"
        )
    draw = sklearn("model_selection").StratifiedKFold(
        min(folds, fewest), shuffle=True, random_state=0
    )
    parts = list(draw.split(values, labels))
    best, chosen = -1.0, candidates[0]
    for c in sorted(candidates):
        scores = np.empty((len(labels), len(counts)))
        for train, test in parts:
            scores[test] = svm_scores(values[train], labels[train], values[test], len(counts), c)
        accuracy = topk_accuracy(scores, labels, 1)
        tell(c, accuracy)
        if accuracy > best:
            best, chosen = accuracy, c
    return chosen


def leave_one_out(
    values: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    classes: int,
    c: float | None = 1.0,
    progress: _Progress = lambda items, what: items,
) -> np.ndarray:
    """Scores `[M, classes]` of every video, by an SVM trained on all other groups (C3D, section
    6: YUPENN and Maryland, where every video is a group).

    `c` None chooses it anew for every group, on the others.
    """
    names = np.unique(groups)
    if len(names) < 2:
        raise DataError("leave-one-out wants at least two groups")
    scores = np.empty((len(labels), classes))
    for name in progress(list(names), "group"):
        out = groups == name
        train, own = values[~out], labels[~out]
        chosen = choose_c(train, own) if c is None else c
        scores[out] = svm_scores(train, own, values[out], classes, chosen)
    return scores


def one_of_each(labels: np.ndarray) -> np.ndarray:
    """Groups `[M]` of one video of every class: the first of each, the second, and so on."""
    groups = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        groups[own] = np.arange(len(own))
    return groups


def compactness(
    values: np.ndarray,
    labels: np.ndarray,
    tested: np.ndarray,
    test_labels: np.ndarray,
    dimensions: Sequence[int],
    c: float | None = 1.0,
) -> Iterator[tuple[int, float]]:
    """(dimensions, accuracy of the SVM) after PCA, which is fitted to the training videos.

    `c` None chooses it for every dimension.

    Raises:
      ConfigError: more dimensions than features or training videos.
    """
    most = min(values.shape)
    wrong = [d for d in dimensions if not 1 <= d <= most]
    if wrong or not dimensions:
        raise ConfigError(
            f"{', '.join(map(str, wrong)) or 'no'} dimensions: {len(values)} training videos with "
            f"{values.shape[1]} features have 1 to {most}"
        )
    pca = sklearn("decomposition").PCA(max(dimensions), svd_solver="full").fit(values)
    train, test = pca.transform(values), pca.transform(tested)
    classes = int(max(labels.max(), test_labels.max())) + 1
    for d in sorted(dimensions):
        chosen = choose_c(train[:, :d], labels) if c is None else c
        scores = svm_scores(train[:, :d], labels, test[:, :d], classes, chosen)
        yield d, topk_accuracy(scores, test_labels, 1)


def embed(values: np.ndarray, seed: int = 0, perplexity: float = 30.0) -> np.ndarray:
    """t-SNE: points `[M, 2]` whose neighbors are features' neighbors (van der Maaten and
    Hinton, 2008). More than 50 dimensions go through PCA first, as its authors do.

    Raises:
      ConfigError: no more videos than the perplexity.
    """
    if not 0 < perplexity < len(values):
        raise ConfigError(
            f"perplexity {perplexity:g}: positive, and less than the {len(values)} videos"
        )
    if min(values.shape) > 50:
        values = sklearn("decomposition").PCA(50, random_state=seed).fit_transform(values)
    tsne = sklearn("manifold").TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return tsne.fit_transform(values)
