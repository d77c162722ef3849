"""ASLAN's protocol: measures by hand, folds by plain scikit-learn, ROC by counting."""

import math

import numpy as np
import pytest

from jaxvideo.studies.aslan import (
    Pairs,
    Verification,
    l2_normalized,
    measures,
    pair_vectors,
    pair_videos,
    read_pairs,
    verify,
)
from jaxvideo.types import DataError


def test_the_twelve_measures_by_hand():
    """x = (1, 4), y = (4, 1): all terms but the roots are integers or halves."""
    (found,) = measures(np.array([[1.0, 4.0]]), np.array([[4.0, 1.0]]))
    expected = [
        8,  # 1 * 4 + 4 * 1
        math.sqrt(8),
        2,  # sqrt(1 * 2 + 2 * 1)
        math.sqrt(8 / 5),
        8 / 17,
        math.sqrt(18 / 5),
        6,
        math.sqrt(2),  # (1 - 2)^2 twice
        math.sqrt(18),
        3 * math.log(4),  # half of 1 log 1/4 + 4 log 4 + 4 log 4 + 1 log 1/4
        4 / math.sqrt(5),  # 2 / sqrt 5 twice
        2 / 25,
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_measures_where_features_are_zero():
    """0 / 0 and 0 log 0 count as 0, so all measures are finite."""
    x, y = np.array([[0.0, 1.0, 0.0]]), np.array([[0.0, 1.0, 1.0]])
    (found,) = measures(x, y)
    np.testing.assert_allclose(found[[0, 3, 5, 6]], [1, math.sqrt(0.5), 1, 1], rtol=1e-6)
    np.testing.assert_allclose(found[10], math.sqrt(0.5) + 1, rtol=1e-6)
    assert np.isfinite(measures(np.zeros((1, 4)), np.zeros((1, 4)))).all()
    same = measures(y, y)[0]
    np.testing.assert_allclose(same[[5, 6, 7, 8, 9]], 0, atol=1e-9)  # the distances
    with pytest.raises(DataError, match="need nonnegative features"):
        measures(-x, y)
    with pytest.raises(DataError, match="both"):
        measures(x, y[:, :2])


def test_normalized():
    np.testing.assert_allclose(l2_normalized(np.array([[3.0, 4.0], [0, 0]])), [[0.6, 0.8], [0, 0]])


def test_vectors_of_pairs():
    pairs = Pairs(("b", "a"), ("c", "c"), np.array([True, False]), np.array([1, 2]))
    videos = pair_videos(pairs)
    assert videos == ["a", "b", "c"]
    one, other = np.eye(3), np.array([[1.0, 1], [2, 0], [0, 5]])
    vectors = pair_vectors(pairs, videos, [one, other])
    assert vectors.shape == (2, 24)
    expected = measures(np.array([[1.0, 0]]), np.array([[0.0, 1]]))
    np.testing.assert_allclose(vectors[:1, 12:], expected)


def test_standard_error():
    """For 0.7, 0.8 and 0.9: the standard deviation 0.1 over the square root of three."""
    result = Verification(np.array([0.7, 0.8, 0.9]), np.array([0.5]), 0.5)
    assert (result.accuracy, result.standard_error) == pytest.approx((0.8, 0.1 / math.sqrt(3)))


def test_cross_validation():
    pytest.importorskip("sklearn", reason="needs the extra [analysis]")
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    rng = np.random.default_rng(0)
    same = np.tile([True, False], 60)
    split = np.repeat([1, 2, 3], 40)
    # Columns with very different scales, and a constant column.
    vectors = rng.standard_normal((120, 3)) * [1, 1000, 0] + same[:, None] * [0.8, 800, 0]
    names = tuple(map(str, range(120)))
    result = verify(vectors, Pairs(names, names, same, split))
    for index, name in enumerate((1, 2, 3)):
        test = split == name
        plain = make_pipeline(StandardScaler(), SVC(kernel="linear", C=1))
        scores = plain.fit(vectors[~test], same[~test]).decision_function(vectors[test])
        assert result.accuracies[index] == ((scores > 0) == same[test]).mean()
        positive, negative = scores[same[test]], scores[~same[test]]
        assert result.aucs[index] == pytest.approx((positive[:, None] > negative).mean())
    assert 0.6 < result.accuracy < 0.95
    assert 0.6 < result.auc < 1
    with pytest.raises(DataError, match="the pairs have 1 split"):
        verify(vectors, Pairs(names, names, same, np.ones(120)))
    with pytest.raises(DataError, match="split 3: its 40 pairs are all"):
        verify(vectors, Pairs(names, names, same | (split == 3), split))


def test_pairs_from_text(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("first,second,same,split\n# a comment\na/1.avi,2.avi,1,1\n\n2.avi, 3.avi,0,2\n")
    pairs = read_pairs(path)
    assert (pairs.first, pairs.second) == (("a/1.avi", "2.avi"), ("2.avi", "3.avi"))
    assert (pairs.same.tolist(), pairs.split.tolist()) == ([True, False], [1, 2])
    for line in ("a,b,2,1", "a,b,1", "a,,1,1", "a,b,1,x"):
        path.write_text(f"a,b,1,1\n{line}\n")
        with pytest.raises(DataError, match=r"pairs\.csv, line 2: .*'first,second,same,split'"):
            read_pairs(path)
    path.write_text("first,second,same,split\n")
    with pytest.raises(DataError, match="is empty"):
        read_pairs(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_pairs(tmp_path / "gone.csv")


def test_pairs_of_the_data_set(tmp_path):
    """View2.mat has shape pairs x 5 x splits: two IDs, same, two actions."""
    from scipy.io import savemat

    table = np.zeros((2, 5, 3))
    table[:, :, 1] = [[7, 3697, 1, 4, 4], [12, 13, 0, 5, 6]]
    savemat(tmp_path / "View2.mat", {"action_splits_pairs": table})
    pairs = read_pairs(tmp_path / "View2.mat")
    assert pairs.split.tolist() == [1, 1, 2, 2, 3, 3]
    assert pairs.first[2:4] == ("0007", "0012")
    assert pairs.second[2:4] == ("3697", "0013")
    assert pairs.same[2:4].tolist() == [True, False]
    savemat(tmp_path / "View2.mat", {"other": table})
    with pytest.raises(DataError, match=r"is not ASLAN's View2\.mat"):
        read_pairs(tmp_path / "View2.mat")
    (tmp_path / "View2.mat").write_bytes(b"text")
    with pytest.raises(DataError, match=r"is not ASLAN's View2\.mat"):
        read_pairs(tmp_path / "View2.mat")
