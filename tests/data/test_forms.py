"""Every form of annotations is recognized and read as the data sets publish it."""

import pytest

from jaxvideo.data.datasets.annotations import indexed, split_of
from jaxvideo.data.datasets.form import Form
from jaxvideo.data.datasets.forms import FORMS, annotation_files
from jaxvideo.data.datasets.load import autodetect, load_dataset, load_splits, read_annotations
from jaxvideo.data.datasets.text import read_classes
from jaxvideo.types import ConfigError, DataError
from tests.data.published import BUILT, hara, hmdb51, kinetics, rows, ssv2, touch, ucf101, write


@pytest.fixture
def root(tmp_path):
    for name in ("a.mp4", "b b.mp4", "c,c.mp4"):
        (tmp_path / name).touch()
    return tmp_path


def annotate(root, text):
    (root / "list.csv").write_text(text)
    return "list.csv"


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
    [*BAD_LISTS, ("nope.mp4 run\n", "none of 1 sampled videos exists.*nope.mp4")],
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
    with pytest.raises(DataError, match=r"train\.csv does not exist; expected: lines 'path"):
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


def test_a_new_form_is_one_row(tmp_path, monkeypatch):
    """Recognition and reading both come from the row."""
    layout = "tally.txt with lines 'LABEL PATH'"

    def read(source):
        lines = [line.split() for line in source.files[0].read_text().splitlines()]
        found = {"train": [("tally.txt", name, [label]) for label, name in lines]}
        return indexed(found, None, anywhere=False)

    form = Form(layout=layout, read=read, matches_file=lambda file: file.path.name == "tally.txt")
    monkeypatch.setitem(FORMS, "tally", form)
    touch(tmp_path, "a.mp4", "b.mp4")
    write(tmp_path, "tally.txt", "run a.mp4\nwalk b.mp4\n")
    assert autodetect(tmp_path) == "tally"
    assert rows(load_dataset(tmp_path), tmp_path) == {"a.mp4": "run", "b.mp4": "walk"}
    (tmp_path / "tally.txt").unlink()
    with pytest.raises(DataError, match="LABEL PATH"):
        load_splits(tmp_path, "tally")


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
    with pytest.raises(ConfigError, match="fold=2: the form 'kinetics' has only fold 1"):
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
    # Another class does not change the division of these.
    touch(tmp_path, *(f"swim/{k}.mp4" for k in range(9)))
    again = set(rows(load_dataset(tmp_path, split="val"), tmp_path))
    assert {path for path in again if not path.startswith("swim")} == found["val"]


def test_what_is_no_annotation_file(tmp_path):
    for name in ("classes.txt", "readme.txt", "labels.json", "train.npz", "quarantine.txt"):
        write(tmp_path, name, "x 1\n")
    write(tmp_path, "broken.json", '{"database": ')
    write(tmp_path, "list.json", "[1, 2]")
    (tmp_path / "train.csv").mkdir()
    assert annotation_files(tmp_path) == {}
