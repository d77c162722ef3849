"""The report of an evaluation, as text and in a browser."""

import dataclasses
import io
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.evaluation.intervals import estimates
from jaxvideo.evaluation.metrics import label_matrix
from jaxvideo.evaluation.protocol import Result
from jaxvideo.report.evaluation import confused_pairs, evaluation_page, thumbnail
from jaxvideo.types import VideoError
from tests.conftest import write_video

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
PROTOCOL = {"network": "x & y", "protocol": "10 clips x 3 crops per video"}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return tuple(str(write_video(folder / f"v{k}.mp4", frames=8 + k)) for k in range(12))


def make_result(paths, classes):
    """Scores of a network with mostly correct predictions; the last video is broken."""
    rng = np.random.default_rng(0)
    labels = np.arange(len(paths)) % classes
    logits = 2 * rng.normal(size=(len(paths), classes))
    logits[np.arange(len(paths)), labels] += 2
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    names = tuple(f"class {i} <i> & 'quoted'" for i in range(classes))
    data = VideoDataset((*paths, "/gone.mp4"), (*labels.tolist(), 0), names)
    result = Result(
        scores=scores.astype(np.float32),
        labels=labels,
        broken={"/gone.mp4": "/gone.mp4: no such <file>"},
        clips=30,
        seconds=1.0,
        data_wait=0.5,
        videos=np.arange(len(paths)),
        label_sets=None,
        expected=len(paths) + 1,
        aggregation="softmax",
    )
    return result, data


def make_page(result, data, **how):
    numbers = estimates(result.scores, result.truth, draws=50)
    return evaluation_page("A test", result, data, numbers, PROTOCOL, ["A note."], **how)


def requests(page):
    """Returns the references that a browser would fetch, i.e. all that are not data URLs."""
    found = re.findall(r'(?:src|href|srcset|action|poster|data)="([^"]*)"', page)
    found += re.findall(r"url\(([^)]*)\)|@import[^;]*", page)
    return [one for one in found if not one.startswith("data:")]


@pytest.mark.parametrize("classes", [4, 80])
def test_what_stands_in_the_page(paths, classes):
    result, data = make_result(paths, classes)
    page = make_page(result, data, worst=5)
    assert f"{100 * result.top1:.2f} %" in page
    assert "12 of 13 videos" in page
    assert "A note." in page
    assert "no such &lt;file&gt;" in page
    assert "x &amp; y" in page
    assert "<i> & " not in page  # class names are escaped
    assert page.count('class="bar"') == len(set(result.labels.tolist()))
    assert len(re.findall("data:image/webp", page)) == 5
    # Many classes: a picture. Few: a table with counts that sum to the number of videos.
    assert page.count("data:image/png") == (classes > 60)
    cells = re.findall(r'rgba\([^"]*">(\d+)</td>', page)
    assert sum(map(int, cells)) == (0 if classes > 60 else 12)
    worst = re.search(r"<figcaption>(.*?)</figcaption>", page.split('class="worst"')[1])[1]
    assert f"v{result.losses.argmax()}" in worst
    assert f"loss {result.losses.max():.2f}" in worst


def test_several_labels(paths):
    result, data = make_result(paths, 4)
    sets = tuple((i % 4, (i + 1) % 4) for i in range(12))
    result = dataclasses.replace(result, label_sets=label_matrix(sets, 4), aggregation="sigmoid")
    data = dataclasses.replace(data, label_sets=(*sets, (0,)))
    page = make_page(result, data, worst=1)
    assert "mAP" in page
    assert "Average precision of each class" in page
    assert "Confusion" not in page


def test_the_largest_confusions():
    counts = np.array([[5, 3, 0], [1, 9, 7], [0, 0, 2]])
    assert confused_pairs(counts) == [(1, 2, 7), (0, 1, 3), (1, 0, 1)]
    assert confused_pairs(counts, 1) == [(1, 2, 7)]
    assert confused_pairs(np.eye(3, dtype=int)) == []


def test_a_thumbnail_moves(paths):
    """It starts at the first frame and keeps the aspect; each frame is brighter than the last."""
    data = VideoDataset((paths[0], "/gone.mp4"), (0, 0), ("a",))
    with Image.open(io.BytesIO(thumbnail(data, 0))) as image:
        assert (image.format, image.size) == ("WEBP", (160, 120))
        levels, shown = [], 0
        for k in range(image.n_frames):
            image.seek(k)
            levels.append(np.asarray(image.convert("RGB"))[60:, 80:].mean())
            shown += image.info["duration"]
    # 8 frames of 1/8 s; the encoder merges frames that differ little.
    assert shown == 1000
    assert len(levels) >= 4
    assert (np.diff(levels) > 4).all()
    assert levels[0] < 4
    assert levels[-1] > 40
    with pytest.raises(VideoError, match="gone"):
        thumbnail(data, 1)


@pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("classes", [4, 80])
def test_in_a_browser(paths, tmp_path, dark, classes):
    """The page makes no requests and is visible in light and dark mode."""
    result, data = make_result(paths, classes)
    page = make_page(result, data)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", page)
    assert not requests(page)
    assert "<script" not in page
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    shot = tmp_path / "shot.png"
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            *(["--blink-settings=preferredColorScheme=0"] if dark else []),
            "--window-size=1200,1500",
            f"--screenshot={shot}",
            (tmp_path / "report.html").as_uri(),
        ],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    pixels = np.asarray(Image.open(shot).convert("RGB"), np.float64)
    assert pixels.shape == (1500, 1200, 3)
    background = np.median(pixels, (0, 1))
    assert (background < 60).all() if dark else (background > 195).all()
    assert pixels.std() > 10
    # The bars have more than a hundred blue pixels.
    blue = (np.abs(pixels - (42, 120, 214)) < 12).all(-1)
    assert blue.sum() > 100
