import numpy as np
import pytest

from jaxvideo.evaluation.fusion import fuse
from jaxvideo.types import ConfigError, DataError

SPATIAL = np.array([[3.0, 1.0, -2.0], [-1.0, -5.0, -2.0]])
TEMPORAL = np.array([[-4.0, 1.0, 1.0], [2.0, 0.0, 6.0]])

pytestmark = pytest.mark.fast


def test_relu():
    """Negatives to 0, rows divided by their sum, then 1 x spatial + 1.5 x temporal."""
    fused = fuse([SPATIAL, TEMPORAL], [1, 1.5], how="relu")
    by_hand = [[0.75, 0.25 + 0.75, 0.75], [1.5 * 0.25, 0, 1.5 * 0.75]]
    np.testing.assert_allclose(fused, by_hand)


def test_scores():
    fused = fuse([SPATIAL, TEMPORAL], [2, 1], how="scores")
    np.testing.assert_allclose(fused, [[2, 3, -3], [0, -10, 2]])


def test_softmax():
    """Logs of probabilities are logits of them, and a constant more changes nothing."""
    first, second = np.array([[0.5, 0.25, 0.25]]), np.array([[0.1, 0.1, 0.8]])
    fused = fuse([np.log(first) + 800, np.log(second).astype(np.float32)])
    np.testing.assert_allclose(fused, first + second, rtol=1e-6)


def test_the_rules_differ():
    """A large negative score counts among raw scores only."""
    answers = [
        int(fuse([SPATIAL, TEMPORAL], how=how)[0].argmax()) for how in ("relu", "softmax", "scores")
    ]
    assert answers == [0, 0, 1]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (([SPATIAL], None, "mean"), ConfigError, "how='mean': allowed are"),
        (([SPATIAL, TEMPORAL], [1.0]), ConfigError, "one for each of 2 score arrays"),
        (([SPATIAL, TEMPORAL[:, :2]],), DataError, r"\(2, 2\), \(2, 3\)"),
        (([],), DataError, "all must be the same"),
    ],
)
def test_wrong_calls(arguments, error, text):
    with pytest.raises(error, match=text):
        fuse(*arguments)
