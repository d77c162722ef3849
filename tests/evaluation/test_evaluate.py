"""`python -m jaxvideo evaluate`, from files to a report."""

import argparse
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxvideo import create_model
from jaxvideo.cli import evaluate as command
from jaxvideo.cli.train import overrides
from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.pipeline import read_views
from jaxvideo.data.video import open_video
from jaxvideo.data.views import protocol_views
from jaxvideo.evaluation.fusion import load_scores
from jaxvideo.inference.predict import make_predict_step
from jaxvideo.network import load
from jaxvideo.pretrained import Weights, save_weights
from jaxvideo.progress import console
from jaxvideo.training.data_checks import record_videos
from jaxvideo.training.step import init_variables
from jaxvideo.types import ConfigError, DataError, JaxvideoError, Preprocessing, Protocol
from tests.conftest import write_video

PRE = Preprocessing(frames=4, size=40, crop=32)
CLASSES = ("x", "y", "z")
MODEL = {"name": "f_r2d_10", "width": 1 / 16, "num_classes": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Annotated videos; one is broken and one is missing."""
    folder = tmp_path_factory.mktemp("data")
    for k in range(4):
        write_video(folder / f"{k}.mp4", frames=6 + 4 * k)
    (folder / "3.mp4").write_bytes(b"no video")
    (folder / "train.csv").write_text("0.mp4,x\n")
    (folder / "val.csv").write_text("0.mp4,x\n1.mp4,y\n2.mp4,z\n3.mp4,x\ngone.mp4,y\n")
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    return folder


@pytest.fixture(scope="module")
def variables():
    shapes = jax.eval_shape(lambda: init_variables(create_model(**MODEL), PRE, 0))
    rng = np.random.default_rng(0)

    def draw(shape):
        if len(shape.shape) == 1:  # normalization needs positive variances
            return rng.uniform(0.5, 1.5, shape.shape).astype(np.float32)
        gain = np.sqrt(2 / np.prod(shape.shape[:-1]))
        return (gain * rng.normal(size=shape.shape)).astype(np.float32)

    return jax.tree.map(draw, shapes)


def weights(folder, variables, classes=CLASSES):
    path = folder / f"{'_'.join(classes)}.safetensors".replace(" ", "")
    save_weights(path, Weights(variables, MODEL, PRE, classes, {"source": "test"}))
    return path


def data(folder):
    """A config of the repository, with these videos as its data set."""
    config = str(Path(__file__).parents[2] / "configs" / "motion.py")
    changes = ("data.source=csv", f"data.root={folder}", "protocol.crops=3", "eval_batch_size=8")
    return ["--config", config, *(f"--{change}" for change in changes)]


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers(dest="command"))
    options, others = parser.parse_known_args(["evaluate", *map(str, arguments)])
    options.changes = overrides(others, "--")
    with console():
        return options.run(options)


def by_hand(folder, variables, protocol):
    """Scores each view alone and averages the scores per video."""
    step = jax.jit(make_predict_step(create_model(**MODEL), PRE, protocol.aggregation))
    scores = []
    for k in range(3):
        with open_video(folder / f"{k}.mp4") as video:
            size = video.num_frames, video.height, video.width, video.fps
            clips = protocol_views(*size, PRE, protocol)
            views = [read_views(video, [view], PRE) for clip in clips for view in clip]
        scores.append(np.mean([np.asarray(step(variables, view))[0] for view in views], 0))
    return np.array(scores)


def test_scores_and_files(folder, variables, tmp_path, capsys):
    file, out = weights(folder, variables), tmp_path / "out"
    assert run(*data(folder), "--checkpoint", file, "--out", out) == 0
    printed = capsys.readouterr()
    expected = by_hand(folder, variables, Protocol(clips=2, crops=3))
    found = load_scores(out)
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)
    assert found.labels.tolist() == [0, 1, 2]
    assert (found.classes, found.videos) == (CLASSES, ("0", "1", "2"))
    top1 = np.mean(expected.argmax(1) == [0, 1, 2])
    result = json.loads((out / "result.json").read_text())
    assert result["top1"] == pytest.approx(top1)
    assert result["mean_class_accuracy"] == pytest.approx(top1)
    low, high = result["intervals"]["top1"]
    assert 0 <= low <= top1 <= high <= 1
    assert (result["videos"], result["expected_videos"]) == (3, 5)
    assert result["loss"] == pytest.approx(-np.log(np.diag(expected)).mean(), abs=1e-4)
    assert result["protocol"].startswith("2 clips x 3 crops per video (4 frames, stride 1")
    assert result["views"]["crops"] == 3
    assert result["clip"]["mean"] == [0.0, 0.0, 0.0]
    assert list(result["broken"]) == [str(folder / "3.mp4")]
    for text in (
        result["protocol"],
        "frames 4, stride 1, fps None, size 40, width 0, crop 32",
        f"top-1                {100 * top1:.2f} % [{100 * low:.2f}, {100 * high:.2f}]",
        "60.00 %, 3 of 5 videos; 1 unreadable, 1 missing",
        f"Top-1 is {60 * top1:.2f} % if the others count as wrong",
    ):
        assert text in printed.out
    assert "One-clip" not in printed.out
    assert "excluded:" in printed.err
    assert "3.mp4" in printed.err
    page = (out / "report.html").read_text()
    assert result["protocol"] in page
    assert page.count("data:image/webp") == 3


def test_one_clip_is_called_that_and_classes_may_stand_in_another_order(
    folder, variables, tmp_path, capsys
):
    turned = weights(folder, variables, ("z", "x", "y"))
    arguments = [*data(folder), "--checkpoint", turned, "--out", tmp_path]
    more = ["--clips", "1", "--crops", "1", "--aggregation", "logits", "--worst", "0"]
    assert run(*arguments, *more, "--loading.threads=1") == 0
    printed = capsys.readouterr().out
    assert "One-clip validation: one center crop of one clip per video" in printed
    expected = by_hand(folder, variables, Protocol(clips=1, aggregation="logits"))
    np.testing.assert_allclose(load_scores(tmp_path).scores, expected[:, [1, 2, 0]], atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--data.root=/gone"], "/gone"),
        (["--data.rot=x"], "Did you mean 'data.root'"),
        (["--preprocessing.size=3"], "preprocessing come with the weights"),
        (["--data.root"], "equals sign"),
        (["--views", "3"], "--views=3: must be a multiple of the 8 devices"),
        (["--crops", "2"], "crops=2: allowed are 1, 3, 5, 10"),
        (["--split", "test"], "has no 'test' annotations, only train, val"),
        (["--draws", "1"], "--draws=1"),
        (["--worst", "-1"], "--worst=-1"),
    ],
)
def test_wrong_calls(folder, variables, tmp_path, arguments, text):
    file = weights(folder, variables)
    with pytest.raises(JaxvideoError, match=re.escape(text)):
        run(*data(folder), "--checkpoint", file, "--out", tmp_path, *arguments)


def test_the_training_videos_of_a_run_are_counted(folder, variables, tmp_path, capsys, monkeypatch):
    """A run directory records its videos; two of the three test videos are among them."""
    net = load(weights(folder, variables))
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    paths = tuple(str(folder / f"{k}.mp4") for k in (0, 2))
    record_videos(run_folder, VideoDataset(paths, (0, 1), CLASSES))
    monkeypatch.setattr(command, "open_network", lambda options: net)
    arguments = ["--checkpoint", run_folder, "--out", tmp_path, "--clips", "1", "--worst", "0"]
    assert run(*data(folder), *arguments) == 0
    printed = capsys.readouterr()
    warning = "2 of the 4 videos are training videos of this run; the metrics are too high"
    assert f"warning: {warning}. The first: {paths[0]}" in printed.err
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["notes"][0].startswith(warning)
    assert result["notes"][1].startswith("Only 3 test videos")
    assert "Only 3 test videos" in printed.out
    assert "top5" not in result  # three classes
    assert "top-5" not in printed.out + (tmp_path / "report.html").read_text()


def test_one_class_is_refused(folder, variables, tmp_path):
    for name in ("train.csv", "val.csv"):
        (tmp_path / name).write_text(f"{folder}/0.mp4,x\n")
    with pytest.raises(DataError, match="all videos have the class 'x'"):
        run(*data(tmp_path), "--checkpoint", weights(folder, variables), "--out", tmp_path)


def test_wrong_config_and_classes(folder, variables, tmp_path):
    file = weights(folder, variables)
    with pytest.raises(ConfigError, match="no config with a data set"):
        run("--checkpoint", file)
    with pytest.raises(ConfigError, match="neither a file"):
        run("--config", tmp_path / "none.py", "--checkpoint", file)
    (tmp_path / "wrong.py").write_text("def get_config():\n    raise KeyError('oh')\n")
    with pytest.raises(ConfigError, match=r"wrong\.py: KeyError: 'oh'"):
        run("--config", tmp_path / "wrong.py", "--checkpoint", file)
    other = weights(folder, variables, ("x", "y", "q"))
    with pytest.raises(ConfigError, match="only in the network: q; only in the data set: z"):
        run(*data(folder), "--checkpoint", other, "--out", tmp_path)


def test_classes_without_names_are_taken_in_order():
    columns = command._columns(("class 0", "class 1"), ("b", "a"))
    assert columns.tolist() == [0, 1]
