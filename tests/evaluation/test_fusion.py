import argparse
import os

import numpy as np
import pytest

from jaxvideo.cli import fuse as fuse_command
from jaxvideo.evaluation.fusion import (
    Scores,
    align,
    fuse,
    held_out,
    load_scores,
    save_scores,
    tune,
    video_names,
)
from jaxvideo.evaluation.metrics import topk_accuracy
from jaxvideo.types import CheckpointError, ConfigError, DataError

SPATIAL = np.array([[3.0, 1.0, -2.0], [-1.0, -5.0, -2.0]])
TEMPORAL = np.array([[-4.0, 1.0, 1.0], [2.0, 0.0, 6.0]])


def test_relu():
    """Negatives to 0, rows divided by their sum, then 1 x spatial + 1.5 x temporal."""
    fused = fuse([SPATIAL, TEMPORAL], [1, 1.5], how="relu")
    by_hand = [[0.75, 0.25 + 0.75, 0.75], [1.5 * 0.25, 0, 1.5 * 0.75]]
    np.testing.assert_allclose(fused, by_hand)


def test_scores():
    fused = fuse([SPATIAL, TEMPORAL], [2, 1], how="scores")
    np.testing.assert_allclose(fused, [[2, 3, -3], [0, -10, 2]])


def test_softmax():
    """Logarithms of probabilities are valid logits, and adding a constant changes nothing."""
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
        (([],), DataError, "all must have the same"),
    ],
)
def test_wrong_calls(arguments, error, text):
    with pytest.raises(error, match=text):
        fuse(*arguments)


def streams(videos=400, seed=0):
    """Probabilities of three streams, and labels: a fair stream, a good one at a quarter of its
    scale, and noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(5, size=videos)
    own = labels[:, None] == np.arange(5)
    fair, good, noise = rng.normal(size=(3, videos, 5))
    return [fair + own, (good + 2 * own) / 4, noise], labels


def test_tuned_weights():
    """The tuned weights match the best of a fine grid; the noise gets the smallest weight."""
    scores, labels = streams()
    weights = tune(scores, labels, "scores")
    assert weights[0] == 1

    def accuracy(*weights):
        fused = sum(w * s for w, s in zip(weights, scores, strict=True))
        return topk_accuracy(fused, labels, 1)

    grid = np.geomspace(1 / 8, 8, 25)
    best = max(accuracy(1, a, b) for a in grid for b in grid)
    assert accuracy(*weights) >= best - 0.01
    assert accuracy(*weights) > accuracy(1, 1, 1) + 0.02
    assert weights[1] > 2
    assert weights[2] < 0.5


def test_equal_accuracy_is_equal_weight():
    scores = [np.eye(3), np.eye(3)]
    assert tune(scores, np.arange(3), "scores") == (1.0, 1.0)


def test_what_is_held_out():
    part, rest = held_out(100, 0.3)
    assert (len(part), len(rest)) == (30, 70)
    assert sorted([*part, *rest]) == list(range(100))
    assert held_out(100, 0.3)[0].tolist() == part.tolist()
    assert held_out(100, 0.3, seed=1)[0].tolist() != part.tolist()
    for share in (0.0, 1.0, 1.5, 0.001):
        with pytest.raises(ConfigError, match="leaves one part empty"):
            held_out(100, share)


def test_names_of_videos():
    """Videos, their frame directories and their flow have equal names in any directory."""
    assert video_names(["/a/x/v_1.avi", "/a/y/v.2.mp4"]) == ("x/v_1", "y/v.2")
    assert video_names(["/flow/x/v_1", "/flow/y/v.2"]) == ("x/v_1", "y/v.2")
    assert video_names([]) == ()


def test_scores_are_kept(tmp_path):
    found = Scores(SPATIAL, np.array([0, 2]), ("a", "b", "c"), ("x", "y"), TEMPORAL > 0)
    save_scores(tmp_path / "scores.npz", found)
    for source in (tmp_path, tmp_path / "scores.npz"):
        again = load_scores(source)
        np.testing.assert_array_equal(again.scores, found.scores)
        np.testing.assert_array_equal(again.truth, TEMPORAL > 0)
        assert (again.classes, again.videos) == (found.classes, found.videos)
    (tmp_path / "other.npz").write_bytes(b"no scores")
    for wrong in (tmp_path / "other.npz", tmp_path / "none"):
        with pytest.raises(CheckpointError, match="nor a file of scores"):
            load_scores(wrong)


def test_files_are_aligned_by_the_names_of_videos():
    """One stream lacks a video, and the other stream has another order."""
    classes = ("a", "b", "c")
    one = Scores(np.eye(3), np.array([0, 1, 2]), classes, ("x", "y", "z"))
    other = Scores(np.eye(3)[[2, 0]], np.array([2, 0]), classes, ("z", "x"))
    first, second = align([one, other], ["one", "other"])
    assert first.videos == second.videos == ("x", "z")
    np.testing.assert_array_equal(first.scores, second.scores)
    assert second.labels.tolist() == [0, 2]
    relabeled = Scores(other.scores, np.array([1, 0]), classes, other.videos)
    with pytest.raises(ConfigError, match="one and other were tested on different labels"):
        align([one, relabeled], ["one", "other"])
    with pytest.raises(ConfigError, match=r"no video in common\. The first video of each: x, q"):
        align([one, Scores(np.eye(3)[:1], np.array([0]), classes, ("q",))], ["one", "other"])
    with pytest.raises(ConfigError, match="different classes"):
        align([one, Scores(one.scores, one.labels, ("a", "b", "d"))], ["one", "other"])
    # Without names, labels must be equal and in the same order.
    nameless = Scores(one.scores, one.labels, classes)
    assert align([nameless, one], ["one", "other"])[0] is nameless
    with pytest.raises(ConfigError, match="different labels"):
        align([nameless, other], ["one", "other"])


def command(*arguments):
    parser = argparse.ArgumentParser()
    fuse_command.add(parser.add_subparsers(dest="command"))
    options = parser.parse_args(["fuse", *map(str, arguments)])
    return options.run(options)


def test_tuning_tells_the_result_of_other_videos(tmp_path, capsys):
    scores, labels = streams()
    for name, one in zip(("fair", "good"), scores, strict=False):
        names = tuple(f"v{i}" for i in range(400))
        save_scores(tmp_path / f"{name}.npz", Scores(one, labels, tuple("abcde"), names))
    paths = [tmp_path / "fair.npz", tmp_path / "good.npz"]
    assert command(*paths, "--tune", "0.25", "--how", "scores") == 0
    printed = capsys.readouterr().out
    part, rest = held_out(400, 0.25)
    weights = tune([one[part] for one in scores[:2]], labels[part], "scores")
    fused = weights[0] * scores[0] + weights[1] * scores[1]
    expected = 100 * topk_accuracy(fused[rest], labels[rest], 1)
    last = printed.splitlines()[-1]
    assert float(last.split()[0]) == pytest.approx(expected, abs=0.005)
    assert f"weights 1 {weights[1]:.3g} tuned on 100 other videos" in last
    assert "of 300 videos" in last


@pytest.mark.skipif(
    "JAXVIDEO_UCF101_SCORES" not in os.environ,
    reason="JAXVIDEO_UCF101_SCORES: scores of Hidden-Two-Stream's three nets as one .npz",
)
@pytest.mark.parametrize(
    ("temporal", "weight", "how", "accuracy"),
    [
        ("hidden", 1.5, "relu", 89.003),
        ("hidden", 2, "relu", 89.188),
        ("tvl1", 1, "softmax", 88.977),
        ("tvl1", 1.5, "relu", 91.303),
        ("tvl1", 2, "scores", 91.092),
    ],
)
def test_published_scores(temporal, weight, how, accuracy):
    """UCF101 split 1, from the files in bryanyzhu/Hidden-Two-Stream `test/`, also with its rule."""
    with np.load(os.environ["JAXVIDEO_UCF101_SCORES"]) as file:
        fused = fuse([file["spatial"], file[temporal]], [1, weight], how)
        assert 100 * topk_accuracy(fused, file["labels"], 1) == pytest.approx(accuracy, abs=5e-4)
