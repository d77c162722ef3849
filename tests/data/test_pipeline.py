"""The stream depends only on (seed, position), not on threads, workers, hosts or restarts."""

import dataclasses
import hashlib

import numpy as np
import pytest

from jaxvideo.data import pipeline
from jaxvideo.data.crops import RandomCrop
from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.loading import Loading
from jaxvideo.data.pipeline import Share, error_text
from jaxvideo.data.views import protocol_views
from jaxvideo.types import ConfigError, Preprocessing, Protocol
from tests.conftest import write_video

PRE = Preprocessing(frames=4, stride=2, size=40, crop=32)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    paths = [str(write_video(folder / f"{k}.mp4", frames=20 + k)) for k in range(5)]
    return VideoDataset((*paths, str(folder / "gone.mp4")), (0, 1, 0, 1, 0, 1), ("a", "b"))


def stream(dataset, **arguments):
    arguments = {"batch_size": 4, "seed": 3, "last_batch": 5, **arguments}
    return list(pipeline.train_batches(dataset, PRE, **arguments))


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


#: Four views of every video in an epoch, pairs from one decoded clip with different random crops.
REPEATED = {"views_per_video": 4, "repeated": 2, "crop": RandomCrop(areas=(0.3, 1.0))}


def digest(batches):
    """Hashes all arrays of a stream in order."""
    found = hashlib.sha256()
    for batch in batches:
        for key in sorted(batch):
            array = np.ascontiguousarray(batch[key])
            found.update(f"{key} {array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()


@pytest.mark.parametrize(
    "arguments", [{}, pytest.param(REPEATED, marks=pytest.mark.full)], ids=["plain", "repeated"]
)
def test_the_stream_is_one_for_all_workers(dataset, arguments):
    """Three batches, including an unreadable video, are equal for 0, 1 and 3 workers."""
    digests = {
        workers: digest(
            stream(dataset, last_batch=3, loading=Loading(1, workers=workers), **arguments)
        )
        for workers in (0, 1, 3)
    }
    assert len(set(digests.values())) == 1, digests


@pytest.mark.parametrize(
    "arguments", [{}, pytest.param(REPEATED, marks=pytest.mark.full)], ids=["plain", "repeated"]
)
def test_the_stream_is_one_for_all_hosts(dataset, arguments):
    """The concatenated shares of 1, 2 and 4 hosts are equal."""
    digests = {}
    for count in (1, 2, 4):
        parts = [
            stream(dataset, batch_size=8, last_batch=3, share=Share(index, count), **arguments)
            for index in range(count)
        ]
        together = [
            {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
            for batches in zip(*parts, strict=True)
        ]
        assert any((batch["weight"] == 0).any() for batch in together)
        digests[count] = digest(together)
    assert len(set(digests.values())) == 1, digests


def test_threads_do_not_matter(dataset):
    reference = stream(dataset, loading=Loading(threads=1))
    assert_same(reference, stream(dataset, loading=Loading(threads=3, prefetch=4)))


def test_resuming_in_the_middle(dataset):
    assert_same(stream(dataset)[2:], stream(dataset, first_batch=2))


def test_resuming_with_repeated_views(dataset):
    assert_same(stream(dataset, **REPEATED)[2:], stream(dataset, first_batch=2, **REPEATED))


def test_repeated_views_are_one_decode(dataset, monkeypatch):
    """Adjacent samples are the same frames with two crops, from one opened file."""
    read, views = [], pipeline.read_clip

    def counted(file, chosen, size, pixels):
        read.append((file.path, chosen))
        return views(file, chosen, size, pixels)

    monkeypatch.setattr(pipeline, "read_clip", counted)
    batches = stream(dataset, last_batch=6, loading=Loading(threads=1), **REPEATED)
    samples = np.concatenate([batch["sample"] for batch in batches])
    assert {tuple(row) for row in samples.tolist()} == {
        (0, v, w) for v in range(6) for w in range(4)
    }
    np.testing.assert_array_equal(samples[::2, 1], samples[1::2, 1])
    np.testing.assert_array_equal(samples[::2, 2] + 1, samples[1::2, 2])
    assert set(samples[::2, 2].tolist()) == {0, 2}
    # Ten pairs of the five readable videos; the sixth cannot be opened.
    assert [len(chosen) for _, chosen in read] == [2] * 10
    assert all(one.frames == two.frames for _, (one, two) in read)
    assert all(one.window != two.window for _, (one, two) in read)
    assert len({chosen[0].frames for _, chosen in read}) > 3


def test_each_view_alone_is_what_it_is_beside_others(dataset):
    """A batch of one reads one view of a pair, equal to the one in a larger batch."""
    together = np.concatenate([b["video"] for b in stream(dataset, last_batch=2, **REPEATED)])
    weights = np.concatenate([b["weight"] for b in stream(dataset, last_batch=2, **REPEATED)])
    alone = stream(dataset, batch_size=1, last_batch=8, **REPEATED)
    for i in np.flatnonzero(weights):
        np.testing.assert_array_equal(alone[i]["video"][0], together[i])


def test_an_epoch_holds_every_view_of_every_video_once(dataset):
    batches = stream(dataset, last_batch=6, views_per_video=2)
    samples = np.concatenate([batch["sample"] for batch in batches])
    expected = {(e, v, w) for e in (0, 1) for v in range(6) for w in (0, 1)}
    assert {tuple(row) for row in samples.tolist()} == expected
    orders = [samples[samples[:, 0] == epoch][:, 1:].tolist() for epoch in (0, 1)]
    assert orders[0] != orders[1]


def test_seed_and_epoch_change_the_views(dataset):
    one, other = stream(dataset), stream(dataset, seed=4)
    assert any((a["video"] != b["video"]).any() for a, b in zip(one, other, strict=True))
    clips = {}
    for batch in stream(dataset, last_batch=30):
        for row, clip, weight in zip(batch["sample"], batch["video"], batch["weight"], strict=True):
            if weight:
                clips.setdefault(int(row[1]), set()).add(clip.tobytes())
    assert all(len(different) > 5 for different in clips.values())


def test_a_broken_video_is_named_and_weighs_nothing(dataset):
    """Its pixels are those of the next readable sample of the batch, cyclically."""
    broken = 0
    for batch in stream(dataset, last_batch=9):
        for place in range(4):
            gone = batch["sample"][place, 1] == 5
            assert batch["weight"][place] == (0 if gone else 1)
            assert ("gone.mp4" in error_text(batch["error"][place])) == gone
            if gone:
                broken += 1
                later = [(place + k) % 4 for k in range(1, 4)]
                whole = next(other for other in later if batch["weight"][other])
                np.testing.assert_array_equal(batch["video"][place], batch["video"][whole])
    assert broken


def test_nothing_can_be_read():
    gone = VideoDataset(("/gone.mp4",), (0,), ("a",))
    (batch,) = stream(gone, last_batch=1)
    assert not batch["weight"].any()
    assert not batch["video"].any()


def test_several_labels(dataset):
    sets = ((0,), (1, 2), (0, 2), (), (0, 1, 2), (1,))
    several = dataclasses.replace(dataset, classes=("a", "b", "c"), label_sets=sets)
    for batch in stream(several):
        assert batch["label"].dtype == np.float32
        for row, video in zip(batch["label"], batch["sample"][:, 1], strict=True):
            assert row.tolist() == [float(k in sets[video]) for k in range(3)]


@pytest.mark.parametrize(("short", "rest"), [("loop", [0, 2]), ("hold", [4, 4]), ("pad", [0, 0])])
def test_pixels_of_a_short_video(tmp_path, short, rest):
    """Frame k has the gray level 8 k: frames 0, 2, 4, then padding.

    Black frames are 0 everywhere, also in the corner, which is white in every frame of the video.
    """
    data = VideoDataset((str(write_video(tmp_path / "a.mp4", frames=5)),), (0,), ("a",))
    pre = Preprocessing(frames=5, stride=2, size=48, crop=48, short=short, pixels="rgb")
    (batch,) = pipeline.train_batches(data, pre, batch_size=1, seed=0, last_batch=1)
    with data.open(0) as file:
        ((view,),) = protocol_views(5, 48, 64, 25.0, pre, Protocol(clips=1))
        tested = pipeline.read_views(file, [view], pre)
    for clip in (batch["video"][0], tested[0]):
        levels = clip[:, 30:, 30:].mean((1, 2, 3))
        expected = 8 * np.asarray([0, 2, 4, *(rest if short != "loop" else [1, 3])])
        np.testing.assert_allclose(levels, expected, atol=2)
    assert (tested[0, 3:].max() == 0) == (short == "pad")


def test_a_video_of_variable_rate_is_read_by_its_times(tmp_path):
    """Frames at 0, 1, 2, 3, 8, 9, 10, 11 of 1/25 s; at 12.5 fps, those at 0, 2, 4, ... are read."""
    path = write_video(tmp_path / "v.mp4", frames=8, pts=[0, 1, 2, 3, 8, 9, 10, 11])
    data = VideoDataset((str(path),), (0,), ("a",))
    # Seven frames at distance 0.08 s span the whole video, so every draw starts at 0.
    pre = Preprocessing(frames=7, fps=12.5, size=48, crop=48, pixels="rgb")
    (batch,) = pipeline.train_batches(data, pre, batch_size=1, seed=0, last_batch=1)
    levels = batch["video"][0, :, 30:, 30:].mean((1, 2, 3))
    np.testing.assert_allclose(levels, 8 * np.asarray([0, 2, 3, 3, 4, 6, 7]), atol=2)


def test_bad_arguments(dataset):
    with pytest.raises(ConfigError, match="threads"):
        Loading(threads=0)
    with pytest.raises(ConfigError, match="divisible by the 3 hosts"):
        stream(dataset, share=Share(0, 3))
    for bad in ({"repeated": 0}, {"views_per_video": 0}, {"views_per_video": 3, "repeated": 2}):
        with pytest.raises(ConfigError, match="repeated must divide views_per_video"):
            stream(dataset, **bad)
