"""Annotated videos are found, missing, in quarantine or ambiguous."""

import os

import cv2
import numpy as np
import pytest

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.datasets.load import load_dataset, load_splits
from jaxvideo.types import DataError
from tests.conftest import write_video
from tests.data.published import KINETICS, csv_form, folders, hmdb51, kinetics, rows, touch, write


def test_coverage(tmp_path):
    kinetics(tmp_path)
    (tmp_path / "train" / "zumba" / "--aaaaaaaaa_000000_000010.mkv").unlink()
    data = load_dataset(tmp_path)
    assert data.missing == ("--aaaaaaaaa_000000_000010",)
    assert (len(data), data.annotated, data.classes) == (1, 2, ("air drumming", "zumba"))
    assert data.coverage == "1 of 2 videos exist (missing: --aaaaaaaaa_000000_000010)"
    for path in list(tmp_path.rglob("*.mp4")):
        if "val" in path.parts or path.parent == tmp_path:
            path.unlink()
    with pytest.raises(DataError, match=r"val: none of 2 videos exists, for example _dbcJuKJQNs"):
        load_dataset(tmp_path, split="val")
    assert len(load_splits(tmp_path)["train"]) == 1
    next(tmp_path.rglob("*.mp4")).unlink()
    with pytest.raises(DataError, match="train and val: none of 4 videos exists"):
        load_splits(tmp_path)


def test_coverage_of_a_list_of_paths(tmp_path):
    csv_form(tmp_path)
    (tmp_path / "x" / "a.mp4").unlink()
    data = load_dataset(tmp_path)
    assert (data.missing, data.classes) == (("x/a.mp4",), ("run", "walk"))
    assert rows(data, tmp_path) == {"y/frames": "walk"}


def test_coverage_counts_in_thousands():
    data = VideoDataset(
        ("p",) * 19_404, (0,) * 19_404, ("c",), missing=tuple("abcd") * 125 + ("e", "f")
    )
    assert data.coverage == "19,404 of 19,906 videos exist (missing: a, b, c, ...)"


def test_videos_are_listed_and_not_looked_at(tmp_path, monkeypatch):
    """Each folder is listed once, and no file is examined."""
    touch(tmp_path, *(f"train/c{k % 4}/{k:011d}_000000_000010.mp4" for k in range(400)))
    lines = "".join(f"c{k % 4},{k:011d},0,10,train\n" for k in range(500))
    write(tmp_path, "train.csv", KINETICS + lines)
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    looks, stat = [], os.stat
    monkeypatch.setattr(os, "stat", lambda path, **k: looks.append(str(path)) or stat(path, **k))
    data = load_dataset(tmp_path)
    assert (len(data), len(data.missing)) == (400, 100)
    # The root is also listed to find annotations; some versions of pathlib use `os.scandir`.
    assert [listed.count(str(tmp_path / f"train/c{k}")) for k in range(4)] == [1] * 4
    assert len(set(listed)) == 6
    assert len(listed) < 12
    assert not [path for path in looks if path.endswith(".mp4")]


@pytest.mark.parametrize("build", [kinetics, csv_form, folders])
def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch, build):
    build(tmp_path)

    def refused(function):
        def listing(path="."):
            if os.fspath(path) in {str(tmp_path / name) for name in ("x", "val", "train/run")}:
                raise PermissionError(13, "Permission denied", path)
            return function(path)

        return listing

    monkeypatch.setattr(os, "scandir", refused(os.scandir))
    monkeypatch.setattr(os, "listdir", refused(os.listdir))
    with pytest.raises(DataError, match=r"(x|val|train/run) cannot be read \(Permission denied\)"):
        load_splits(tmp_path)


def test_quarantine(tmp_path):
    expected = hmdb51(tmp_path)
    lines = "# found by doctor\n\nhmdb/pick/x_0.avi\tno frames\nhmdb/gone.avi\tnot there\n"
    write(tmp_path, "quarantine.txt", lines + f"{tmp_path}/hmdb/pick/y.avi\tcut off\n")
    data = load_dataset(tmp_path)
    assert data.quarantined == (str(tmp_path / "hmdb/pick/x_0.avi"),)
    assert rows(data, tmp_path) == {"hmdb/clap/#20_Rhythm_clap.avi": "clap"}
    assert (data.classes, data.annotated) == (("clap", "pick"), 2)
    assert data.coverage == "2 of 2 videos exist, 1 in quarantine"
    assert rows(load_dataset(tmp_path, quarantine=""), tmp_path) == expected["train"]
    with pytest.raises(DataError, match=r"bad\.txt cannot be read"):
        load_dataset(tmp_path, quarantine="bad.txt")
    write(tmp_path, "bad.txt", "\n".join(f"{path}\tx" for path in expected["train"]))
    with pytest.raises(DataError, match="train: all 2 videos in quarantine"):
        load_dataset(tmp_path, quarantine="bad.txt")


def test_quarantine_of_a_name_that_begins_like_a_comment(tmp_path):
    write(tmp_path, "clap_test_split1.txt", "#20_x.avi 1\ny.avi 1\n")
    touch(tmp_path, "#20_x.avi", "y.avi")
    write(tmp_path, "quarantine.txt", "#20_x.avi\tno frames\n#y.avi\n")
    assert list(rows(load_dataset(tmp_path), tmp_path)) == ["y.avi"]


def test_videos_in_another_folder(tmp_path):
    expected = kinetics(tmp_path / "videos")
    (tmp_path / "videos" / "annotations").rename(tmp_path / "lists")
    (tmp_path / "lists").rename(tmp_path / "annotations")
    for videos in ("videos", str(tmp_path / "videos")):
        data = load_dataset(tmp_path, split="val", videos=videos)
        assert rows(data, tmp_path / "videos") == expected["val"]
    with pytest.raises(DataError, match=r"folder of videos .*nowhere does not exist"):
        load_dataset(tmp_path, videos="nowhere")


def test_a_video_in_several_places(tmp_path):
    """A folder of its class, then of its split, takes precedence; otherwise it is an error."""
    touch(tmp_path, "train/zumba/a_000000_000010.mp4", "train/yoga/a_000000_000010.mp4")
    touch(tmp_path, "val/yoga/a_000000_000010.mp4")
    write(tmp_path, "train.csv", KINETICS + "yoga,a,0,10,train\nzumba,a,0,10,train\n")
    assert list(rows(load_dataset(tmp_path), tmp_path)) == [
        "train/yoga/a_000000_000010.mp4",
        "train/zumba/a_000000_000010.mp4",
    ]
    touch(tmp_path, "x/air_drumming/b_000000_000010.mp4", "x/other/b_000000_000010.mp4")
    write(tmp_path, "val.csv", KINETICS + "air drumming,b,0,10,val\n")
    write(tmp_path, "classes.txt", "yoga\nzumba\nair drumming\n")
    assert rows(load_dataset(tmp_path, split="val"), tmp_path) == {
        "x/air_drumming/b_000000_000010.mp4": "air drumming"
    }
    touch(tmp_path, "train/small/yoga/a_000000_000010.mp4")
    with pytest.raises(DataError, match=r"several places: .*small/yoga.*, .*train/yoga.*--videos"):
        load_dataset(tmp_path)


def test_a_dataset_opens_its_videos(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    write_video(tmp_path / "train" / "a" / "x.mp4", frames=8)
    (tmp_path / "train" / "b" / "frames").mkdir(parents=True)
    for k in range(3):
        cv2.imwrite(str(tmp_path / f"train/b/frames/{k}.png"), np.zeros((8, 8, 3), np.uint8))
    data = load_dataset(tmp_path)
    frames = []
    for index in range(len(data)):
        with data.open(index) as video:
            frames.append(video.num_frames)
    assert frames == [8, 3]
