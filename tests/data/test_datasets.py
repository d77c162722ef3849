import pytest

from jaxvideo.data.datasets import read_annotations, read_classes
from jaxvideo.types import DataError

pytestmark = pytest.mark.fast


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
    ],
)
def test_separators(root, text):
    data = read_annotations(annotate(root, text), root)
    assert data.paths == (str(root / "a.mp4"), str(root / "b b.mp4"))
    assert data.classes == ("run", "walk")
    assert data.labels == (0, 1)


def test_indices_and_given_classes(root):
    data = read_annotations(annotate(root, "a.mp4 2\nb b.mp4 0\n"), root)
    assert data.classes == ("0", "1", "2")
    assert data.labels == (2, 0)
    classes = ("arm wrestling", "archery", "abseiling")
    data = read_annotations(annotate(root, "a.mp4,archery\nb b.mp4,2\n"), root, classes)
    assert data.labels == (1, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("a.mp4 run\nb.mp4\n", "line 2: 'b.mp4' is not of the form"),
        ("a.mp4,\n", "line 1"),
        ("\ta.mp4\n", "line 1"),
        ("nope.mp4 run\n", "none of 1 videos looked for exists.*nope.mp4"),
    ],
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
