"""Compares scores with a loop over single views, for all ways of reading and batching."""

import dataclasses
import threading

import numpy as np
import pytest

from jaxvideo.data import protocol_reader
from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.loading import Loading
from jaxvideo.data.pipeline import Share, read_views
from jaxvideo.data.protocol_reader import Clip, protocol_clips, read_tests
from jaxvideo.data.video import open_video
from jaxvideo.data.views import protocol_views
from jaxvideo.evaluation.protocol import evaluate, join
from jaxvideo.evaluation.scoring import mean_scores, score_videos
from jaxvideo.types import DataError, Preprocessing, Protocol, VideoError
from tests.conftest import write_video

# RGB from the host, because the networks of this file compute in NumPy.
PRE = Preprocessing(frames=6, size=40, crop=32, pixels="rgb")
CLASSES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Videos of 12, 4 (shorter than a clip) and 30 frames."""
    folder = tmp_path_factory.mktemp("videos")
    sizes = {"x": (12, (48, 64)), "short": (4, (64, 48)), "long": (30, (50, 90))}
    return tuple(
        str(write_video(folder / f"{name}.mp4", frames=frames, size=size))
        for name, (frames, size) in sizes.items()
    )


@pytest.fixture(scope="module")
def data(paths):
    return VideoDataset(paths, (0, 1, 1), CLASSES)


def network(aggregation):
    """A `predict` that depends on every pixel, its time and its position; rows are independent."""

    def predict(video):
        flat = video.reshape(len(video), -1).astype(np.float64) / 255
        weights = np.random.default_rng(1).normal(size=(flat.shape[1], len(CLASSES)))
        logits = np.stack([row @ weights for row in flat]) / 10
        if aggregation == "logits":
            return logits
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True)

    return predict


def by_hand(predict, path, protocol, preprocessing=PRE):
    """Averages the scores of a video's views, each read and scored alone."""
    p = protocol.apply(preprocessing)
    total, count = np.zeros(len(CLASSES)), 0
    with open_video(path) as video:
        size = video.num_frames, video.height, video.width, video.fps
        for views in protocol_views(*size, p, protocol, times=video.times):
            for view in views:
                total += predict(read_views(video, [view], p))[0]
                count += 1
    return total / count


PROTOCOLS = [
    Protocol(clips=3, crops=3),
    Protocol(clips=10, crops=3, aggregation="logits"),
    Protocol(clips=2, crops=10, frames=4, crop=24),
    Protocol(clips=1, crops=1),
    Protocol(clips=0, crops=5, starts="windows"),
]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: f"{p.clips}x{p.crops}-{p.starts}")
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_three_videos_by_hand(data, protocol, batch_size):
    """Fewer views than one call takes, the same number, and more."""
    predict, calls = network(protocol.aggregation), []
    result = evaluate(
        lambda video: calls.append(len(video)) or predict(video),
        data,
        PRE,
        protocol,
        batch_size=batch_size,
    )
    expected = [by_hand(predict, path, protocol) for path in data.paths]
    np.testing.assert_allclose(result.scores, expected, rtol=1e-5)
    assert set(calls) == {batch_size}
    distinct = 0
    for path in data.paths:
        with open_video(path) as video:
            distinct += len(list(protocol_clips(video, protocol.apply(PRE), protocol)))
    assert len(calls) == -(-distinct * protocol.crops // batch_size)
    if protocol.starts == "ends":
        assert result.clips == 3 * protocol.clips
    else:  # 6 consecutive frames; the remaining frames are one more clip
        assert result.clips == 2 + 1 + 5


def test_equal_clips_are_computed_once(data):
    """A video that is shorter than a clip has one clip; one that is hardly longer has few."""
    calls, predict = [], network("softmax")
    short = VideoDataset((data.paths[1],), (0,), CLASSES)
    result = evaluate(
        lambda video: calls.append(len(video)) or predict(video),
        short,
        PRE,
        Protocol(clips=10, crops=3),
        batch_size=3,
    )
    assert calls == [3]
    assert result.clips == 10
    expected = by_hand(predict, data.paths[1], Protocol(clips=10, crops=3))
    np.testing.assert_allclose(result.scores[0], expected, rtol=1e-6)
    # 12 frames and clips of 11: starts 0 and 1. Of 5 clips, i * 1 // 4 is 0 for the first 4.
    p = dataclasses.replace(PRE, frames=11)
    with open_video(data.paths[0]) as video:
        found = list(protocol_clips(video, p, Protocol(clips=5)))
    assert [clip.repeats for clip in found] == [4, 1]
    assert [clip.frames for clip in found] == [(0, 10), (1, 11)]
    np.testing.assert_allclose([clip.seconds for clip in found], [(0, 0.44), (0.04, 0.48)])
    one = VideoDataset((data.paths[0],), (0,), CLASSES)
    result = evaluate(predict, one, p, Protocol(clips=5), batch_size=2)
    expected = by_hand(predict, data.paths[0], Protocol(clips=5), p)
    np.testing.assert_allclose(result.scores[0], expected, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_scores_of_each_clip(data, batch_size):
    """The driver yields each video with its clips as soon as it is scored, and errors in place."""
    paths = (data.paths[0], "/gone.mp4", *data.paths[1:])
    predict, protocol, order = network("softmax"), Protocol(clips=3, crops=3), []

    def counting(video):
        order.append("call")
        return predict(video)

    stream = read_tests(lambda i: open_video(paths[i]), range(4), PRE, protocol, ahead=6)
    found = {}
    for number, clips in score_videos(counting, stream, batch_size):
        order.append(number)
        found[number] = clips
    assert [one for one in order if one != "call"] == [0, 1, 2, 3]
    assert "gone.mp4" in str(found.pop(1))
    if batch_size == 3:  # one call per clip; the result of a call is read after the next one
        assert order == [*["call"] * 4, 0, 1, "call", 2, "call", "call", 3]
    for number, clips in found.items():
        with open_video(paths[number]) as video:
            size = video.num_frames, video.height, video.width, video.fps
            views = protocol_views(*size, PRE, protocol, times=video.times)
            rows = [np.mean(predict(read_views(video, crops, PRE)), 0) for crops in views]
        repeated = [clip.scores for clip in clips for _ in range(clip.repeats)]
        np.testing.assert_allclose(repeated, rows, rtol=1e-6)
        np.testing.assert_allclose(mean_scores(clips), np.mean(rows, 0), rtol=1e-6)


def test_frames_without_a_rate_have_no_seconds():
    frames = np.zeros((8, 48, 64, 3), np.uint8)
    with open_video(frames) as video:
        (clip,) = protocol_clips(video, PRE, Protocol(clips=1))
    assert (clip.frames, clip.seconds) == ((1, 6), None)


def test_numbers_of_a_result(data):
    """Brightness: clips start at frames 0, 5 and 10 of frames whose level is 8 k."""
    dark = dataclasses.replace(PRE, frames=2, pixels="rgb")
    folder = VideoDataset((data.paths[0],) * 3, (0, 1, 1), ("bright", "dark"))

    def brightness(video):
        level = video[:, :, 20:, 20:].mean((1, 2, 3, 4)) / 255
        return np.stack([level, 1 - level], 1)

    result = evaluate(brightness, folder, dark, Protocol(clips=3, crops=1), batch_size=2)
    np.testing.assert_allclose(result.scores[:, 0], 44 / 255, atol=0.01)
    assert result.top1 == pytest.approx(2 / 3)
    assert result.top5 is None  # of two classes it would be 1
    assert result.confusion.tolist() == [[0, 1], [0, 2]]
    assert (result.coverage, result.expected) == (1.0, 3)
    share = result.scores[0]
    assert result.loss == pytest.approx(-np.log([share[0], share[1], share[1]]).mean())
    assert result.losses.argmax() == 0


@pytest.mark.parametrize("loading", [Loading(1, 0, 1), Loading(4, 0, 1), Loading(2, 2, 3)])
def test_threads_change_nothing(data, loading):
    many = VideoDataset(data.paths * 4, data.labels * 4, CLASSES)
    protocol, predict = Protocol(clips=4, crops=3), network("softmax")
    one = evaluate(predict, many, PRE, protocol, batch_size=5)
    other = evaluate(predict, many, PRE, protocol, batch_size=5, loading=loading)
    np.testing.assert_array_equal(other.scores, one.scores)
    assert not [t for t in threading.enumerate() if t.name.startswith("test-reader")]


@pytest.mark.parametrize("count", [2, 4])
def test_shares_put_together(data, count):
    """Each video is scored once for any number of hosts; one of four hosts has no video."""
    missing = dataclasses.replace(data, missing=("gone",))
    protocol, predict = Protocol(clips=2), network("softmax")
    whole = evaluate(predict, missing, PRE, protocol, batch_size=4)
    parts = [
        evaluate(predict, missing, PRE, protocol, batch_size=4, share=Share(i, count))
        for i in range(count)
    ]
    assert [len(part.labels) for part in parts] == [len(range(i, 3, count)) for i in range(count)]
    joined = join(parts[::-1])
    np.testing.assert_allclose(joined.scores, whole.scores)
    for name in ("labels", "videos"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    assert (joined.expected, joined.clips) == (whole.expected, whole.clips) == (4, 6)
    assert joined.coverage == 0.75


def test_several_labels(data):
    several = dataclasses.replace(data, label_sets=((0, 3), (1,), (1, 2)), quarantined=("q",))
    result = evaluate(network("softmax"), several, PRE, Protocol(clips=1), batch_size=4)
    assert result.label_sets.tolist() == [
        [True, False, False, True],
        [False, True, False, False],
        [False, True, True, False],
    ]
    assert result.truth is result.label_sets
    assert result.coverage == 0.75
    best = result.scores.argmax(1)
    assert result.top1 == np.mean([i in s for i, s in zip(best, several.label_sets, strict=True)])


def test_broken_videos_are_listed_and_not_counted(data, paths, monkeypatch):
    """A video that breaks after its first clips is excluded completely."""
    data = VideoDataset((*paths, "/gone.mp4"), (1, 1, 1, 0), CLASSES)
    cut = protocol_reader.cut_frames

    def breaks(file, wanted, *how):
        for index, cuts in cut(file, wanted, *how):
            if file.path == paths[2] and index > 20:
                raise VideoError(f"{file.path}: frame {index} is corrupt")
            yield index, cuts

    monkeypatch.setattr(protocol_reader, "cut_frames", breaks)
    told = []
    result = evaluate(
        network("softmax"),
        data,
        PRE,
        Protocol(clips=4),
        batch_size=3,
        progress=lambda *done: told.append(done[:2]),
    )
    assert result.videos.tolist() == [0, 1]
    assert list(result.broken) == [paths[2], "/gone.mp4"]
    assert "frame 21 is corrupt" in result.broken[paths[2]]
    assert "/gone.mp4" in result.broken["/gone.mp4"]
    assert result.coverage == 0.5
    np.testing.assert_allclose(
        result.scores[0], by_hand(network("softmax"), paths[0], Protocol(clips=4)), rtol=1e-5
    )
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (16, 16)


def test_nothing_readable_is_an_error():
    data = VideoDataset(("/gone.mp4",), (0,), ("a", "b"))
    with pytest.raises(DataError, match=r"none of 1 videos could be read.*gone\.mp4"):
        evaluate(network("softmax"), data, PRE, Protocol(clips=2), batch_size=4)
    part = evaluate(
        network("softmax"), data, PRE, Protocol(clips=2), batch_size=4, share=Share(0, 2)
    )
    assert part.scores.shape == (0, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"short": "hold"},
        {"short": "pad"},
        {"stride": 3},
        {"fps": 10.0},
        {"modality": "rgb_diff"},
        {"frames": 6, "segments": 3},
        {"modality": "flow", "flow": "dis", "mean": (0.0,) * 2, "std": (1.0,) * 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("protocol", [Protocol(clips=5, crops=3), Protocol(clips=2, crops=10)])
def test_clips_of_one_pass_are_those_read_alone(paths, changes, protocol):
    p = dataclasses.replace(PRE, **changes)
    for path in paths:
        with open_video(path) as video:
            size = video.num_frames, video.height, video.width, video.fps
            expected = protocol_views(*size, p, protocol, times=video.times)
            clips = list(protocol_clips(video, p, protocol))
            assert sum(clip.repeats for clip in clips) == protocol.clips
            pixels = [clip.views for clip in clips for _ in range(clip.repeats)]
            for clip, views in zip(pixels, expected, strict=True):
                np.testing.assert_array_equal(clip, read_views(video, views, p))


def test_a_video_is_opened_and_decoded_once(data, monkeypatch):
    """30 views of 30 frames: every frame is decoded once, in order."""
    opened, decoded = [], []
    cut = protocol_reader.cut_frames

    class Counting(VideoDataset):
        def open(self, index):
            opened.append(index)
            return super().open(index)

    def counting(file, wanted, *how):
        for index, cuts in cut(file, wanted, *how):
            decoded.append(index)
            yield index, cuts

    monkeypatch.setattr(protocol_reader, "cut_frames", counting)
    one = Counting(data.paths[2:], (1,), CLASSES)
    evaluate(network("softmax"), one, PRE, Protocol(clips=10, crops=3), batch_size=8)
    assert opened == [0]
    assert decoded == list(range(30))


@pytest.mark.parametrize("threads", [1, 3])
def test_memory_is_bounded(threads, monkeypatch):
    """The queue never exceeds its limit, for videos of any length and a slow network."""
    held, most, lock = 0, 0, threading.Lock()
    views, ahead = 3, 10

    def clips(file, preprocessing, protocol):
        nonlocal held, most
        for _ in range(25):
            with lock:
                held += views
                most = max(most, held)
            yield Clip(np.zeros((views, 1), np.uint8), 1, (0, 0), None)

    class Nothing(VideoDataset):
        def open(self, index):
            return threading.Lock()  # any context manager

    monkeypatch.setattr(protocol_reader, "protocol_clips", clips)
    data = Nothing(("",) * 6, (0,) * 6, CLASSES)
    order = []
    for video, piece in read_tests(
        data.open, range(6), PRE, Protocol(), ahead=ahead, loading=Loading(threads)
    ):
        if piece is not None:
            order.append(video)
            with lock:
                held -= views
    assert order == [video for video in range(6) for _ in range(25)]
    # The queue, one clip per thread, one of the next video, and one that was taken but is not yet
    # counted here.
    assert most <= ahead + views * (threads + 3)


def test_a_fault_is_raised_and_threads_end(data, monkeypatch):
    def faulty(file, preprocessing, protocol):
        yield Clip(np.zeros((1, 2), np.uint8), 1, (0, 0), None)
        raise RuntimeError("a fault")

    monkeypatch.setattr(protocol_reader, "protocol_clips", faulty)
    with pytest.raises(RuntimeError, match="a fault"):
        list(read_tests(data.open, range(3), PRE, Protocol(), ahead=2))
    stream = read_tests(data.open, range(3), PRE, Protocol(), ahead=1)
    next(stream)
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("test-reader")]
