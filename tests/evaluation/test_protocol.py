import numpy as np
import pytest

from jaxvideo.data.datasets import VideoDataset
from jaxvideo.evaluation.protocol import evaluate
from jaxvideo.evaluation.scores import confusion_matrix, topk_accuracy
from jaxvideo.types import DataError, Preprocessing, Protocol
from tests.conftest import write_video

PRE = Preprocessing(frames=2, size=40, crop=32)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return [str(write_video(folder / f"{k}.mp4", frames=12)) for k in range(3)]


def brightness(video):
    """A `predict` whose two scores say how bright a clip is: 8 k for frame k."""
    level = video[:, :, 20:, 20:].mean((1, 2, 3, 4)) / 255
    return np.stack([level, 1 - level], 1)


def test_scores_are_means_over_the_views(paths):
    data = VideoDataset(tuple(paths), (0, 1, 1), ("bright", "dark"))
    seen = []
    result = evaluate(
        lambda video: seen.append(len(video)) or brightness(video),
        data,
        PRE,
        Protocol(clips=3, crops=3),
        batch_size=2,
    )
    # Clips start at frames 0, 5 and 10 and hold two frames each: levels 4, 44 and 84.
    np.testing.assert_allclose(result.scores[:, 0], 44 / 255, atol=0.01)
    assert set(seen) == {6}
    assert result.top1 == pytest.approx(2 / 3)
    assert result.top5 == 1.0
    assert result.confusion.tolist() == [[0, 1], [0, 2]]
    assert result.clips == 9


def test_the_protocol_decides_the_test_clip(paths):
    data = VideoDataset(tuple(paths), (0, 1, 1), ("bright", "dark"))
    shapes = set()
    protocol = Protocol(clips=1, frames=7, crop=24)
    evaluate(
        lambda video: shapes.add(video.shape) or brightness(video),
        data,
        PRE,
        protocol,
        batch_size=1,
    )
    assert shapes == {(1, 7, 24, 24, 3)}
    assert "7 frames" in protocol.describe(PRE)
    assert "crop 24" in protocol.describe(PRE)


def test_broken_videos_are_listed_and_not_counted(paths):
    data = VideoDataset((*paths, "/gone.mp4"), (1, 1, 1, 0), ("bright", "dark"))
    result = evaluate(brightness, data, PRE, Protocol(clips=2), batch_size=4)
    assert result.top1 == 1.0
    assert len(result.labels) == 3
    assert list(result.broken) == ["/gone.mp4"]
    assert "/gone.mp4" in result.broken["/gone.mp4"]


def test_nothing_readable_is_an_error():
    data = VideoDataset(("/gone.mp4",), (0,), ("a", "b"))
    with pytest.raises(DataError, match=r"none of 1 videos could be read.*gone\.mp4"):
        evaluate(brightness, data, PRE, Protocol(clips=2), batch_size=4)


@pytest.mark.fast
def test_topk_counts_ties_against_the_label():
    scores = np.array([[0.3, 0.3, 0.4], [0.5, 0.5, 0.0], [1.0, 1.0, 1.0]])
    labels = np.array([2, 0, 1])
    assert topk_accuracy(scores, labels, 1) == pytest.approx(1 / 3)
    assert topk_accuracy(scores, labels, 2) == pytest.approx(2 / 3)
    assert topk_accuracy(scores, labels, 3) == 1.0


@pytest.mark.fast
def test_confusion_rows_are_labels():
    scores = np.eye(3)[[0, 1, 1, 2]]
    assert confusion_matrix(scores, np.array([0, 1, 2, 2])).tolist() == [
        [1, 0, 0],
        [0, 1, 0],
        [0, 1, 1],
    ]
