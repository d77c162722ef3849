"""Lists, class names and folders as people write them: read in the right way, or refused."""

import dataclasses
import logging

import cv2
import numpy as np
import pytest

from jaxvideo.data.datasets.folders import group_of
from jaxvideo.data.datasets.load import autodetect, load_splits, pick_split
from jaxvideo.data.datasets.pair_lists import read_pairs
from jaxvideo.data.datasets.text import read_classes
from jaxvideo.data.video import find_videos, frames_in, open_video
from jaxvideo.types import DataError, VideoError
from tests.data.published import rows, touch, write


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "jaxvideo")
    return caplog


def pairs(tmp_path, text, exists=None):
    (tmp_path / "list.csv").write_text(text)
    listed = read_pairs(tmp_path / "list.csv", exists)
    return [(pair.name, pair.label) for pair in listed.pairs], listed.reading


TWO = [("a.mp4", "run"), ("b b.mp4", "walk")]


@pytest.mark.parametrize(
    ("text", "expected", "reading"),
    [
        ("a.mp4,run\nb b.mp4,walk\n", TWO, "2 rows, columns: path, label"),
        ("path,label\na.mp4,run\nb b.mp4,walk\n", TWO, "path, label; header skipped"),
        ("PATH,Label\na.mp4,run\nb b.mp4,walk\n", TWO, "path, label; header skipped"),
        ('"path","label"\n"a.mp4","run"\n"b b.mp4","walk"\n', TWO, "header skipped"),
        ("label,video\nrun,a.mp4\nwalk,b b.mp4\n", TWO, "label, video; header skipped"),
        ("id;class_id;class\na.mp4;3;run\nb b.mp4;4;walk\n", TWO, "2 rows, columns: id, class_id"),
        ("path\tlabel\na.mp4\t\trun\nb b.mp4\t\t\twalk\n", TWO, "header skipped"),
        ("video label\na.mp4 run\nb b.mp4   walk\n", TWO, "header skipped"),
        ("a.mp4    run\nb b.mp4 \t walk\n", TWO, "2 rows, columns: path, label"),
        ("a.mp4 air drumming\nb b.mp4 walk\n", [("a.mp4", "air drumming"), TWO[1]], "2 rows"),
        ("a,1.mp4 run\nb,2.mp4 walk\n", [("a,1.mp4", "run"), ("b,2.mp4", "walk")], "2 rows"),
        ('"a, b.mp4",run\nc.mp4,walk\n', [("a, b.mp4", "run"), ("c.mp4", "walk")], "2 rows"),
        ("x/frames 3\nx/others 4\n", [("x/frames", "3"), ("x/others", "4")], "2 rows"),
        # C13: numbers keep their index.
        ("a.mp4 1\nb.mp4 2\n", [("a.mp4", "1"), ("b.mp4", "2")], "2 rows"),
    ],
)
def test_lists(tmp_path, text, expected, reading):
    found, told = pairs(tmp_path, text)
    assert found == expected
    assert reading in told


def test_a_path_that_begins_with_the_comment_sign(tmp_path):
    """C16: it is a video if the file exists, otherwise a comment."""
    text = "#1_clap.mp4 clap\n# path label\n#2_clap.mp4 clap\na.mp4 run\n"
    found, told = pairs(tmp_path, text, lambda name: name == "#1_clap.mp4")
    assert found == [("#1_clap.mp4", "clap"), ("a.mp4", "run")]
    assert told == "2 rows, columns: path, label; names with '#': 1"
    touch(tmp_path, "videos/#1_clap.mp4", "videos/a.mp4")
    write(tmp_path, "train.csv", text)
    assert rows(load_splits(tmp_path)["train"], tmp_path) == {
        "videos/#1_clap.mp4": "clap",
        "videos/a.mp4": "run",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 -1\nb.mp4 0\n", r"list\.csv, line 1: the label -1 is negative"),
        ("recording,kind\na.mp4,run\n", "line 1: .* either a header or the video 'recording' of"),
        (
            "path,label\na.mp4,run,x\n",
            "line 2: .* has 3 columns, but the header has 2: path, label",
        ),
        ("a.mp4,run\nb.mp4 walk\n", "line 2: 'b.mp4 walk' .*the other lines .* by a comma"),
    ],
)
def test_lists_that_are_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        pairs(tmp_path, text)


def test_a_column_of_splits(tmp_path, log):
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    write(
        tmp_path, "all.csv", "video,label,split\na.mp4,run,train\nb.mp4,run,val\nc.mp4,run,train\n"
    )
    splits = load_splits(tmp_path)
    assert {split: len(dataset) for split, dataset in splits.items()} == {"train": 2, "val": 1}
    assert "all.csv: 3 rows, columns: video, label, split; header skipped" in log.text
    (tmp_path / "all.csv").rename(tmp_path / "train.csv")
    with pytest.raises(DataError, match="line 3: the split is 'val', but the file is the train li"):
        load_splits(tmp_path)


def test_labels_without_videos_are_named(tmp_path, log):
    """C13."""
    touch(tmp_path, "a.mp4", "b.mp4")
    write(tmp_path, "train.txt", "a.mp4 1\nb.mp4 2\n")
    assert load_splits(tmp_path)["train"].labels == (1, 2)
    assert "1 of 3 classes (0) have no training video; do the labels begin at 1?" in log.text
    write(tmp_path, "classes.txt", "run\nwalk\njump\nfly\n")
    log.clear()
    assert load_splits(tmp_path)["train"].classes == ("run", "walk", "jump", "fly")
    assert "2 of 4 classes (run, fly) have no training video\n" in log.text


def test_lists_without_labels_are_left_out(tmp_path, log):
    """C17: also beside lists of another form."""
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    write(tmp_path, "train.txt", "a.mp4 0\n")
    write(tmp_path, "val.txt", "b.mp4 0\n")
    write(tmp_path, "test.txt", "c.mp4\n")
    assert list(load_splits(tmp_path)) == ["train", "val"]
    assert "test.txt: left out, because it has no labels" in log.text
    write(tmp_path, "train.txt", "a.mp4\n")
    with pytest.raises(DataError, match=r"train\.txt: 1 row without labels \(line 1: 'a\.mp4'\)"):
        load_splits(tmp_path)
    write(tmp_path, "train.txt", "a.mp4 0 1\n")
    write(tmp_path, "val.txt", "b.mp4 0 1\n")
    assert autodetect(tmp_path) == "mmaction"


NAMES = ("abseiling", "air drumming", "zumba")


@pytest.mark.parametrize(
    "text",
    [
        "abseiling\nair drumming\nzumba\n",
        "name\nabseiling\nair drumming\nzumba\n",
        "0,abseiling\n1,air drumming\n2,zumba\n",
        '2,"zumba"\n0,abseiling\n1,"air drumming"\n',
        "id,name\n0,abseiling\n1,air drumming\n2,zumba\n",
        "0 abseiling\n1 air drumming\n2 zumba\n",
        "abseiling 0\nair drumming 1\nzumba 2\n",
        "abseiling\t0\nair drumming\t1\nzumba\t2\n",
    ],
)
def test_class_names_with_numbers_and_headers(tmp_path, text):
    """C15."""
    (tmp_path / "classes.txt").write_text(text)
    assert read_classes(tmp_path / "classes.txt") == NAMES


def test_class_names_that_are_refused(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("1 abseiling\n2 zumba\n")
    with pytest.raises(DataError, match="'abseiling' is either class 1 or class 0"):
        read_classes(path)
    path.write_text("0,abseiling\n2,zumba\n")
    with pytest.raises(DataError, match="not 0 to 1; they are either indices"):
        read_classes(path)
    path.write_text("100 m run\n200 m run\n")
    assert read_classes(path) == ("100 m run", "200 m run")


# --- Folders ------------------------------------------------------------------------------


def image(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        number = int("".join(filter(str.isdigit, name)) or 0) % 100
        cv2.imwrite(str(root / name), np.full((16, 16, 3), 2 * number, np.uint8))


def test_a_folder_with_videos_is_no_folder_of_frames(tmp_path, log):
    """C8."""
    touch(tmp_path, "cam/a.mp4", "cam/b.MTS", "cam/deep/c.mp4", "cam/._a.mp4", "cam/deep/._c.mp4")
    touch(tmp_path, "cam/a.srt", "cam/b.SRT", "cam/README", "cam/notes.txt", "cam/.DS_Store")
    image(tmp_path, "cam/a.jpg")
    found = [path.rpartition("cam/")[2] for path in find_videos([tmp_path])]
    assert found == ["a.mp4", "b.MTS", "deep/c.mp4"]
    assert "ignored 2 side files of macOS (._*)" in log.text
    assert "ignored 4 other files, neither videos nor annotations: .srt (2), " in log.text
    with pytest.raises(VideoError, match="cam: is a folder of 2 videos, not a folder of frames"):
        open_video(tmp_path / "cam").__enter__()
    # In class folders, too.
    touch(tmp_path, "other/d.mp4")
    splits = load_splits(tmp_path, "folders")
    names = {name for dataset in splits.values() for name in rows(dataset, tmp_path)}
    assert names == {"cam/a.mp4", "cam/b.MTS", "cam/deep/c.mp4", "other/d.mp4"}


def test_images_above_folders_of_frames_are_ambiguous(tmp_path):
    image(tmp_path, "0.png", "one/0.png", "one/1.png")
    with pytest.raises(DataError, match=r"either a folder of 1 frames \(0\.png.* 1 folders of fr"):
        find_videos([tmp_path])
    (tmp_path / "0.png").unlink()
    assert find_videos([tmp_path]) == [str(tmp_path / "one")]


def test_frames_with_stored_flow(tmp_path):
    """C9: mmaction2's layout, in which `flow_x_...` comes before `img_...`."""
    frames = [f"img_{k:05}.jpg" for k in range(1, 11)]
    flow = [f"flow_{axis}_{k:05}.jpg" for axis in "xy" for k in range(9)]
    image(tmp_path, *(f"Run/v_run/{name}" for name in frames + flow), "Run/v_run/._img_00001.jpg")
    folder = tmp_path / "Run" / "v_run"
    assert [path.rpartition("/")[2] for path in frames_in(folder)] == frames
    with open_video(folder) as video:
        assert video.num_frames == 10
    write(tmp_path, "train.txt", "Run/v_run  10  0\n")
    splits = load_splits(tmp_path)
    assert splits["train"].declared == (10,)
    with splits["train"].open(0) as video:
        assert video.num_frames == 10
    write(tmp_path, "train.txt", "Run/v_run 28 0\n")
    message = "v_run: the annotations state 28 frames, but there are 10"
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path)
    # Also those that are not among the sampled folders.
    data = dataclasses.replace(splits["train"], declared=(28,))
    with pytest.raises(VideoError, match=message), data.open(0):
        pass


def test_images_of_several_kinds(tmp_path):
    image(tmp_path, "img_1.png", "img_2.png", "mask_1.png", "mask_2.png")
    message = r"several kinds \(2 like mask_#\.png, 2 like img_#\.png\)"
    with pytest.raises(VideoError, match=message):
        frames_in(tmp_path)


def test_recordings_stay_together(tmp_path, log):
    """C10: the groups of UCF101 and the recordings of Kinetics; at most a fifth is taken."""
    for name in ("Archery", "Bowling"):
        touch(
            tmp_path,
            *(f"{name}/v_{name}_g{g:02}_c{c:02}.avi" for g in range(10) for c in range(1, 5)),
        )
    for fold in (1, 2, 3):
        splits = load_splits(tmp_path, fold=fold)
        groups = {
            split: {name.rpartition("_c")[0] for name in rows(dataset, tmp_path)}
            for split, dataset in splits.items()
        }
        assert not groups["train"] & groups["val"]
        assert (len(groups["train"]), len(groups["val"])) == (16, 4)
        assert len(splits["val"]) == 16
    assert "whole recordings by their names" in log.text
    assert "selected by file" not in log.text
    touch(tmp_path, *(f"Clap/clip_{k}.mp4" for k in range(5)))
    load_splits(tmp_path)
    assert "validation videos are selected by file" in log.text


@pytest.mark.parametrize(
    ("name", "recording"),
    [
        ("Archery/v_Archery_g01_c02.avi", "v_Archery_g01"),
        ("wave/winKen_wave_u_cm_np1_ri_bad_1.avi", "winKen_wave"),
        ("zumba/-3B32lodo2M_000059_000069.mp4", "-3B32lodo2M"),
        ("run/clip_000059_000069.mp4", ""),
        ("run/frame_c01.mp4", ""),
    ],
)
def test_recordings_by_name(name, recording):
    assert group_of(name) == recording


def test_tiny_classes(tmp_path, log):
    """C11: one validation video from two videos on; classes without one are named."""
    touch(tmp_path, "one/a.mp4", "two/a.mp4", "two/b.mp4", "six/a.mp4")
    touch(tmp_path, *(f"six/{k}.mp4" for k in range(5)))
    splits = load_splits(tmp_path)
    counts = {
        split: [dataset.labels.count(index) for index in range(3)]
        for split, dataset in splits.items()
    }
    assert splits["train"].classes == ("one", "six", "two")
    assert counts == {"train": [1, 5, 1], "val": [0, 1, 1]}
    assert "1 of 3 classes (one) have no val video" in log.text


def test_training_videos_alone(tmp_path):
    touch(tmp_path, "train/run/a.mp4", "train/walk/b.mp4")
    with pytest.raises(DataError, match="has no 'val' annotations, only train"):
        pick_split(load_splits(tmp_path), tmp_path, "val")


def test_side_files_of_macos_are_no_annotations(tmp_path):
    touch(tmp_path, "a.mp4", "._a.mp4")
    write(tmp_path, "train.csv", "a.mp4,run\n")
    (tmp_path / "._train.csv").write_bytes(b"\0\5\x16\7" * 20)
    assert rows(load_splits(tmp_path)["train"], tmp_path) == {"a.mp4": "run"}
