"""Pictures of features: title, axes and legend (U21), and file names that cannot be drawn."""

import os

import numpy as np
import pytest

from jaxvideo.report import features
from jaxvideo.studies.svm import embed
from jaxvideo.types import ConfigError, DataError, UsageError


@pytest.fixture
def drawn(monkeypatch):
    """Collects the axes of the pictures."""
    found = []
    save = features._save

    def keep(figure, path):
        save(figure, path)
        found.extend(figure.axes)

    monkeypatch.setattr(features, "_save", keep)
    return found


@pytest.mark.parametrize(
    ("rows", "low"), [([(2, 1.0)], 90), ([(10, 0.5), (500, 0.97)], 40), ([(1, 0.0)], 0)]
)
def test_compactness(drawn, tmp_path, rows, low):
    features.draw_compactness(tmp_path / "a.png", {"pool": rows}, "PCA of 3 videos")
    (axes,) = drawn
    assert axes.get_title() == "PCA of 3 videos"
    assert axes.get_ylim() == (low, 100)
    assert axes.get_xlim()[0] < rows[0][0] <= rows[-1][0] < axes.get_xlim()[1]
    assert [text.get_text() for text in axes.get_xticklabels()] == [str(n) for n, _ in rows]
    assert [text.get_text() for text in axes.texts] == [f"{100 * rows[0][1]:.1f} %"] * (
        len(rows) == 1
    )


def test_embedding(drawn, tmp_path):
    points = np.random.default_rng(0).normal(size=(30, 2)) * [5, 1]
    classes = ["a", "no video", os.fsdecode(b"\xe9t\xe9\n")]
    features.draw_embedding(tmp_path / "a.png", points, np.arange(30) % 2 * 2, classes, "t-SNE")
    (axes,) = drawn
    assert axes.get_title() == "t-SNE"
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["a", r"\xe9t\xe9\n"]
    box, beside = axes.get_window_extent(), legend.get_window_extent()
    assert 0 <= beside.x0 - box.x1 < 30  # pixels
    assert box.width > 0.6 * axes.figure.bbox.width
    x, y = (np.diff(limits)[0] for limits in (axes.get_xlim(), axes.get_ylim()))
    assert x / box.width == pytest.approx(y / box.height, rel=1e-3)


def test_many_classes_have_no_legend(drawn, tmp_path):
    features.draw_embedding(
        tmp_path / "a.png", np.eye(30, 2), np.arange(30), [*map(str, range(30))]
    )
    assert drawn[0].get_legend() is None


def test_endings(tmp_path):
    with pytest.raises(UsageError, match=r"a\.xyz must end with .*\.eps, .*\.png"):
        features.check_picture("a.xyz")
    features.check_picture("a")
    with pytest.raises(ConfigError, match="cannot be written"):
        features.draw_compactness(tmp_path / "gone" / "a.png", {"pool": [(1, 0.5)]})


def test_equal_features_have_no_embedding():
    """scikit-learn ends with a segmentation fault."""
    with pytest.raises(DataError, match="the 6 videos have the same features"):
        embed(np.ones((6, 32), np.float32), perplexity=2)
