"""Every form of annotations, built as the data sets publish it, and what is refused."""

import argparse
import json
import os

import cv2
import numpy as np
import pytest

from jaxvideo.cli import data as data_command
from jaxvideo.data import annotations
from jaxvideo.data.annotations import annotation_files, split_of
from jaxvideo.data.datasets import (
    VideoDataset,
    autodetect,
    load_dataset,
    load_splits,
    read_annotations,
    read_classes,
)
from jaxvideo.data.forms import FORMS
from jaxvideo.training.config import Data
from jaxvideo.training.inputs import load_data
from jaxvideo.types import ConfigError, DataError
from tests.conftest import write_video


@pytest.fixture
def root(tmp_path):
    for name in ("a.mp4", "b b.mp4", "c,c.mp4"):
        (tmp_path / name).touch()
    return tmp_path


def annotate(root, text):
    (root / "list.csv").write_text(text)
    return "list.csv"


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(root, name, content):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(content if isinstance(content, str) else json.dumps(content))


def rows(dataset, root):
    """{path: class names}, however many each."""
    sets = dataset.label_sets or [(label,) for label in dataset.labels]
    assert [labels[0] for labels in sets] == list(dataset.labels)
    return {
        os.path.relpath(path, root): " + ".join(dataset.classes[label] for label in labels)
        for path, labels in zip(dataset.paths, sets, strict=True)
    }


# --- One list -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a.mp4 run\nb b.mp4 walk\n",
        "a.mp4,run\nb b.mp4,walk\n",
        "a.mp4\trun\nb b.mp4\twalk\n",
        "# a comment\n\na.mp4 , run\nb b.mp4, walk",
        "\ufeffa.mp4 run\r\nb b.mp4 walk\r\n",
    ],
)
def test_separators(root, text):
    data = read_annotations(annotate(root, text), root)
    assert data.paths == (str(root / "a.mp4"), str(root / "b b.mp4"))
    assert data.classes == ("run", "walk")
    assert data.labels == (0, 1)
    assert data.label_sets == data.missing == data.quarantined == ()


def test_indices_and_given_classes(root):
    data = read_annotations(annotate(root, "a.mp4 2\nb b.mp4 0\n"), root)
    assert data.classes == ("0", "1", "2")
    assert data.labels == (2, 0)
    classes = ("arm wrestling", "archery", "abseiling")
    data = read_annotations(annotate(root, "a.mp4,archery\nb b.mp4,2\n"), root, classes)
    assert data.labels == (1, 2)


BAD_LISTS = [
    ("", "is empty"),
    ("# nothing\n", "is empty"),
    ("a.mp4 run\nb.mp4\n", "line 2: 'b.mp4' is not of the form 'path/of/video.mp4 label'"),
    ("a.mp4,\n", "line 1"),
    ("\ta.mp4\n", "line 1"),
]


@pytest.mark.parametrize(
    ("text", "message"),
    [*BAD_LISTS, ("nope.mp4 run\n", "none of 1 videos looked for exists.*nope.mp4")],
)
def test_bad_files(root, text, message):
    with pytest.raises(DataError, match=message):
        read_annotations(annotate(root, text), root)


def test_label_outside_the_classes(root):
    name = annotate(root, "a.mp4 run\na.mp4 swim\n")
    with pytest.raises(DataError, match=r"list\.csv, line 2: the label 'swim' is none of the 2"):
        read_annotations(name, root, ("run", "walk"))
    name = annotate(root, "a.mp4 2\n")
    with pytest.raises(DataError, match="no index from 0 to 1"):
        read_annotations(name, root, ("run", "walk"))


def test_missing_folder_and_file(tmp_path):
    with pytest.raises(DataError, match=r"data folder .*nowhere does not exist.*train\.csv"):
        read_annotations("train.csv", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"train\.csv does not exist; expected there: lines 'path"):
        read_annotations("train.csv", tmp_path)


def test_classes_file(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("b\na\n")
    assert read_classes(file) == ("b", "a")
    file.write_text("b\na\nb\n")
    with pytest.raises(DataError, match="twice: b"):
        read_classes(file)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train.csv", ("train", None)),
        ("test2.csv", ("test", 2)),
        ("validation.json", ("val", None)),
        ("kinetics700_2020_validate.csv", ("val", None)),
        ("kinetics400_train_list_videos.txt", ("train", None)),
        ("ucf101_val_split_3_rawframes.txt", ("val", 3)),
        ("something-something-v2-train.json", ("train", None)),
        ("Charades_v1_test.csv", ("test", None)),
        ("kinetics_400_train_256.csv", ("train", None)),
        ("classes.txt", (None, None)),
        ("trainval.csv", (None, None)),
        ("contest.txt", (None, None)),
    ],
)
def test_what_a_name_says_of_the_split(name, expected):
    assert split_of(name) == expected


# --- The forms ----------------------------------------------------------------------------

KINETICS = "label,youtube_id,time_start,time_end,split\n"


def csv_form(root):
    touch(root, "x/a.mp4", "x/b b.mp4", "y/c.webm", "y/frames/img_00001.jpg")
    write(root, "train.csv", "x/a.mp4,run\ny/frames,walk\n")
    write(root, "val.tsv", "x/b b.mp4\twalk\ny/c.webm\t0\n")
    return {
        "train": {"x/a.mp4": "run", "y/frames": "walk"},
        "val": {"x/b b.mp4": "walk", "y/c.webm": "run"},
    }


def kinetics(root):
    """Flat, and in class folders with and without underscores; the test file has no labels."""
    touch(
        root,
        "train/air_drumming/-3B32lodo2M_000059_000069.mp4",
        "train/zumba/--aaaaaaaaa_000000_000010.mkv",
        "val/air drumming/_dbcJuKJQNs_000140_000150.mp4",
        "bbbbbbbbbbb_001000_001010.mp4",
    )
    write(
        root,
        "annotations/train.csv",
        KINETICS + '"air drumming",-3B32lodo2M,59,69,train\nzumba,--aaaaaaaaa,0,10,train\n',
    )
    write(
        root,
        "annotations/val.csv",
        KINETICS.replace("split", "split,is_cc")
        + "air drumming,_dbcJuKJQNs,140.0,150.0,val,0\nzumba,bbbbbbbbbbb,1000,1010,val,1\n",
    )
    write(
        root,
        "annotations/test.csv",
        "youtube_id,time_start,time_end,split\nccccccccccc,1,11,test\n",
    )
    return {
        "train": {
            "train/air_drumming/-3B32lodo2M_000059_000069.mp4": "air drumming",
            "train/zumba/--aaaaaaaaa_000000_000010.mkv": "zumba",
        },
        "val": {
            "val/air drumming/_dbcJuKJQNs_000140_000150.mp4": "air drumming",
            "bbbbbbbbbbb_001000_001010.mp4": "zumba",
        },
    }


def kinetics_one_file(root):
    """Kinetics-700 with the split in its column, in frames."""
    touch(
        root, "frames/abcdefghijk_000001_000011/00001.jpg", "frames/lmnopqrstuv_000002_000012/1.png"
    )
    write(
        root,
        "kinetics.csv",
        KINETICS + "b,abcdefghijk,1,11,train\na,lmnopqrstuv,2,12,validate\nb,x,1,2,train\n"
        "a,lmnopqrstuv,2,12,train\n",
    )
    place = "frames/lmnopqrstuv_000002_000012"
    return {
        "train": {"frames/abcdefghijk_000001_000011": "b", place: "a"},
        "val": {place: "a"},
    }


def ucf101(root):
    write(root, "ucfTrainTestlist/classInd.txt", "1 ApplyEyeMakeup\n2 ApplyLipstick\n")
    lists = "ucfTrainTestlist"
    for fold, (one, two) in {1: ("08", "01"), 2: ("01", "08")}.items():
        write(
            root,
            f"{lists}/trainlist0{fold}.txt",
            f"ApplyEyeMakeup/v_ApplyEyeMakeup_g{one}_c01.avi 1\r\n"
            f"ApplyLipstick/v_ApplyLipstick_g{one}_c01.avi 2\r\n",
        )
        write(
            root, f"{lists}/testlist0{fold}.txt", f"ApplyLipstick/v_ApplyLipstick_g{two}_c01.avi\n"
        )
    videos = "UCF-101"
    touch(
        root,
        f"{videos}/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
        f"{videos}/ApplyLipstick/v_ApplyLipstick_g08_c01.avi",
        f"{videos}/ApplyLipstick/v_ApplyLipstick_g01_c01.avi",
        f"{videos}/ApplyLipstick/v_ApplyLipstick_g01_c01.flow.mkv",
    )
    return {
        "train": {
            f"{videos}/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi": "ApplyEyeMakeup",
            f"{videos}/ApplyLipstick/v_ApplyLipstick_g08_c01.avi": "ApplyLipstick",
        },
        "test": {f"{videos}/ApplyLipstick/v_ApplyLipstick_g01_c01.avi": "ApplyLipstick"},
    }


def hmdb51(root):
    """The same name in two classes, and a name that begins like a comment."""
    lists = "testTrainMulti_7030_splits"
    write(root, f"{lists}/clap_test_split1.txt", "#20_Rhythm_clap.avi 1 \nx_0.avi 2 \nu.avi 0 \n")
    write(root, f"{lists}/pick_test_split1.txt", "x_0.avi 1 \ny.avi 2 \n")
    write(root, f"{lists}/pick_test_split2.txt", "x_0.avi 2 \ny.avi 1 \n")
    touch(root, "hmdb/clap/#20_Rhythm_clap.avi", "hmdb/clap/x_0.avi", "hmdb/clap/u.avi")
    touch(root, "hmdb/pick/x_0.avi", "hmdb/pick/y.avi")
    return {
        "train": {"hmdb/clap/#20_Rhythm_clap.avi": "clap", "hmdb/pick/x_0.avi": "pick"},
        "test": {"hmdb/clap/x_0.avi": "clap", "hmdb/pick/y.avi": "pick"},
    }


def activitynet(root):
    def entry(subset, *labels):
        parts = [{"segment": [1.5 * i, 2.0 * i], "label": label} for i, label in enumerate(labels)]
        return {"duration": 9.0, "subset": subset, "url": "u", "annotations": parts}

    database = {
        "aaaaaaaaaaa": entry("training", "Surfing", "Archery", "Surfing"),
        "-bbbbbbbbbb": entry("training", "Archery"),
        "ccccccccccc": entry("validation", "Archery"),
        "ddddddddddd": entry("testing"),
    }
    write(
        root,
        "activity_net.v1-3.min.json",
        {"database": database, "taxonomy": [], "version": "VERSION 1.3"},
    )
    touch(root, "all/v_aaaaaaaaaaa.mp4", "all/v_-bbbbbbbbbb.mkv", "all/ccccccccccc.mp4")
    return {
        "train": {"all/v_aaaaaaaaaaa.mp4": "Surfing + Archery", "all/v_-bbbbbbbbbb.mkv": "Archery"},
        "val": {"all/ccccccccccc.mp4": "Archery"},
    }


def sports1m(root):
    url = "https://www.youtube.com/watch?v="
    write(root, "labels.txt", "yoga\nabseiling\nkiting\n")
    write(root, "original/train_partition.txt", f"{url}w9ZfIMTK1WE 2,0\n{url}-aaaaaaaaaa 1\n")
    write(root, "original/test_partition.txt", f"{url}bbbbbbbbbb_ 2\n")
    touch(root, "v/w9ZfIMTK1WE.mp4", "v/-aaaaaaaaaa.mp4", "v/bbbbbbbbbb_.webm")
    return {
        "train": {"v/w9ZfIMTK1WE.mp4": "kiting + yoga", "v/-aaaaaaaaaa.mp4": "abseiling"},
        "test": {"v/bbbbbbbbbb_.webm": "kiting"},
    }


def ssv2(root):
    """The order of classes is the file's, not the alphabet's."""

    def entry(number, template):
        return {"id": number, "label": "x", "template": template, "placeholders": ["x"]}

    name = "something-something-v2"
    write(root, f"{name}-labels.json", {"Holding something": "1", "Putting something": "0"})
    train = [entry("10", "Putting [something]"), entry("2", "Holding [something]")]
    write(root, f"{name}-train.json", train)
    write(root, f"{name}-validation.json", [entry("3", "Holding [something]")])
    write(root, f"{name}-test.json", [{"id": "4"}])
    touch(root, *(f"20bn-something-something-v2/{number}.webm" for number in (10, 2, 3, 4)))
    place = "20bn-something-something-v2"
    return {
        "train": {f"{place}/10.webm": "Putting something", f"{place}/2.webm": "Holding something"},
        "val": {f"{place}/3.webm": "Holding something"},
    }


def charades(root):
    head = "id,subject,script,actions,length\n"
    write(
        root,
        "Charades_v1_train.csv",
        head + 'YSKX3,S1,"He, then\nhe",c001 11.90 21.20;c000 0.00 12.60;c001 1.0 2.0,33\n'
        "NONE1,S1,,,12\n",
    )
    write(root, "Charades_v1_test.csv", head + "46GP8,H,x,c000 0 1.5,24\n")
    write(root, "Charades_v1_classes.txt", "c000 Holding some clothes\nc001 Closing a door\n")
    touch(root, "Charades_v1_480/YSKX3.mp4", "Charades_v1_480/46GP8.mp4", "NONE1.mp4")
    return {
        "train": {"Charades_v1_480/YSKX3.mp4": "Closing a door + Holding some clothes"},
        "test": {"Charades_v1_480/46GP8.mp4": "Holding some clothes"},
    }


def actions(root):
    write(root, "train.csv", "path,actions\nx/a.mp4,run; jump\nx/b.mp4,swim\n")
    write(root, "val.csv", "path,actions\nx/a.mp4,jump\n")
    touch(root, "x/a.mp4", "x/b.mp4")
    return {"train": {"x/a.mp4": "run + jump", "x/b.mp4": "swim"}, "val": {"x/a.mp4": "jump"}}


def hara(root):
    for fold, (one, two) in {1: ("training", "validation"), 2: ("validation", "training")}.items():
        database = {
            "v_Yoga_g01": {"subset": one, "annotations": {"label": "Yoga", "segment": [1, 9]}},
            "v_Archery_g02": {"subset": two, "annotations": {"label": "Archery"}},
            "v_Archery_g03": {"subset": one, "annotations": {"label": "Archery"}},
            "v_g04": {"subset": "testing", "annotations": {"segment": [1, 9]}},
        }
        write(root, f"ucf101_0{fold}.json", {"labels": ["Yoga", "Archery"], "database": database})
    touch(root, "jpg/Yoga/v_Yoga_g01/image_00001.jpg", "jpg/Archery/v_Archery_g02/image_00001.jpg")
    touch(root, "jpg/Archery/v_Archery_g03/image_00001.jpg")
    return {
        "train": {"jpg/Yoga/v_Yoga_g01": "Yoga", "jpg/Archery/v_Archery_g03": "Archery"},
        "val": {"jpg/Archery/v_Archery_g02": "Archery"},
    }


def mmaction_frames(root):
    write(root, "k_train_list_rawframes.txt", "some/a 163 1\nsome/b 122 0\n")
    write(root, "k_val_list_rawframes.txt", "other/c 3 1\n")
    write(root, "classes.txt", "zumba\nyoga\n")
    touch(root, "rawframes_train/some/a/img_00001.jpg", "rawframes_train/some/b/img_00001.jpg")
    touch(root, "rawframes_val/other/c/img_00001.jpg")
    return {
        "train": {"rawframes_train/some/a": "yoga", "rawframes_train/some/b": "zumba"},
        "val": {"rawframes_val/other/c": "yoga"},
    }


def mmaction_several(root):
    write(root, "train.txt", "a.mp4 2 0\nb.mp4 1\n")
    write(root, "val.txt", "c 163 1 2\n")
    touch(root, "videos/a.mp4", "videos/b.mp4", "rawframes/c/1.jpg")
    return {
        "train": {"videos/a.mp4": "2 + 0", "videos/b.mp4": "1"},
        "val": {"rawframes/c": "1 + 2"},
    }


def mmaction_json(root):
    write(
        root,
        "anno_train.json",
        [{"filename": "a.mp4", "label": 1}, {"filename": "b.mp4", "label": [0]}],
    )
    write(root, "anno_val.json", [{"frame_dir": "c", "total_frames": 9, "label": 0}])
    touch(root, "videos_train/a.mp4", "videos_train/b.mp4", "rawframes_val/c/1.jpg")
    return {
        "train": {"videos_train/a.mp4": "1", "videos_train/b.mp4": "0"},
        "val": {"rawframes_val/c": "0"},
    }


def mmaction_videos(root):
    """mmaction2's list of videos is the plain form."""
    write(root, "k_train_list_videos.txt", "air drumming/a.mp4 1\nyoga/b.mp4 0\n")
    write(root, "k_val_list_videos.txt", "yoga/c.mp4 0\n")
    touch(
        root, "videos_train/air drumming/a.mp4", "videos_train/yoga/b.mp4", "videos_val/yoga/c.mp4"
    )
    return {
        "train": {"videos_train/air drumming/a.mp4": "1", "videos_train/yoga/b.mp4": "0"},
        "val": {"videos_val/yoga/c.mp4": "0"},
    }


def folders(root):
    touch(root, "train/run/b.mp4", "train/run/a.AVI", "train/9/deep/c.mp4", "train/9/f/1.jpg")
    touch(
        root, "validation/9/d.mp4", "train/run/a.flow.mkv", "train/run/note.txt", "train/.x/y.mp4"
    )
    (root / "train" / "empty").mkdir()
    return {
        "train": {
            "train/9/deep/c.mp4": "9",
            "train/9/f": "9",
            "train/run/a.AVI": "run",
            "train/run/b.mp4": "run",
        },
        "val": {"validation/9/d.mp4": "9"},
    }


BUILT = [
    (csv_form, "csv"),
    (kinetics, "kinetics"),
    (kinetics_one_file, "kinetics"),
    (ucf101, "ucf101"),
    (hmdb51, "hmdb51"),
    (activitynet, "activitynet"),
    (sports1m, "sports1m"),
    (ssv2, "ssv2"),
    (charades, "actions"),
    (actions, "actions"),
    (hara, "hara"),
    (mmaction_frames, "mmaction"),
    (mmaction_several, "mmaction"),
    (mmaction_json, "mmaction"),
    (mmaction_videos, "csv"),
    (folders, "folders"),
]


def test_every_form_is_built_here():
    assert {form for _, form in BUILT} == set(FORMS)


@pytest.mark.parametrize(("build", "form"), BUILT, ids=[build.__name__ for build, _ in BUILT])
def test_form(tmp_path, build, form):
    expected = build(tmp_path)
    assert autodetect(tmp_path) == form
    splits = load_splits(tmp_path)
    assert {split: rows(data, tmp_path) for split, data in splits.items()} == expected
    assert len({data.classes for data in splits.values()}) == 1
    assert load_splits(tmp_path, form) == splits
    for split in expected:
        assert load_dataset(tmp_path, split=split) == splits[split]
    several = any("+" in name for split in expected.values() for name in split.values())
    assert all(bool(data.label_sets) == several for data in splits.values())


def test_the_order_of_classes(tmp_path):
    ssv2(tmp_path)
    assert load_dataset(tmp_path).classes == ("Putting something", "Holding something")


def test_folds(tmp_path):
    for build in (ucf101, hmdb51, hara):
        root = tmp_path / build.__name__
        build(root)
        with pytest.raises(DataError, match=r"there is no.*7"):
            load_splits(root, fold=7)
    second = load_splits(tmp_path / "hara", fold=2)
    assert rows(second["train"], tmp_path / "hara") == {"jpg/Archery/v_Archery_g02": "Archery"}
    second = load_splits(tmp_path / "hmdb51", fold=2)
    assert rows(second["train"], tmp_path / "hmdb51") == {"hmdb/pick/y.avi": "pick"}
    second = load_splits(tmp_path / "ucf101", fold=2)
    assert second["train"].missing == ("v_ApplyEyeMakeup_g01_c01",)
    kinetics(tmp_path / "k")
    with pytest.raises(ConfigError, match="fold=2: 'kinetics' has one split only"):
        load_splits(tmp_path / "k", fold=2)
    touch(tmp_path / "c", "a.mp4")
    for name in ("train1.csv", "train2.csv"):
        write(tmp_path / "c", name, f"a.mp4 {name}\n")
    assert load_dataset(tmp_path / "c", fold=2).classes == ("train2.csv",)
    with pytest.raises(DataError, match="there is no fold 3, only 1, 2"):
        load_dataset(tmp_path / "c", fold=3)


def test_class_folders_without_splits_are_divided_by_names(tmp_path):
    names = [f"{name}/{k}.mp4" for name in ("run", "walk") for k in range(20)]
    touch(tmp_path, *names, "annotations/readme.md")
    splits = load_splits(tmp_path)
    found = {split: set(rows(data, tmp_path)) for split, data in splits.items()}
    assert found["train"] | found["val"] == set(names)
    assert not found["train"] & found["val"]
    for name in ("run", "walk"):
        assert sum(path.startswith(name) for path in found["val"]) == 4
    assert load_splits(tmp_path) == splits
    assert load_splits(tmp_path, fold=2) != splits
    # Another class changes nothing for these.
    touch(tmp_path, *(f"swim/{k}.mp4" for k in range(9)))
    again = set(rows(load_dataset(tmp_path, split="val"), tmp_path))
    assert {path for path in again if not path.startswith("swim")} == found["val"]


# --- What is not there --------------------------------------------------------------------


def test_coverage(tmp_path):
    kinetics(tmp_path)
    (tmp_path / "train" / "zumba" / "--aaaaaaaaa_000000_000010.mkv").unlink()
    data = load_dataset(tmp_path)
    assert data.missing == ("--aaaaaaaaa_000000_000010",)
    assert (len(data), data.annotated, data.classes) == (1, 2, ("air drumming", "zumba"))
    assert data.coverage == "1 of 2 videos are there (not --aaaaaaaaa_000000_000010)"
    for path in list(tmp_path.rglob("*.mp4")):
        if "val" in path.parts or path.parent == tmp_path:
            path.unlink()
    with pytest.raises(DataError, match=r"val: none of 2 videos exists, for instance _dbcJuKJQNs"):
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
    assert data.coverage == "19,404 of 19,906 videos are there (not a, b, c, ...)"


def test_videos_are_listed_and_not_looked_at(tmp_path, monkeypatch):
    """One listing per folder, and no look at a file."""
    touch(tmp_path, *(f"train/c{k % 4}/{k:011d}_000000_000010.mp4" for k in range(400)))
    lines = "".join(f"c{k % 4},{k:011d},0,10,train\n" for k in range(500))
    write(tmp_path, "train.csv", KINETICS + lines)
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    looks, stat = [], os.stat
    monkeypatch.setattr(os, "stat", lambda path, **k: looks.append(str(path)) or stat(path, **k))
    data = load_dataset(tmp_path)
    assert (len(data), len(data.missing)) == (400, 100)
    # The root also by pathlib's search for annotations, which some versions do by `os.scandir`.
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
    assert data.coverage == "2 of 2 videos are there, 1 in quarantine"
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


def test_names_that_are_not_utf8(tmp_path, capsys):
    name = os.fsdecode(b"run/\xff.mp4")
    touch(tmp_path, "walk/a.mp4", name)
    assert set(rows(load_dataset(tmp_path), tmp_path)) == {"walk/a.mp4", name}
    assert run_data(tmp_path) == 1  # they are no videos
    assert "run  run/?.mp4: error" in capsys.readouterr().out


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
    """Its class and its split decide; beyond that, nothing is guessed."""
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


# --- What is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(("text", "message"), BAD_LISTS)
def test_bad_list_in_a_folder(root, text, message):
    write(root, "train.csv", text)
    with pytest.raises(DataError, match=message):
        load_splits(root)


def test_nothing_of_a_known_form(tmp_path):
    with pytest.raises(DataError, match=r"data folder .*gone does not exist"):
        autodetect(tmp_path / "gone")
    with pytest.raises(DataError, match=r"holds nothing, and no data set of a known form"):
        autodetect(tmp_path)
    write(tmp_path, "notes.txt", "hello")
    (tmp_path / "jpegs").mkdir()
    with pytest.raises(DataError) as caught:
        autodetect(tmp_path)
    assert "holds jpegs, notes.txt, and no data set" in str(caught.value)
    for name, form in FORMS.items():
        assert f"{name} " in str(caught.value)
        assert form.layout in str(caught.value)


def test_several_forms(tmp_path):
    expected = ucf101(tmp_path)
    write(tmp_path, "train.csv", "a.mp4 run\n")
    with pytest.raises(DataError, match=r"several forms \(csv: train\.csv; ucf101: ucfTrainTest"):
        load_splits(tmp_path)
    assert rows(load_dataset(tmp_path, "ucf101"), tmp_path) == expected["train"]


@pytest.mark.parametrize("form", [form for form in FORMS if form != "folders"])
def test_another_form_was_asked_for(tmp_path, form):
    write(tmp_path, "letter.txt", "x")
    with pytest.raises(DataError, match=f"no annotations, but none of the form '{form}'; exp") as e:
        load_splits(tmp_path, form)
    assert FORMS[form].layout in str(e.value)
    with pytest.raises(DataError, match="does not exist; expected in it") as e:
        load_splits(tmp_path / "gone", form)
    assert FORMS[form].layout in str(e.value)


def test_wrong_names(root):
    with pytest.raises(ConfigError, match="form 'webcam': allowed are auto, csv, kinetics"):
        load_splits(root, "webcam")
    with pytest.raises(ConfigError, match="split 'dev': allowed are train, val, test"):
        load_dataset(root, split="dev")
    write(root, "train.csv", "a.mp4 x\n")
    with pytest.raises(DataError, match="has no 'val' videos annotated, only train"):
        load_dataset(root, split="val")
    with pytest.raises(ConfigError, match="are for the form 'csv'"):
        load_splits(root, "kinetics", lists={"train": "train.csv"})
    write(root, "annotations/train.csv", "a.mp4 x\n")
    with pytest.raises(DataError, match=r"several files for the train split: .*; keep one"):
        load_splits(root)


def changed(build, name, old, new):
    def made(root):
        build(root)
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    return made


def without(build, name):
    def made(root):
        build(root)
        (root / name).unlink()

    return made


LISTS = "ucfTrainTestlist"
SSV2 = "something-something-v2"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            changed(kinetics, "annotations/train.csv", "label,", "class,"),
            r"train\.csv, line 1: 'class,y.*has no column label; expected there: a header 'label,y",
        ),
        (
            changed(kinetics, "annotations/train.csv", ",59,", ",soon,"),
            r"train\.csv, line 2: no times; expected there: label,youtube_id",
        ),
        (
            changed(kinetics, "annotations/val.csv", "zumba", "ballet"),
            r"val\.csv, line 3: the label 'ballet' is none of the 2",
        ),
        (changed(kinetics, "annotations/val.csv", ",1010,val,1", ""), "line 3: 3 columns of 6"),
        (changed(kinetics_one_file, "kinetics.csv", "validate", "later"), "the split 'later' is n"),
        (without(ucf101, f"{LISTS}/classInd.txt"), r"classInd\.txt does not exist.*'1 ApplyEye"),
        (without(ucf101, f"{LISTS}/testlist01.txt"), r"testlist01\.txt does not exist.*lines 'App"),
        (
            changed(ucf101, f"{LISTS}/classInd.txt", "1 ApplyEye", "7 ApplyEye"),
            r"classInd\.txt, line 1: '7 ApplyEyeMakeup'; expected there: '1 CLASS'",
        ),
        (
            changed(ucf101, f"{LISTS}/trainlist01.txt", "c01.avi 2", "c01.avi 1"),
            r"trainlist01\.txt, line 2: ApplyLipstick is class 2",
        ),
        (
            changed(ucf101, f"{LISTS}/testlist01.txt", "ApplyLipstick/", ""),
            r"testlist01\.txt, line 1: 'v_.*' is not of the form 'ApplyEyeMakeup/v_",
        ),
        (
            changed(ucf101, f"{LISTS}/testlist01.txt", "ApplyLipstick/", "Yoga/"),
            r"testlist01\.txt, line 1: the label 'Yoga' is none of the 2",
        ),
        (
            changed(hmdb51, "testTrainMulti_7030_splits/pick_test_split1.txt", " 2 ", " 3 "),
            r"pick_test_split1\.txt, line 2: 'y\.avi 3' is not of the form 'April_09.*1 is train",
        ),
        (
            changed(activitynet, "activity_net.v1-3.min.json", '"label": "Surfing"', '"l": 1'),
            r'aaaaaaaaaaa, .* is not of the form activity_net\.v1-3\.json: \{"database"',
        ),
        (changed(activitynet, "activity_net.v1-3.min.json", "]}}, ", "]}, "), "is not JSON"),
        (
            without(sports1m, "labels.txt"),
            r"labels\.txt does not exist; expected there: lines 'one",
        ),
        (
            changed(sports1m, "original/train_partition.txt", " 1\n", " 3\n"),
            r"train_partition\.txt, line 2: the label '3' is none of the 3",
        ),
        (
            changed(sports1m, "original/train_partition.txt", "watch?v=-aaaaaaaaaa", ""),
            r"line 2: .* is not of the form 'https://www\.youtube\.com/watch\?v=ID 5,17'",
        ),
        (without(ssv2, f"{SSV2}-labels.json"), r'labels\.json does not exist; .*\{"Holding some'),
        (changed(ssv2, f"{SSV2}-labels.json", '"0"', '"7"'), "the indices are not 0 to 1"),
        (
            changed(ssv2, f"{SSV2}-train.json", "Putting [s", "Eating [s"),
            r"train\.json, video 10: the label 'Eating something' is none of the 2",
        ),
        (
            changed(ssv2, f"{SSV2}-validation.json", '"id"', '"no"'),
            r'an entry, \{"no": "3".*is not of the form train\.json and',
        ),
        (changed(actions, "train.csv", "x/b.mp4,", ","), r"train\.csv, line 3: no path or id"),
        (changed(actions, "val.csv", "jump", "fly"), r"val\.csv, line 2: the label 'fly'"),
        (changed(hara, "ucf101_01.json", '"labels": ["Yoga", ', '"labels": [1, '), "labels, .1, "),
        (
            changed(hara, "ucf101_01.json", '"label": "Yoga"', '"label": "Tennis"'),
            r"ucf101_01\.json, v_Yoga_g01: the label 'Tennis' is none of the 2",
        ),
        (
            changed(mmaction_frames, "k_train_list_rawframes.txt", " 122 0", " 122"),
            r"line 2: 'some/b 122' is not of the form 'path/of/frames 163 1'",
        ),
        (
            changed(mmaction_frames, "k_val_list_rawframes.txt", " 3 1", " 3 2"),
            r"val_list_rawframes\.txt, line 1: the label '2' is none of the 2 classes \(zumba, y",
        ),
        (
            changed(mmaction_json, "anno_train.json", '"filename": "b', '"name": "b'),
            r'anno_train\.json: an entry, \{"name": "b\.mp4".*is not of the form train\.txt',
        ),
        (lambda root: touch(root, "train/run/a.mp4", "val/swim/b.mp4"), "val: the label 'swim'"),
        (
            lambda root: touch(root, "train/run/a.txt", "val/swim/b.mp4"),
            r"no training folder of videos .* expected: train/CLASS/a\.mp4",
        ),
    ],
)
def test_annotations_in_another_form(tmp_path, build, message):
    build(tmp_path)
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path)


def test_only_secret_labels(tmp_path):
    kinetics(tmp_path)
    for name in ("train", "val"):
        (tmp_path / "annotations" / f"{name}.csv").unlink()
    with pytest.raises(DataError, match=r"no video there has a label; expected: train\.csv"):
        load_splits(tmp_path)


# --- Training and the command -------------------------------------------------------------


def test_config_section():
    with pytest.raises(
        ConfigError, match=r"data\.source='webcam': allowed are auto, motion, tfds, csv"
    ):
        Data(source="webcam")
    with pytest.raises(ConfigError, match=r"data\.fold=0: must be at least 1"):
        Data(fold=0)


def test_training_data_of_a_form(tmp_path, caplog):
    """UCF101's test split is what is validated on; the second split lacks a video."""
    caplog.set_level("INFO", "jaxvideo")
    expected = ucf101(tmp_path)
    train_set, val_set = load_data(Data(source="auto", root=str(tmp_path)))
    assert rows(train_set, tmp_path) == expected["train"]
    assert rows(val_set, tmp_path) == expected["test"]
    assert not caplog.messages
    load_data(Data(source="ucf101", root=str(tmp_path), fold=2))
    assert "\n".join([*caplog.messages, ""]) == (
        "training: 1 of 2 videos are there (not v_ApplyEyeMakeup_g01_c01)\n"
    )


def test_training_data_of_lists(root):
    """The files that the config names, with the classes of the file that it names."""
    write(root, "one.csv", "a.mp4 1\nb b.mp4 0\n")
    write(root, "two.csv", "c,c.mp4,walk\n")
    write(root, "names.txt", "walk\nrun\n")
    data = Data(root=str(root), train="one.csv", val="two.csv", classes="names.txt")
    train_set, val_set = load_data(data)
    assert train_set.classes == val_set.classes == ("walk", "run")
    assert (train_set.labels, val_set.labels) == ((1, 0), (0,))
    with pytest.raises(
        DataError, match=r"gone\.csv does not exist.*--config\.data\.root=FOLDER\. No"
    ):
        load_data(Data(root=str(root), train="gone.csv", hint="None."))


def run_data(*arguments):
    parser = argparse.ArgumentParser()
    data_command.add(parser.add_subparsers())
    options = parser.parse_args(["data", *map(str, arguments)])
    return options.run(options)


def test_dry_run(tmp_path, capsys):
    """Six videos of two classes; one is missing, one in quarantine, one broken."""
    for k in range(5):
        (tmp_path / "v").mkdir(exist_ok=True)
        write_video(tmp_path / "v" / f"{k}.mp4", frames=8)
    (tmp_path / "v" / "4.mp4").write_text("no video")
    names = ["run", "run", "run", "walk", "wälk", "walk", "run"]
    lines = "".join(f"v/{k}.mp4,{name}\n" for k, name in enumerate(names[:6]))
    write(tmp_path, "train.csv", "path,actions\n" + lines.replace("0.mp4,run", "0.mp4,run;walk"))
    write(tmp_path, "val.csv", "path,actions\nv/0.mp4,walk\n")
    write(tmp_path, "quarantine.txt", "v/1.mp4\tdark\n")
    sheet = tmp_path / "sheet.png"
    assert run_data(tmp_path, "--sheet", sheet) == 1
    out = capsys.readouterr().out
    assert out.splitlines() == [
        f"{tmp_path}: form actions, fold 1",
        "3 classes: run, walk, wälk",
        "train: 5 of 6 videos are there (not v/5.mp4), 1 in quarantine",
        "  smallest class: wälk (1), largest: run (2), multi-label",
        "val: 1 of 1 videos are there",
        "  smallest class: run (0), largest: walk (1), multi-label",
        "samples of train:",
        "  run, walk  v/0.mp4: 64 x 48, 8 frames, 25 fps",
        "  run  v/2.mp4: 64 x 48, 8 frames, 25 fps",
        "  walk  v/3.mp4: 64 x 48, 8 frames, 25 fps",
        f"  wälk  v/4.mp4: error: {tmp_path}/v/4.mp4: cannot be opened as a video "
        "(Invalid data found when processing input)",
        f"contact sheet: {sheet}",
    ]
    picture = cv2.imread(str(sheet))
    assert picture.shape == (4 * 148, 6 * 130, 3)
    # Frame 8 k of a video is gray of level 8 k; frames 0, 1.4, 2.8, 4.2, 5.6 and 7 are shown.
    for column, frame in enumerate((0, 1, 3, 4, 6, 7)):
        assert abs(int(picture[100, 130 * column + 100, 0]) - 8 * frame) <= 3
    assert (picture[3 * 148 : 3 * 148 + 128, :, 0] == 192).all()
    assert (picture[128:148] < 100).any()


def test_dry_run_draws_five(tmp_path, capsys):
    touch(tmp_path, *(f"train/{name}/{k}.mp4" for name in "ab" for k in range(20)))
    with pytest.raises(DataError, match="cannot be written"):
        run_data(tmp_path, "--sheet", tmp_path)
    first = capsys.readouterr().out
    assert run_data(tmp_path, "--form", "folders") == 1
    second = capsys.readouterr().out
    assert second == first
    samples = [line for line in second.splitlines() if ": error: " in line]
    assert len(samples) == len(set(samples)) == 5
    kinetics(tmp_path / "k")
    with pytest.raises(ConfigError, match="has one split only"):
        run_data(tmp_path / "k", "--fold", "2")


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


def test_what_is_no_annotation_file(tmp_path):
    for name in ("classes.txt", "readme.txt", "labels.json", "train.npz", "quarantine.txt"):
        write(tmp_path, name, "x 1\n")
    write(tmp_path, "broken.json", '{"database": ')
    write(tmp_path, "list.json", "[1, 2]")
    (tmp_path / "train.csv").mkdir()
    assert annotation_files(tmp_path) == {}
    assert annotations.form_of(tmp_path / "gone.csv") is None
