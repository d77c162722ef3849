"""Interrupted work over many videos resumes from the results of single videos."""

import os

import numpy as np
import pytest

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.pipeline import Share
from jaxvideo.evaluation import partial as module
from jaxvideo.evaluation.partial import Partial
from jaxvideo.evaluation.protocol import evaluate, join
from jaxvideo.inference.fvd import VideoSet, features_of, merge
from jaxvideo.types import ConfigError, Preprocessing, Protocol, VideoError
from tests.conftest import write_video

PRE = Preprocessing(frames=4, size=40, crop=32, pixels="rgb")
PROTOCOL = Protocol(clips=2)


@pytest.fixture
def paths(tmp_path):
    return tuple(str(write_video(tmp_path / f"{k}.mp4", frames=5 + 5 * k)) for k in range(5))


@pytest.fixture
def data(paths, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    return VideoDataset((*paths, str(tmp_path / "broken.mp4")), (0, 1, 2, 0, 1, 2), ("a", "b", "c"))


def predictor(calls, stop=None):
    def predict(views):
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(len(views))
        return views.reshape(len(views), -1)[:, [0, 900, 2000]].astype(np.float32)

    return predict


def scored(data, calls, stop=None, **how):
    return evaluate(predictor(calls, stop), data, PRE, PROTOCOL, batch_size=2, **how)


def test_an_interrupted_evaluation_resumes(data, tmp_path):
    whole = scored(data, calls := [])
    partial, before, after = Partial(tmp_path / "partial", "recipe"), [], []
    with pytest.raises(KeyboardInterrupt):
        scored(data, before, 3, partial=partial)
    assert len(partial.read()) == 2  # the third call's scores were not read any more
    seen = []
    result = scored(data, after, partial=partial, progress=lambda *counts: seen.append(counts[:2]))
    assert (len(calls), len(after)) == (5, 3)
    assert seen[0][0] > 4
    assert seen[-1] == (12, 12)
    np.testing.assert_array_equal(result.scores, whole.scores)
    for name in ("labels", "videos"):
        np.testing.assert_array_equal(getattr(result, name), getattr(whole, name))
    for name in ("broken", "clips", "expected"):
        assert getattr(result, name) == getattr(whole, name)
    partial.delete()
    assert not (tmp_path / "partial").exists()


def test_it_resumes_with_another_number_of_processes(data, tmp_path):
    whole, partial = scored(data, []), Partial(tmp_path / "partial", "recipe")
    scored(data, [], partial=partial, share=Share(1, 3))
    calls = []
    parts = [scored(data, calls, partial=partial, share=Share(i, 2)) for i in range(2)]
    assert len(calls) == 3
    np.testing.assert_array_equal(join(parts).scores, whole.scores)
    assert set(partial.read()) == set(data.paths[:5])


def test_only_equal_work_is_reused(paths, tmp_path, caplog):
    folder = tmp_path / "partial"
    with Partial(folder, "one").writer() as keep:
        for number, path in enumerate([*paths, "no file \udce9"]):
            keep(path, (np.float32([number, 1]), number))
    found = Partial(folder, "one").read()
    assert list(found) == [*paths, "no file \udce9"]
    np.testing.assert_array_equal(found[paths[3]][0], [3, 1])
    assert found[paths[3]][1] == 3
    assert Partial(folder, "other").read() == {}
    os.utime(paths[1], ns=(0, 0))
    assert paths[1] not in Partial(folder, "one").read()
    (file,) = folder.iterdir()
    (folder / "half.npz").write_bytes(file.read_bytes()[:-40])
    assert len(Partial(folder, "one").read()) == 5
    assert "half.npz is damaged" in caplog.text


def test_results_are_on_disk_during_the_work(paths, tmp_path, monkeypatch):
    """A killed process loses the last seconds only."""
    partial = Partial(tmp_path / "partial", "")
    with partial.writer() as keep:
        keep(paths[0], (np.float32([1]), 1))
        assert partial.read() == {}
        monkeypatch.setattr(module, "_SECONDS", 0)
        keep(paths[1], (np.float32([2]), 1))
        assert list(partial.read()) == list(paths[:2])
    assert len(list(partial.folder.iterdir())) == 1
    (tmp_path / "file").write_text("")
    wrong = Partial(tmp_path / "file" / "partial", "")
    with pytest.raises(ConfigError, match="cannot be written"), wrong.writer() as keep:
        keep(paths[0], (np.float32([1]), 1))


def test_features_resume(paths, tmp_path):
    partial, asked = Partial(tmp_path / "partial", ""), []

    def extract(path, stop=None):
        if len(asked) == stop:
            raise KeyboardInterrupt
        asked.append(path)
        if path == paths[1]:
            raise VideoError("damaged")
        return {"features": np.float32([len(path), int(path[-5])])}

    with pytest.raises(KeyboardInterrupt):
        features_of(paths, lambda path: extract(path, 3), partial)
    rows, unreadable = features_of(paths, extract, partial)
    assert asked == [*paths[:3], paths[1], *paths[3:]]
    assert unreadable == {paths[1]: "damaged"}
    numbers = {path: row[0][1] for path, row in rows.items()}
    assert numbers == {paths[k]: k for k in (0, 2, 3, 4)}


def test_sets_of_several_processes_are_merged_in_order():
    paths = list("abcdefg")
    one = VideoSet("set", ("a", "e"), {"c": 3}, {"g": "why"}, 16)
    other = VideoSet("set", ("d",), {"b": 2}, {"f": "no"}, 16)
    merged = merge([one, other], paths)
    assert merged.videos == ("a", "d", "e")
    assert list(merged.short.items()) == [("b", 2), ("c", 3)]
    assert list(merged.unreadable.items()) == [("f", "no"), ("g", "why")]
