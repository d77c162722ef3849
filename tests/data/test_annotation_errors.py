"""Invalid annotations raise errors that name the file, the line and the expected form."""

import pytest

from jaxvideo.data.datasets.forms import FORMS
from jaxvideo.data.datasets.load import autodetect, load_dataset, load_splits
from jaxvideo.types import ConfigError, DataError
from tests.data.published import (
    actions,
    activitynet,
    hara,
    hmdb51,
    kinetics,
    kinetics_one_file,
    mmaction_frames,
    mmaction_json,
    rows,
    sports1m,
    ssv2,
    touch,
    ucf101,
    write,
)


@pytest.fixture
def root(tmp_path):
    for name in ("a.mp4", "b b.mp4", "c,c.mp4"):
        (tmp_path / name).touch()
    return tmp_path


BAD_LISTS = [
    ("", "is empty"),
    ("# nothing\n", "is empty"),
    ("a.mp4 run\nb.mp4\n", "line 2: 'b.mp4' is not of the form 'path/of/video.mp4 label'"),
    ("a.mp4,\n", "line 1"),
    ("\ta.mp4\n", "line 1"),
]


@pytest.mark.parametrize(("text", "message"), BAD_LISTS)
def test_bad_list_in_a_folder(root, text, message):
    write(root, "train.csv", text)
    with pytest.raises(DataError, match=message):
        load_splits(root)


def test_nothing_of_a_known_form(tmp_path):
    with pytest.raises(DataError, match=r"data folder .*gone does not exist"):
        autodetect(tmp_path / "gone")
    with pytest.raises(DataError, match=r"contains nothing, but no data set of a known form"):
        autodetect(tmp_path)
    write(tmp_path, "notes.txt", "hello")
    (tmp_path / "jpegs").mkdir()
    with pytest.raises(DataError) as caught:
        autodetect(tmp_path)
    assert "contains jpegs, notes.txt, but no data set" in str(caught.value)
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
    with pytest.raises(
        ConfigError, match=r"form 'webcam': allowed are auto, ucf101, .*, csv, folders"
    ):
        load_splits(root, "webcam")
    with pytest.raises(ConfigError, match="split 'dev': allowed are train, val, test"):
        load_dataset(root, split="dev")
    write(root, "train.csv", "a.mp4 x\n")
    with pytest.raises(DataError, match="has no 'val' annotations, only train"):
        load_dataset(root, split="val")
    with pytest.raises(ConfigError, match="only for the form 'csv'"):
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
            r"train\.csv, line 1: 'class,y.*has no column label; expected: a header 'label,y",
        ),
        (
            changed(kinetics, "annotations/train.csv", ",59,", ",soon,"),
            r"train\.csv, line 2: time_start and time_end are not numbers; expected: label,youtube",
        ),
        (
            changed(kinetics, "annotations/val.csv", "zumba", "ballet"),
            r"val\.csv, line 3: the label 'ballet' is none of the 2",
        ),
        (
            changed(kinetics, "annotations/val.csv", ",1010,val,1", ""),
            "line 3: 3 columns, but the header has 6",
        ),
        (
            changed(kinetics_one_file, "kinetics.csv", "validate", "later"),
            "unknown split 'later'; allowed are train, tr",
        ),
        (without(ucf101, f"{LISTS}/classInd.txt"), r"classInd\.txt does not exist.*'1 ApplyEye"),
        (without(ucf101, f"{LISTS}/testlist01.txt"), r"testlist01\.txt does not exist.*lines 'App"),
        (
            changed(ucf101, f"{LISTS}/classInd.txt", "1 ApplyEye", "7 ApplyEye"),
            r"classInd\.txt, line 1: '7 ApplyEyeMakeup'; expected: '1 CLASS'",
        ),
        (
            changed(ucf101, f"{LISTS}/trainlist01.txt", "c01.avi 2", "c01.avi 1"),
            r"trainlist01\.txt, line 2: class number 1, but in classInd\.txt ApplyLipstick is cl",
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
            r'aaaaaaaaaaa: .* is not of the form activity_net\.v1-3\.json: \{"database"',
        ),
        (changed(activitynet, "activity_net.v1-3.min.json", "]}}, ", "]}, "), "is not JSON"),
        (
            without(sports1m, "labels.txt"),
            r"labels\.txt does not exist; expected: lines 'one",
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
            r'an entry: \{"no": "3".*is not of the form train\.json and',
        ),
        (changed(actions, "train.csv", "x/b.mp4,", ","), r"train\.csv, line 3: no path or id"),
        (changed(actions, "val.csv", "jump", "fly"), r"val\.csv, line 2: the label 'fly'"),
        (changed(hara, "ucf101_01.json", '"labels": ["Yoga", ', '"labels": [1, '), "labels: .1, "),
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
            r'anno_train\.json: an entry: \{"name": "b\.mp4".*is not of the form train\.txt',
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
    with pytest.raises(DataError, match=r"no annotated video has a label; expected: train\.csv"):
        load_splits(tmp_path)
