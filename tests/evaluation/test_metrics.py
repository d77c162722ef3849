"""Compares every metric with a loop over videos, and intervals with their nominal coverage."""

import dataclasses

import numpy as np
import pytest

from jaxvideo.evaluation.intervals import estimates, few_videos, interval, wilson
from jaxvideo.evaluation.metrics import (
    METRICS,
    Metric,
    average_precision,
    class_accuracy,
    confusion_matrix,
    hits,
    label_matrix,
    losses,
    mean_average_precision,
    mean_class_accuracy,
    topk_accuracy,
)
from jaxvideo.types import ConfigError, DataError


def draw(seed, videos=60, classes=7, levels=9):
    """Draws scores with few levels, hence ties, and labels that correlate with them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes - 1, size=videos)  # the last class has no video
    scores = rng.integers(levels, size=(videos, classes)).astype(np.float32)
    scores[np.arange(videos), labels] += 3
    several = label_matrix([{label, (label * 3) % (classes - 1)} for label in labels], classes)
    return scores, labels, several


def naive_hit(row, labels, k):
    """Returns True if the best label is among the top k, with ties counted against it."""
    best = max(row[label] for label in labels)
    before = [c for c in range(len(row)) if c not in labels and row[c] >= best]
    return len(before) < k


def naive_precision(scores, own):
    """Computes precision and recall at every threshold, in descending order."""
    total, area, recall = sum(own), 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        taken = [yes for score, yes in zip(scores, own, strict=True) if score >= threshold]
        now = sum(taken) / total
        area += (now - recall) * sum(taken) / len(taken)
        recall = now
    return area


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_accuracies(seed):
    scores, labels, several = draw(seed)
    for k in (1, 2, 5):
        one = [naive_hit(row, [label], k) for row, label in zip(scores, labels, strict=True)]
        any_ = [
            naive_hit(row, np.flatnonzero(own), k) for row, own in zip(scores, several, strict=True)
        ]
        assert hits(scores, labels, k).tolist() == one
        assert hits(scores, several, k).tolist() == any_
        assert topk_accuracy(scores, labels, k) == pytest.approx(sum(one) / len(one))
    right = {}
    for row, label in zip(scores, labels, strict=True):
        right.setdefault(int(label), []).append(naive_hit(row, [label], 1))
    shares = {label: sum(found) / len(found) for label, found in right.items()}
    by_class = class_accuracy(scores, labels)
    assert np.isnan(by_class[6])
    assert {i: by_class[i] for i in shares} == pytest.approx(shares)
    assert mean_class_accuracy(scores, labels) == pytest.approx(sum(shares.values()) / 6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_average_precision(seed):
    scores, _, several = draw(seed)
    expected = [naive_precision(scores[:, c], several[:, c].tolist()) for c in range(6)]
    np.testing.assert_allclose(average_precision(scores, several)[:6], expected)
    assert np.isnan(average_precision(scores, several)[6])
    assert mean_average_precision(scores, several) == pytest.approx(np.mean(expected))
    order = np.random.default_rng(seed).permutation(len(scores))
    np.testing.assert_allclose(average_precision(scores[order], several[order])[:6], expected)


def test_average_precision_by_hand():
    """Right, wrong, right: 1/2 x 1 + 1/2 x 2/3. All scores equal: the share of the class."""
    own = np.array([[True], [False], [True]])
    assert average_precision(np.array([[3.0], [2.0], [1.0]]), own)[0] == pytest.approx(5 / 6)
    assert average_precision(np.ones((3, 1)), own)[0] == pytest.approx(2 / 3)


def test_topk_counts_ties_against_the_label():
    scores = np.array([[0.3, 0.3, 0.4], [0.5, 0.5, 0.0], [1.0, 1.0, 1.0]])
    labels = np.array([2, 0, 1])
    assert topk_accuracy(scores, labels, 1) == pytest.approx(1 / 3)
    assert topk_accuracy(scores, labels, 2) == pytest.approx(2 / 3)
    assert topk_accuracy(scores, labels, 3) == 1.0


def test_scores_that_are_no_numbers_are_never_right():
    scores = np.array([[np.nan, 0.0], [0.0, np.nan], [np.nan, np.nan], [0.0, 1.0]])
    assert hits(scores, np.array([0, 0, 1, 1]), 1).tolist() == [False, False, False, True]
    own = np.array([[True, False], [False, True], [False, True], [False, True]])
    # The first and the third video share the last rank of their class: 1 of 4.
    assert average_precision(scores, own)[0] == pytest.approx(1 / 4)


def test_confusion_rows_are_labels():
    scores = np.eye(3)[[0, 1, 1, 2]]
    assert confusion_matrix(scores, np.array([0, 1, 2, 2])).tolist() == [
        [1, 0, 0],
        [0, 1, 0],
        [0, 1, 1],
    ]


def test_losses():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]])
    labels = np.array([0, 1])
    expected = -np.log([0.7, 0.5])
    np.testing.assert_allclose(losses(probabilities, labels), expected)
    logits = np.log(np.maximum(probabilities, 1e-30)) + 400
    np.testing.assert_allclose(losses(logits, labels, "logits"), expected)
    several = np.array([[True, True, False], [False, True, False]])
    np.testing.assert_allclose(losses(probabilities, several)[0], -np.log(0.7 * 0.2) / 2)
    expected = -np.log([0.7 * 0.2 * 0.9, 1 * 0.5 * 0.5]) / 3
    np.testing.assert_allclose(losses(probabilities, several, "sigmoid"), expected)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", METRICS)
def test_weights_count_as_repetitions(name, seed):
    """Integer weights equal repeated videos, also for several sets of weights at once."""
    scores, labels, several = draw(seed)
    metric = METRICS[name]
    truth = several if metric.labels == "multi" else labels
    times = np.random.default_rng(seed).integers(0, 4, (len(scores), 3))
    rows = [np.repeat(np.arange(len(scores)), column) for column in times.T]
    expected = [metric(scores[row], truth[row]) for row in rows]
    for weights in (times, times.astype(np.float32), times.astype(np.uint8)):
        found = [metric(scores, truth, column) for column in weights.T]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        assert metric.batched
        np.testing.assert_allclose(metric.function(scores, truth, weights), found, rtol=1e-12)
    halved = [metric(scores, truth, column / 2) for column in times.T]
    np.testing.assert_allclose(halved, expected, rtol=1e-12)


def test_metric_from_outside():
    """A function with the signature of a metric works in the table and alone."""

    def margin(scores, labels, weights):
        own = scores[np.arange(len(labels)), labels]
        return float(np.average(own - scores.mean(1), weights=weights))

    scores, labels, several = draw(4, videos=300)
    alone = interval(margin, scores, labels, draws=300)
    row = Metric("mean margin", margin, labels="single")
    found = estimates(scores, labels, metrics={**METRICS, "margin": row}, draws=300)
    own = [name for name, metric in METRICS.items() if metric.applies(scores, labels)]
    assert list(found) == [*own, "margin"]
    assert found["margin"] == alone
    assert found["top1"] == interval(METRICS["top1"], scores, labels, draws=300)
    own = scores[np.arange(300), labels] - scores.mean(1)
    assert alone.value == pytest.approx(own.mean())
    error = float(own.std()) / 300**0.5  # standard error of a mean
    assert alone.low == pytest.approx(own.mean() - 1.96 * error, abs=0.5 * error)
    assert alone.high == pytest.approx(own.mean() + 1.96 * error, abs=0.5 * error)
    assert "margin" not in estimates(scores, several, metrics={"margin": row}, draws=2)


def test_blocks_of_resamples_do_not_change_the_interval(monkeypatch):
    from jaxvideo.evaluation import intervals

    scores, labels, several = draw(5)
    whole = [estimates(scores, truth, draws=50) for truth in (labels, several)]
    monkeypatch.setattr(intervals, "_BLOCK", 7 * len(scores))
    assert [estimates(scores, truth, draws=50) for truth in (labels, several)] == whole


@pytest.mark.parametrize("multi", [False, True])
def test_intervals_are_those_of_a_bootstrap(multi):
    """The generic bootstrap by weights equals resampling rows."""
    scores, labels, several = draw(3, videos=200)
    truth = several if multi else labels
    drawn = {name: dataclasses.replace(row, proportion=False) for name, row in METRICS.items()}
    found = estimates(scores, truth, metrics=drawn, draws=4000)
    metrics = {
        "top1": lambda s, t: topk_accuracy(s, t, 1),
        "top5": lambda s, t: topk_accuracy(s, t, 5),
    }
    if multi:
        metrics["mean_average_precision"] = mean_average_precision
    else:
        metrics["mean_class_accuracy"] = mean_class_accuracy
    assert found.keys() >= metrics.keys()
    rng = np.random.default_rng(9)
    redrawn = [rng.integers(200, size=200) for _ in range(1000)]
    for name, metric in metrics.items():
        value = metric(scores, truth)
        again = np.array([metric(scores[rows], truth[rows]) for rows in redrawn])
        if name == "mean_average_precision":
            again += value - again.mean()
        low, high = np.quantile(again, [0.025, 0.975])
        assert found[name].value == pytest.approx(value)
        # With 1000 draws, the ends vary by a few hundredths of the width.
        assert found[name].low == pytest.approx(low, abs=0.15 * (high - low))
        assert found[name].high == pytest.approx(high, abs=0.15 * (high - low))


@pytest.mark.parametrize("multi", [False, True])
def test_intervals_hold_the_truth_as_often_as_they_say(multi):
    """Over random data sets, 95 % of the intervals cover the true value (150 sets: +- 2 %)."""
    rng = np.random.default_rng(0)

    def sample(videos):
        scores = rng.normal(size=(videos, 6))
        if multi:
            own = rng.random((videos, 6)) < 0.2
            return scores + own, own
        labels = rng.integers(6, size=videos)
        return scores + 1.5 * (labels[:, None] == np.arange(6)), labels

    if multi:  # for the same number of videos: fewer videos have a higher average precision
        name, videos = "mean_average_precision", 120
        truth = np.mean([mean_average_precision(*sample(videos)) for _ in range(200)])
    else:
        name, videos = "top1", 120
        truth = topk_accuracy(*sample(200_000), 1)
    found = [estimates(*sample(videos), draws=200, seed=i)[name] for i in range(150)]
    assert 0.88 <= np.mean([one.low <= truth <= one.high for one in found]) <= 0.99


def test_intervals_are_a_function_of_the_seed():
    scores, labels, _ = draw(0)
    assert estimates(scores, labels) == estimates(scores, labels)
    assert estimates(scores, labels) != estimates(scores, labels, seed=1)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_as_published(right, total, low, high):
    """Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I."""
    assert wilson(right, total) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(total - right, total)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilson_solves_its_equation():
    """The ends are the shares p with |right / total - p| = z sqrt(p (1 - p) / total)."""
    for level, z in ((0.9, 1.6449), (0.95, 1.96), (0.99, 2.5758)):
        for end in wilson(7, 11, level):
            assert abs(7 / 11 - end) == pytest.approx(z * (end * (1 - end) / 11) ** 0.5, rel=1e-4)


def test_few_videos_and_few_classes_do_not_flatter():
    """Six videos, all right: no interval of width 0, no top-5 of fewer than six classes."""
    scores, labels = np.eye(5)[[0, 1, 2, 3, 4, 0]], np.array([0, 1, 2, 3, 4, 0])
    found = estimates(scores, labels)
    assert list(found) == ["top1", "mean_class_accuracy"]
    assert str(found["top1"]) == "100.00 % [60.97, 100.00]"
    # Every resample has the same mean class accuracy.
    assert str(found["mean_class_accuracy"]) == "100.00 %"
    assert (found["mean_class_accuracy"].low, found["mean_class_accuracy"].high) == (None, None)
    assert "top5" in estimates(np.eye(6), np.arange(6))
    several = np.eye(5, dtype=bool)
    assert list(estimates(np.eye(5), several)) == ["top1", "mean_average_precision"]
    assert few_videos(29).startswith("Only 29 test videos: the intervals are wide")
    assert few_videos(1).startswith("Only 1 test video:")
    assert few_videos(30) == ""


@pytest.mark.parametrize(
    ("labels", "how", "error", "text"),
    [
        ([0], {"draws": 1}, ConfigError, "draws=1"),
        ([0], {"level": 1.0}, ConfigError, "level=1.0"),
        ([], {}, DataError, "no videos"),
    ],
)
def test_wrong_calls(labels, how, error, text):
    with pytest.raises(error, match=text):
        estimates(np.ones((len(labels), 2)), np.array(labels, int), **how)
