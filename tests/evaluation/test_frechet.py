import numpy as np
import pytest

from jaxvideo.evaluation.frechet import frechet_distance, statistics
from jaxvideo.types import DataError


def gaussian(rng, d, rank):
    half = rng.normal(size=(d, rank))
    return rng.normal(size=d), half @ half.T / rank


def test_diagonal_gaussians():
    """Independent numbers: the sum of (m1 - m2)^2 + (s1 - s2)^2."""
    m1, s1 = np.array([0.0, 1.0, -2.0]), np.array([1.0, 2.0, 0.0])
    m2, s2 = np.array([3.0, 1.0, 0.0]), np.array([4.0, 0.5, 1.0])
    expected = 9 + 0 + 4 + 9 + 2.25 + 1
    distance = frechet_distance(m1, np.diag(s1**2), m2, np.diag(s2**2))
    assert distance == pytest.approx(expected, rel=1e-12)


def test_rotated_gaussians():
    """Hand calculation of tr (C1 C2)^(1/2) in two dimensions: it squares to
    tr(C1 C2) + 2 sqrt(det C1 det C2)."""
    c1, c2 = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[5.0, -1.0], [-1.0, 1.0]])
    overlap = ((2 * 5 - 1) + (-1 + 3) + 2 * (5 * 4) ** 0.5) ** 0.5
    expected = 5 + 6 - 2 * overlap
    assert frechet_distance(np.zeros(2), c1, np.zeros(2), c2) == pytest.approx(expected)


@pytest.mark.parametrize("rank", [4, 60])
def test_same_and_moved(rank):
    """The distance is 0, and |d|^2 after a shift by d, even if the covariance is singular."""
    rng = np.random.default_rng(0)
    mean, cov = gaussian(rng, 40, rank)
    assert frechet_distance(mean, cov, mean, cov) < 1e-10
    step = rng.normal(size=40)
    moved = frechet_distance(mean, cov, mean + step, cov)
    assert moved == pytest.approx((step**2).sum(), rel=1e-10)


@pytest.mark.filterwarnings("ignore:Matrix is singular")
@pytest.mark.parametrize(("rank", "tolerance"), [(80, 1e-8), (8, 1e-4)])
def test_equals_the_root_of_the_product(rank, tolerance):
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(0)
    (m1, c1), (m2, c2) = gaussian(rng, 30, rank), gaussian(rng, 30, rank)
    root = np.real(linalg.sqrtm(c1 @ c2 + 0j))
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * root)
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(expected, rel=tolerance)
    assert frechet_distance(m2, c2, m1, c1) == pytest.approx(expected, rel=tolerance)


def test_estimates_converge():
    rng = np.random.default_rng(0)
    s1, s2, step = np.array([1.0, 2.0, 0.5]), np.array([2.0, 1.0, 0.5]), np.array([1.0, 0.0, 0.0])
    truth = 1 + 1 + 1
    errors = []
    for count in (100, 100_000):
        first = s1 * rng.normal(size=(count, 3))
        second = step + s2 * rng.normal(size=(count, 3))
        errors.append(abs(frechet_distance(*statistics(first), *statistics(second)) - truth))
    assert errors[1] < 0.05
    assert errors[1] < errors[0]


def test_statistics():
    """Far from 0, E[x^2] - E[x]^2 in f32 would lose all digits."""
    features = (np.random.default_rng(0).normal(size=(50, 6)) + 3000).astype(np.float32)
    mean, cov = statistics(features)
    wide = features.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(0), rtol=1e-14)
    np.testing.assert_allclose(cov, np.cov(wide.T), rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: statistics(np.zeros((1, 4))),
            r"shape \(1, 4\): must be \[M, D\] with M at least 2",
        ),
        (lambda: statistics(np.zeros((5, 1, 4))), r"shape \(5, 1, 4\)"),
        (lambda: frechet_distance([0], [[1]], [0, 0], np.eye(2)), r"means \(1,\), \(2,\)"),
        (lambda: frechet_distance([np.nan], [[1]], [0], [[1]]), "NaN or infinity"),
    ],
)
def test_wrong_calls(call, text):
    with pytest.raises(DataError, match=text):
        call()
