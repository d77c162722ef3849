"""Linear SVMs on features, compared with plain scikit-learn; matching files to videos."""

import importlib

import numpy as np
import pytest

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.studies import features, svm
from jaxvideo.types import ConfigError, DataError

CLASSES = 3


def blobs(count, spread, seed):
    """Points `[count, 6]` around three centers that overlap somewhat, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=count)
    return np.eye(CLASSES, 6)[labels] + spread * rng.standard_normal((count, 6)), labels


def write(path, values, *, per_clip=False, recipe="r", **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"model": "net", "protocol": "pool", "recipe": recipe, "per_clip": per_clip, **more}
    np.savez(path, features=np.asarray(values, np.float32), **about)


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("a/x.avi", "a/y.avi", "b/x.avi")):
        write(tmp_path / f"{name}.npz", [number, number + 0.5])
    return tmp_path


def test_whose_features(folder):
    """The longest suffix of the path decides, and a file ending may be missing."""
    names = features.find_features(folder)
    assert list(names) == ["a/x.avi", "a/y.avi", "b/x.avi"]

    def matched(*videos):
        return [(i, str(path.relative_to(folder))) for i, path in found(*videos)]

    def found(*videos):
        return features.match_features(folder, videos)

    assert matched("/data/a/x.avi", "/data/none.avi", "/data/b/x.avi") == [
        (0, "a/x.avi.npz"),
        (2, "b/x.avi.npz"),
    ]
    assert matched("b/x", "a/y") == [(0, "b/x.avi.npz"), (1, "a/y.avi.npz")]
    write(folder / "a/y.mp4.npz", [0, 0])
    with pytest.raises(DataError, match=r"but of none of the 1 labeled videos, such as a/y"):
        found("a/y")  # ambiguous
    write(folder / "x.avi.npz", [0, 0])
    with pytest.raises(DataError, match=r"matches both c/x\.avi and d/x\.avi"):
        found("c/x.avi", "d/x.avi")


def test_reading(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write(other / "a/x.avi.npz", [[1, 3], [2, 5]], per_clip=True)
    write(other / "b/x.avi.npz", [[5, 5], [7, 6], [9, 7]], per_clip=True)
    videos = ["/d/a/x.avi", "/d/a/y.avi", "/d/b/x.avi"]
    values, indices = features.read_features([folder, other], videos)
    # The second directory lacks a/y; its clips are averaged and concatenated to the first.
    assert indices.tolist() == [0, 2]
    np.testing.assert_array_equal(values, [[0, 0.5, 1.5, 4], [2, 2.5, 7, 6]])
    assert values.dtype == np.float32
    write(other / "b/x.avi.npz", np.arange(8).reshape(2, 2, 2))
    values, _ = features.read_features([other], ["b/x.avi"])
    np.testing.assert_array_equal(values, [np.arange(8)])
    dataset = VideoDataset(tuple(videos), (2, 1, 0), ("p", "q", "r"))
    values, labels, indices = features.labeled_features([folder], dataset)
    assert (labels.tolist(), indices.tolist(), values.shape) == ([2, 1, 0], [0, 1, 2], (3, 2))
    assert features.describe_features(folder) == f"{folder}: net, pool"


def test_files_that_do_not_fit(folder):
    videos = ["a/x.avi", "a/y.avi"]
    write(folder / "a/y.avi.npz", [1, 2], recipe="another")
    with pytest.raises(DataError, match=r"y\.avi\.npz was extracted with other settings"):
        features.read_features([folder], videos)
    write(folder / "a/y.avi.npz", [1, np.nan])
    with pytest.raises(DataError, match="NaN or infinity"):
        features.read_features([folder], videos)
    whole = (folder / "a/x.avi.npz").read_bytes()
    for damaged in (whole[:99], b""):
        (folder / "a/y.avi.npz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"y\.avi\.npz is corrupt"):
            features.read_features([folder], videos)
    with pytest.raises(DataError, match="gone is not a directory"):
        features.find_features(folder / "gone")
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty contains no \.npz"):
        features.find_features(folder / "empty")
    several = VideoDataset(("a/x.avi",), (0,), ("p", "q"), ((0, 1),))
    with pytest.raises(DataError, match="multi-label"):
        features.labeled_features([folder], several)


def test_without_scikit_learn(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install 'jaxvideo\[analysis\]'"):
        svm.svm_scores(np.eye(2), np.array([0, 1]), np.eye(2), 2)


def test_groups_of_one_video_of_every_class():
    labels = np.array([1, 0, 1, 1, 0])
    assert svm.one_of_each(labels).tolist() == [0, 0, 1, 2, 1]


@pytest.fixture
def sklearn():
    return pytest.importorskip("sklearn", reason="needs the extra [analysis]")


def test_svm(sklearn):
    from sklearn.svm import LinearSVC

    (x, y), (tested, _) = blobs(60, 0.4, 0), blobs(40, 0.4, 1)
    scores = svm.svm_scores(x, y, tested, CLASSES, 0.5)
    plain = LinearSVC(C=0.5, dual=False).fit(x, y)
    assert (scores.argmax(1) == plain.predict(tested)).all()
    np.testing.assert_allclose(scores, plain.decision_function(tested), rtol=1e-3, atol=1e-3)
    # Two of four classes: columns keep their index, and the other classes are never predicted.
    scores = svm.svm_scores(x[y > 0], y[y > 0], tested, 4)
    assert set(scores.argmax(1)) == {1, 2}
    assert np.isneginf(scores[:, [0, 3]]).all()
    right = (
        scores.argmax(1) == LinearSVC(dual=False).fit(x[y > 0], y[y > 0]).predict(tested)
    ).mean()
    assert right == 1
    with pytest.raises(DataError, match="at least two training classes, found 1"):
        svm.svm_scores(x[y == 0], y[y == 0], tested, 3)
    with pytest.raises(ConfigError, match="C=0: must be positive"):
        svm.svm_scores(x, y, tested, 3, 0)


def test_c_is_chosen_as_grid_search_does(sklearn):
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.svm import LinearSVC

    x, y = blobs(60, 0.6, 0)
    told = {}
    chosen = svm.choose_c(x, y, (1e-3, 1e-2, 0.1, 1.0), report=told.__setitem__)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    grid = {"C": [1e-3, 1e-2, 0.1, 1.0]}
    plain = GridSearchCV(LinearSVC(dual=False), grid, cv=folds).fit(x, y)
    assert list(told) == grid["C"]
    np.testing.assert_allclose(list(told.values()), plain.cv_results_["mean_test_score"], atol=0.02)
    assert chosen == min(c for c in told if told[c] == max(told.values()))
    # If all candidates are equally good, the smallest is chosen.
    apart, labels = blobs(30, 0.01, 0)
    assert svm.choose_c(apart, labels, (10.0, 1.0, 100.0)) == 1
    with pytest.raises(DataError, match="class 1 has a single training video"):
        svm.choose_c(np.eye(3), np.array([0, 1, 0]))


def test_leave_one_out(sklearn):
    from sklearn.model_selection import LeaveOneGroupOut, LeaveOneOut, cross_val_predict
    from sklearn.svm import LinearSVC

    x, y = blobs(24, 0.5, 3)
    scores = svm.leave_one_out(x, y, np.arange(24), CLASSES)
    plain = cross_val_predict(LinearSVC(dual=False), x, y, cv=LeaveOneOut())
    assert (scores.argmax(1) == plain).mean() > 0.95
    groups = np.arange(24) // 4
    scores = svm.leave_one_out(x, y, groups, CLASSES)
    plain = cross_val_predict(LinearSVC(dual=False), x, y, cv=LeaveOneGroupOut(), groups=groups)
    assert (scores.argmax(1) == plain).mean() > 0.95
    # Each video has a copy with another label; leaving out one video alone gives errors.
    twice, other = np.concatenate([x, x]), np.concatenate([y, (y + 1) % CLASSES])
    alone = svm.leave_one_out(twice, other, np.arange(48), CLASSES, 100.0)
    pairs = svm.leave_one_out(twice, other, np.arange(48) % 24, CLASSES, 100.0)
    wrong = (other + 1) % CLASSES
    assert (alone.argmax(1) == wrong).mean() != (pairs.argmax(1) == wrong).mean()
    with pytest.raises(DataError, match="at least two groups"):
        svm.leave_one_out(x, y, np.zeros(24), CLASSES)


def test_compactness(sklearn):
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    (x, y), (tested, labels) = blobs(60, 0.4, 0), blobs(80, 0.4, 1)
    rows = list(svm.compactness(x, y, tested, labels, [4, 1, 2]))
    assert [dimensions for dimensions, _ in rows] == [1, 2, 4]
    for dimensions, accuracy in rows:
        plain = make_pipeline(PCA(dimensions), LinearSVC(dual=False)).fit(x, y)
        assert accuracy == pytest.approx(plain.score(tested, labels), abs=0.03)
    assert rows[0][1] < rows[1][1]  # three centers are not on a line
    for wrong in ([7], [0], []):
        with pytest.raises(ConfigError, match="60 training videos with 6 features allow 1 to 6"):
            list(svm.compactness(x, y, tested, labels, wrong))


def test_tsne_keeps_neighbors(sklearn):
    from threadpoolctl import threadpool_limits

    x, y = blobs(60, 0.05, 0)
    with threadpool_limits(1):  # other tests run in parallel
        points = svm.embed(x, seed=1, perplexity=10)
        again = svm.embed(x, seed=1, perplexity=10)
    np.testing.assert_array_equal(points, again)
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (y[distances.argmin(1)] == y).all()
    with pytest.raises(ConfigError, match="60: must be positive and less than the 60"):
        svm.embed(x, perplexity=60)
