"""The stream is a function of (seed, position): not of threads, workers, hosts or restarts."""

import numpy as np
import pytest

from jaxvideo.data import pipeline
from jaxvideo.data.datasets import VideoDataset
from jaxvideo.data.pipeline import Loading, Share, error_text
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


def test_threads_and_workers_do_not_matter(dataset):
    reference = stream(dataset, loading=Loading(threads=1))
    assert_same(reference, stream(dataset, loading=Loading(threads=3, prefetch=4)))
    assert_same(reference, stream(dataset, loading=Loading(threads=1, workers=2)))


def test_resuming_in_the_middle(dataset):
    assert_same(stream(dataset)[2:], stream(dataset, first_batch=2))


def test_hosts_read_parts_of_the_same_batches(dataset):
    whole = stream(dataset)
    parts = [stream(dataset, share=Share(index, 2)) for index in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        for key in ("label", "sample", "weight"):
            joined = np.concatenate([first[key], second[key]])
            np.testing.assert_array_equal(joined, batch[key])
        read = batch["weight"] > 0
        joined = np.concatenate([first["video"], second["video"]])
        np.testing.assert_array_equal(joined[read], batch["video"][read])


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
    broken = 0
    for batch in stream(dataset):
        for place in range(4):
            gone = batch["sample"][place, 1] == 5
            assert batch["weight"][place] == (0 if gone else 1)
            assert ("gone.mp4" in error_text(batch["error"][place])) == gone
            if gone:
                broken += 1
                whole = batch["video"][batch["weight"] > 0]
                assert any((batch["video"][place] == clip).all() for clip in whole)
    assert broken


def test_every_view_of_a_test_once(dataset):
    protocol = Protocol(clips=3, crops=3)
    batches = list(pipeline.protocol_batches(dataset, PRE, protocol, batch_size=4))
    assert [batch["video"].shape for batch in batches] == [(4, 3, 4, 32, 32, 3)] * 5
    samples = np.concatenate([batch["sample"] for batch in batches])[:18]
    assert samples.tolist() == [[v, c] for v in range(6) for c in range(3)]
    weights = np.concatenate([batch["weight"] for batch in batches])
    assert weights.tolist() == [1.0] * 15 + [0.0] * 5
    errors = np.concatenate([batch["error"] for batch in batches])
    assert [bool(error_text(row)) for row in errors] == [False] * 15 + [True] * 3 + [False] * 2


def test_bad_arguments(dataset):
    with pytest.raises(ConfigError, match="threads"):
        Loading(threads=0)
    with pytest.raises(ConfigError, match="shared by 3 hosts"):
        stream(dataset, share=Share(0, 3))
