"""Starts that fail leave nothing behind; runs that continue, longer or after a stop."""

import contextlib
import json

import numpy as np
import pytest

import jaxvideo
from configs import motion
from jaxvideo import cli
from jaxvideo.data.motion.folder import ensure_motion
from jaxvideo.training import loop, memory
from jaxvideo.training.checkpoint import load_variables
from jaxvideo.training.config import default_workdir, load_config
from jaxvideo.training.loop import train
from jaxvideo.training.run_folder import BrokenList, shorter_run, write_json
from jaxvideo.types import CheckpointError, DataError, Interrupted, JaxvideoError, TrainingError
from jaxvideo.weights import tree
from jaxvideo.weights.formats import FORMAT
from tests.conftest import write_video

TINY = {
    "model.name": "f_r2d_10",
    "model.width": 0.0625,
    "data.train_videos": 16,
    "data.val_videos": 8,
    "batch_size": 8,
    "eval_batch_size": 8,
    "preprocessing.frames": 4,
    "preprocessing.size": 24,
    "preprocessing.crop": 20,
    "protocol.clips": 1,
    "epochs": 2.0,
    "optim.schedule": "constant",
    "optim.warmup_epochs": 0.5,
}


def config(root, **changes):
    values = motion.get_config("f_r2d_10")
    with values.ignore_type():
        values.update_from_flattened_dict({**TINY, "data.root": str(root), **changes})
    return values.to_dict()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return ensure_motion(tmp_path_factory.mktemp("motion") / "set", train=16, val=8)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"optim.warmup_epochs": 2.0}, r"warmup_epochs=2: must be less than config\.epochs=2"),
        ({"epochs": 0.4, "optim.warmup_epochs": 0.39}, r"warmup_epochs=0\.39.* is 1 of 1"),
        ({"batch_size": 12}, r"batch_size=12.*multiple of the 8 devices"),
        ({"eval_batch_size": 12}, r"eval_batch_size=12.*multiple of the 8 devices"),
        ({"data.train_videos": 20}, "train=20.*multiples of 8"),
        ({"data.val_videos": 0}, "val_videos=0.*at least 8"),
        ({"data.source": "csv"}, "does not exist"),
        ({"optim.frozen": ("conv9*",)}, r"optim\.frozen.*'conv9\*' matches no parameter"),
        ({"optim.multipliers": (("fd", 2.0),)}, "'fd' matches no parameter"),
        ({"optim.no_decay": ("bias9",)}, "'bias9' matches no parameter"),
        ({"init.path": "gone"}, "'gone' does not exist"),
        ({"init.path": "gone", "init.step": "last"}, r"init\.step='last'"),
        ({"init.step": "best"}, r"init\.step='best' needs init\.path"),
        ({"parallel.accumulate": 3}, "accumulate=3.*bn_groups=1"),
        ({"parallel.split": 3}, "split=3"),
        ({"protocol.segments": 2, "protocol.starts": "dense"}, "require 1 segment"),
        ({"model.width": 0.0}, "width"),
        ({"model.bn_groups": 3}, "groups=3 does not divide"),
        ({"loss": "soft"}, "soft"),
        ({"compilation_cache": "/dev/null/cache"}, "compilation_cache"),
        ({"checkpoint.keep": 0}, r"checkpoint\.keep=0"),
    ],
)
def test_a_refused_start_leaves_nothing(tmp_path, changes, text):
    """Neither a run directory nor a rendered video."""
    with pytest.raises(JaxvideoError, match=text) as caught:
        train(config(tmp_path / "motion", **changes), tmp_path / "runs" / "run")
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_command_prints_one_line(tmp_path, capsys):
    command = ["train", "motion", "--epochs=1", f"--data.root={tmp_path}/motion"]
    assert cli.main([*command, f"--workdir={tmp_path}/run"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: optim.warmup_epochs=2: must be less than")
    assert captured.err.count("\n") == 1
    assert not captured.out
    assert not list(tmp_path.iterdir())


def test_too_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: (1000, "a test"))
    with pytest.raises(TrainingError, match="the training step needs"):
        train(config(tmp_path / "motion"), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_failure_before_the_first_checkpoint(tmp_path):
    """No video can be read, which the first step finds out."""
    data = tmp_path / "data"
    data.mkdir()
    for k in range(16):
        (data / f"{k}.mp4").write_text("no video")
    lines = "".join(f"{k}.mp4 {'ab'[k % 2]}\n" for k in range(16))
    (data / "train.csv").write_text(lines)
    (data / "val.csv").write_text(lines)
    with pytest.raises(DataError, match="videos cannot be read"):
        train(config(data, **{"data.source": "csv"}), tmp_path / "runs" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.fixture(scope="module")
def finished(videos, tmp_path_factory):
    """A run of two epochs of two steps."""
    workdir = tmp_path_factory.mktemp("runs") / "two"
    result = train(config(videos), workdir)
    return workdir, result


def same_weights(one, other):
    expected, found = (tree.flatten(load_variables(run)[0]) for run in (one, other))
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.full
def test_stopped_in_the_middle_of_an_epoch(videos, finished, tmp_path, monkeypatch):
    """The epoch's means are over all its steps."""
    with monkeypatch.context() as patched:
        patched.setattr(
            loop, "stop_signals", lambda: contextlib.nullcontext(lambda step: step == 3)
        )
        with pytest.raises(Interrupted, match="stopped after step 3 of 4"):
            train(config(videos), tmp_path / "run")
    train(config(videos), tmp_path / "run")
    same_weights(finished[0], tmp_path / "run")
    assert records(tmp_path / "run") == records(finished[0])


def test_a_longer_run_continues(videos, finished, tmp_path):
    """One epoch, then the same command with two: the result of two epochs."""
    run = tmp_path / "run"
    short = train(config(videos, epochs=1.0), run)
    result = train(config(videos), run)
    same_weights(finished[0], run)
    assert records(run) == records(finished[0])
    assert result["top1"] == finished[1]["top1"]
    assert json.loads((run / "result-1-epochs.json").read_text())["seconds"] == short["seconds"]
    assert json.loads((run / "run.json").read_text())["epochs"] == 2.0
    with pytest.raises(CheckpointError, match=r"(?s)epochs: 2\.0 and 1\.0.*config\.init\.weights"):
        train(config(videos, epochs=1.0), run)


def test_a_cosine_cannot_be_continued(videos, tmp_path):
    run = tmp_path / "run"
    cosine = {"optim.schedule": "cosine"}
    (run / "checkpoints" / "2").mkdir(parents=True)
    write_json(run / "run.json", {**config(videos, epochs=1.0, **cosine), "format": FORMAT})
    with pytest.raises(CheckpointError, match=r"(?s)'cosine' cannot.*config\.init\.weights=.*best"):
        train(config(videos, **cosine), run)


def test_the_default_directory_of_a_longer_run(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    values = load_config("motion", ["optim.schedule=constant"])
    longer = load_config("motion", ["optim.schedule=constant", "epochs=12"])
    first = default_workdir(values, "motion")
    first.mkdir(parents=True)
    write_json(first / "run.json", {**values, "format": FORMAT})
    assert shorter_run(default_workdir(longer, "motion"), longer) == first
    other = load_config("motion", ["optim.schedule=constant", "epochs=12", "optim.lr=1"])
    assert shorter_run(default_workdir(other, "motion"), other) is None
    assert shorter_run(first, values) is None  # exists
    # A cosine is another run, and the log says how to start from the weights.
    values["optim"]["schedule"] = longer["optim"]["schedule"] = "cosine"
    write_json(first / "run.json", {**values, "format": FORMAT})
    with caplog.at_level("INFO", logger="jaxvideo"):
        assert shorter_run(default_workdir(longer, "motion"), longer) is None
    assert f"config.init.weights={first}" in caplog.text


def test_from_the_best_step(videos, finished, tmp_path):
    workdir, result = finished
    best = result["best_one_clip"]["step"]
    net = jaxvideo.load(workdir, step="best")
    assert net.card["step"] == best
    start = {"init.path": str(workdir), "init.step": "best", "epochs": 0.0}
    tested = train(config(videos, **start), tmp_path / "run")
    expected = tree.flatten(load_variables(workdir, "best")[0])
    found = tree.flatten(load_variables(tmp_path / "run")[0])
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert tested["top1"] == result["best_one_clip"]["val_top1"]  # the protocol has one clip, too


def test_classes_of_a_resumed_run(videos, finished, tmp_path, monkeypatch):
    """The same videos with another order of classes.txt."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "val"):
        (data / name).symlink_to(videos / name)
        (data / f"{name}.csv").write_text((videos / f"{name}.csv").read_text())
    names = (videos / "classes.txt").read_text().split()
    (data / "classes.txt").write_text("\n".join(names))
    own = config(data, **{"data.source": "csv"})
    with monkeypatch.context() as patched:
        patched.setattr(
            loop, "stop_signals", lambda: contextlib.nullcontext(lambda step: step == 1)
        )
        with pytest.raises(Interrupted):
            train(own, tmp_path / "run")
    (data / "classes.txt").write_text("\n".join([names[1], names[0], *names[2:]]))
    with pytest.raises(CheckpointError, match=f"0: {names[0]!r} in the run, {names[1]!r} in the"):
        train(own, tmp_path / "run")
    # Another run aligns the classifier by name, hence has the same accuracy.
    start = {"init.path": str(finished[0]), "epochs": 0.0, "data.source": "csv"}
    assert train(config(data, **start), tmp_path / "aligned")["top1"] == finished[1]["top1"]


def test_what_a_result_names(finished):
    _, result = finished
    low, high = result["intervals"]["top1"]
    assert 0 <= low <= result["top1"] <= high <= 1
    assert len(result["worst"]) == 8
    losses = [row["loss"] for row in result["worst"]]
    assert losses == sorted(losses, reverse=True)
    assert result["skipped_training_videos"] == []


def test_skipped_videos_are_listed(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for k in range(16):
        write_video(data / f"{k}.mp4", frames=8, size=(32, 32))
    (data / "5.mp4").write_text("no video")
    lines = [f"{k}.mp4 {'ab'[k % 2]}\n" for k in range(16)]
    (data / "train.csv").write_text("".join(lines))
    (data / "val.csv").write_text("".join(lines[:4]))
    own = {"data.source": "csv", "data.max_broken": 0.2, "epochs": 1.0}
    result = train(config(data, **own), tmp_path / "run")
    assert result["skipped_training_videos"] == [str(data / "5.mp4")]
    (line,) = (tmp_path / "run" / "broken.txt").read_text().splitlines()
    assert line.startswith(f"{data}/5.mp4\t")
    # The file is a quarantine list.
    quarantined = {**own, "data.quarantine": str(tmp_path / "run" / "broken.txt")}
    found = jaxvideo.data.datasets.load.load_splits(
        data,
        "csv",
        lists={"train": "train.csv", "val": "val.csv"},
        classes="",
        quarantine=quarantined["data.quarantine"],
    )
    assert len(found["train"]) == 15


def test_the_list_of_skipped_videos_survives_a_restart(tmp_path):
    class Videos:
        paths = ("a\nb.mp4", "c.mp4")

    first = BrokenList(tmp_path, Videos)
    first.add(0, "cannot be read:\nline two")
    again = BrokenList(tmp_path, Videos)
    again.add(1, "no video")
    again.add(0, "again")
    text = (tmp_path / "broken.txt").read_text()
    assert text == "a\\nb.mp4\tagain\nc.mp4\tno video\n"
    assert again.names() == ["a\\nb.mp4", "c.mp4"]
