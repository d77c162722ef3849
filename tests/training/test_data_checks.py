"""What is said about a data set before it is trained or tested on."""

import dataclasses
import logging

import numpy as np
import pytest

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.training.data_checks import (
    TRAINED,
    check_classes,
    check_inputs,
    check_overlap,
    record_videos,
    shared_videos,
)
from jaxvideo.training.inputs import load_data
from jaxvideo.training.schema import Data
from jaxvideo.types import DataError, Preprocessing

PRE = Preprocessing(frames=4, size=40, crop=32)


def dataset(*paths, labels=None, **more):
    labels = tuple(i % 2 for i in range(len(paths))) if labels is None else labels
    return VideoDataset(paths, labels, ("walk", "run"), **more)


@dataclasses.dataclass(frozen=True)
class Packed(VideoDataset):
    """As `PackedDataset`: names in a folder, frames of one size."""

    folder: str = ""
    size: int = 0


def test_a_data_set_of_one_class_is_refused(tmp_path):
    one = dataset("a.mp4", "b.mp4", labels=(1, 1))
    with pytest.raises(DataError, match="D: all 2 training videos have the class 'run'"):
        check_classes(one, "D")
    check_classes(dataset("a.mp4", "b.mp4"), "D")
    check_classes(dataclasses.replace(one, label_sets=((1,), (0, 1))), "D")
    for name in ("train", "val"):
        (tmp_path / f"{name}.csv").write_text(f"{name}.mp4,x\n")
        (tmp_path / f"{name}.mp4").write_bytes(b"")
    with pytest.raises(DataError, match="all 1 training videos have the class 'x'; classification"):
        load_data(Data(source="csv", root=str(tmp_path)))


def test_validation_videos_among_the_training_videos(caplog):
    check_overlap(dataset("d/a.mp4", "d/b.mp4"), dataset("d/c.mp4"))
    assert not caplog.records
    check_overlap(dataset("d/a.mp4", "d/b.mp4"), dataset("d/./b.mp4", "d/c.mp4"))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "1 of 2 validation videos are training videos, too" in record.message
    assert "d/./b.mp4" in record.message


def test_a_run_knows_its_training_videos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record_videos(tmp_path, dataset("d/a.mp4", "d/b.mp4", "d/\udce9.mp4"))
    assert (tmp_path / TRAINED).stat().st_size <= 128 + 8 * 3  # NumPy's header and 8 bytes each
    assert shared_videos(tmp_path, dataset("d/c.mp4", "e/a.mp4")) == []
    absolute = str(tmp_path / "d" / "\udce9.mp4")
    found = shared_videos(tmp_path, dataset("d/c.mp4", "d/b.mp4", absolute))
    assert found == ["d/b.mp4", absolute]
    # Packed videos have the same names in another folder.
    names, labels, classes = ("a", "b"), (0, 1), ("walk", "run")
    record_videos(tmp_path, Packed(names, labels, classes, folder="one"))
    assert shared_videos(tmp_path, Packed(names, labels, classes, folder="two")) == []
    assert shared_videos(tmp_path, Packed(names, labels, classes, folder="one")) == ["a", "b"]


def test_runs_without_a_record(tmp_path):
    assert shared_videos(tmp_path, dataset("a.mp4")) == []
    assert shared_videos(tmp_path / "w.safetensors", dataset("a.mp4")) == []
    (tmp_path / TRAINED).write_bytes(b"damaged")
    assert shared_videos(tmp_path, dataset("a.mp4")) == []
    np.save(tmp_path / TRAINED, np.array([{}]), allow_pickle=True)
    assert shared_videos(tmp_path, dataset("a.mp4")) == []


def test_packed_videos_that_are_enlarged(caplog):
    packed = Packed(("a", "b"), (0, 1), ("walk", "run"), size=32)
    check_inputs(dataclasses.replace(PRE, size=32), packed, packed)
    check_inputs(PRE, dataset("a.mp4"))
    check_inputs(dataclasses.replace(PRE, size=32, width=48), packed)
    assert not caplog.records
    check_inputs(PRE, packed, packed)
    (record,) = caplog.records  # once for both splits
    assert "short side of 32 pixels and are enlarged to 40; pack them again" in record.message
