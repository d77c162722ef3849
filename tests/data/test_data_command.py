"""Data sets as training and the command `data` use them."""

import argparse
import os

import cv2
import pytest

from jaxvideo.cli import data as data_command
from jaxvideo.cli import main
from jaxvideo.data.datasets.load import load_dataset, load_splits
from jaxvideo.data.packed.record import Packing
from jaxvideo.data.packed.write import pack
from jaxvideo.training.config import read_config
from jaxvideo.training.inputs import load_data
from jaxvideo.training.schema import Data
from jaxvideo.types import ConfigError, DataError
from tests.conftest import write_video
from tests.data.published import kinetics, rows, touch, ucf101, write


def test_config_section():
    with pytest.raises(
        ConfigError, match=r"data\.source='webcam': allowed are auto, motion, tfds, ucf101"
    ):
        read_config({"model": {"name": "c3d"}, "data": {"source": "webcam"}})
    with pytest.raises(ConfigError, match=r"data\.fold=0: must be at least 1"):
        Data(fold=0)


def test_training_data_of_a_form(tmp_path, caplog):
    """UCF101 is validated on its test split; a video of the second split is missing."""
    caplog.set_level("INFO", "jaxvideo")
    expected = ucf101(tmp_path)
    train_set, val_set = load_data(Data(source="auto", root=str(tmp_path)))
    assert rows(train_set, tmp_path) == expected["train"]
    assert rows(val_set, tmp_path) == expected["test"]
    read, warned = caplog.messages
    assert read.endswith("form ucf101, fold 1; 2 classes; videos: train 2, test 1")
    assert warned.endswith("1 of 2 classes (ApplyEyeMakeup) have no test video")
    caplog.clear()
    with pytest.raises(DataError, match="all 1 training videos have the class"):
        load_data(Data(source="ucf101", root=str(tmp_path), fold=2))
    assert caplog.messages[-1] == (
        "training: 1 of 2 videos exist (missing: v_ApplyEyeMakeup_g01_c01)"
    )


def test_training_data_of_lists(tmp_path):
    """The lists and the class file that the config names."""
    root = tmp_path
    touch(root, "a.mp4", "b b.mp4", "c,c.mp4")
    write(root, "one.csv", "a.mp4 1\nb b.mp4 0\n")
    write(root, "two.csv", "c,c.mp4,walk\n")
    write(root, "names.txt", "walk\nrun\n")
    data = Data(root=str(root), train="one.csv", val="two.csv", classes="names.txt")
    train_set, val_set = load_data(data)
    assert train_set.classes == val_set.classes == ("walk", "run")
    assert (train_set.labels, val_set.labels) == ((1, 0), (0,))
    with pytest.raises(DataError, match=r"gone\.csv does not exist.*--config\.data\.root=DIR\. No"):
        load_data(Data(root=str(root), train="gone.csv", hint="None."))


def run_data(*arguments):
    parser = argparse.ArgumentParser()
    data_command.add(parser.add_subparsers())
    options = parser.parse_args(["data", *map(str, arguments)])
    return options.run(options)


def test_dry_run(tmp_path, capsys):
    """Six videos: one is missing, one in quarantine, one broken."""
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
        "train: 5 of 6 videos exist (missing: v/5.mp4), 1 in quarantine",
        "  smallest class: wälk (1), largest: run (2), multi-label",
        "val: 1 of 1 videos exist",
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
    # Frame k of a video has the gray level 8 k; frames 0, 1.4, 2.8, 4.2, 5.6 and 7 are shown.
    for column, frame in enumerate((0, 1, 3, 4, 6, 7)):
        assert abs(int(picture[100, 130 * column + 100, 0]) - 8 * frame) <= 3
    assert (picture[3 * 148 : 3 * 148 + 128, :, 0] == 192).all()
    assert (picture[128:148] < 100).any()


def test_dry_run_draws_five(tmp_path, capsys):
    touch(tmp_path, *(f"train/{name}/{k}.mp4" for name in "ab" for k in range(20)))
    with pytest.raises(ConfigError, match="cannot be written"):
        run_data(tmp_path, "--sheet", tmp_path)
    assert not capsys.readouterr().out
    assert run_data(tmp_path) == 1
    first = capsys.readouterr().out
    assert run_data(tmp_path, "--form", "folders") == 1
    second = capsys.readouterr().out
    assert second == first
    samples = [line for line in second.splitlines() if ": error: " in line]
    assert len(samples) == len(set(samples)) == 5
    kinetics(tmp_path / "k")
    with pytest.raises(ConfigError, match="has only fold 1"):
        run_data(tmp_path / "k", "--fold", "2")


def test_names_that_are_not_utf8(tmp_path, capsys):
    name = os.fsdecode(b"run/\xff.mp4")
    touch(tmp_path, "walk/a.mp4", name)
    assert set(rows(load_dataset(tmp_path), tmp_path)) == {"walk/a.mp4", name}
    assert run_data(tmp_path) == 1  # their content is not a video
    assert r"run  run/\xff.mp4: error" in capsys.readouterr().out


def test_what_pack_wrote_is_recognized(tmp_path, capsys):
    """U9: by `data`, `doctor` and `data.source=auto`."""
    root, packed = tmp_path / "videos", tmp_path / "packed"
    root.mkdir()
    for k in range(3):
        write_video(root / f"{k}.mp4", 6 + k)
    write(root, "train.csv", "0.mp4,a\n1.mp4,b\n")
    write(root, "val.csv", "2.mp4,a\n")
    pack(load_splits(root), packed, Packing(format="jpeg", size=32), root=root)
    train_set, val_set = load_data(Data(source="auto", root=str(packed)))
    assert (train_set.paths, val_set.paths) == (("0.mp4", "1.mp4"), ("2.mp4",))
    capsys.readouterr()
    assert main(["data", str(packed)]) == 0
    told = capsys.readouterr().out
    assert "form tfds" in told
    assert "  a  0.mp4: 42 x 32, 6 frames, 25 fps\n" in told
    assert main(["doctor", str(packed)]) == 1
    assert "is a packed or prepared data set; check the videos" in capsys.readouterr().err
    (packed / "dataset_info.json").unlink()
    write(packed, "packing.json", "{}")
    with pytest.raises(DataError, match="is not finished: run the same"):
        load_splits(packed)
