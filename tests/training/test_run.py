"""Whole runs as a user starts them: finished, interrupted, resumed and refused."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import absl.logging
import numpy as np
import pytest

from configs import i3d_rgb, motion
from jaxvideo import cli
from jaxvideo.cli.train import main
from jaxvideo.data.motion.folder import ensure_motion
from jaxvideo.training.checkpoint import load_variables
from jaxvideo.training.loop import train
from jaxvideo.types import CheckpointError, ConfigError, DataError
from jaxvideo.weights import tree
from tests.conftest import write_video
from tests.training.test_loggers import events

ROOT = Path(__file__).parent.parent.parent

# A network of five convolutions with BN, and dropout: tracing it takes a third of ResNet-10's time.
NETWORK = "c3d_depth3"
TINY = [
    f"--config=configs/motion.py:{NETWORK}",
    "--config.model.width=0.0625",
    "--config.data.train_videos=32",
    "--config.data.val_videos=16",
    "--config.batch_size=4",
    "--config.eval_batch_size=8",
    "--config.epochs=3.0",
    "--config.preprocessing.frames=4",
    "--config.preprocessing.size=24",
    "--config.preprocessing.crop=20",
    "--config.protocol.clips=1",
    "--config.log_seconds=0.0",
]
STEPS = 24


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    ensure_motion(cache / "motion", train=32, val=16)
    return {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "1",
        # All runs compile the same program, so they share a compilation cache.
        "JAX_COMPILATION_CACHE_DIR": str(cache / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "MOTION": str(cache / "motion"),
    }


def command(environment, workdir, *arguments):
    root = f"--config.data.root={environment['MOTION']}"
    return [sys.executable, "train.py", *TINY, root, f"--workdir={workdir}", *arguments]


def run(environment, workdir, *arguments):
    return subprocess.run(
        command(environment, workdir, *arguments),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def weights(workdir):
    """Returns all arrays of the newest checkpoint, by name."""
    variables, described = load_variables(workdir)
    assert described["data"]["next_batch"] == STEPS, described["data"]
    return tree.flatten(variables)


@pytest.fixture(scope="module")
def finished(environment, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    done = run(environment, workdir)
    assert done.returncode == 0, done.stderr
    return workdir, done.stdout


def test_what_a_run_leaves(finished):
    workdir, stdout = finished
    result = json.loads((workdir / "result.json").read_text())
    assert {"top1", "top5", "protocol", "model", "videos", "seconds", "versions", "seed"} <= set(
        result
    )
    assert result["videos"] == 16
    assert result["protocol"].startswith("1 clip x center crop per video (4 frames, stride 3")
    assert result["protocol"] in stdout
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [8, 16, 24]
    assert {"loss", "top1", "val_top1", "val_loss", "lr", "grad_norm"} <= set(records[0])
    board = list(events(workdir / "tensorboard"))
    for tag in ("step/loss", "step/top1", "step/lr", "step/data_wait", "step/clips_per_second"):
        assert [step for step, name, _ in board if name == tag] == [10, 20], tag
    assert [step for step, name, _ in board if name == "val_top1"] == [8, 16, 24]
    for picture in ("curves.png", "confusion.png"):
        assert (workdir / picture).read_bytes().startswith(b"\x89PNG")
    assert list((workdir / "tensorboard").glob("events.out.tfevents*"))
    assert "clips/s" in stdout
    assert "data wait" in stdout
    assert "ETA" in stdout


@pytest.mark.full
def test_a_finished_run_is_not_repeated(environment, finished):
    workdir, _ = finished
    before = (workdir / "result.json").stat().st_mtime_ns
    again = run(environment, workdir)
    assert again.returncode == 0
    assert "already finished" in again.stdout
    assert (workdir / "result.json").stat().st_mtime_ns == before


@pytest.mark.full
def test_a_run_starts_from_another(environment, finished, tmp_path):
    """With a tiny learning rate it ends with the parameters of the other run."""
    first, _ = finished
    done = run(
        environment, tmp_path / "run", f"--config.init.path={first}", "--config.optim.lr=1e-12"
    )
    assert done.returncode == 0, done.stderr
    assert f"initial weights: {first}" in done.stdout
    expected, found = weights(first), weights(tmp_path / "run")
    assert expected.keys() == found.keys()
    for name in expected:
        if name.startswith("params"):
            np.testing.assert_allclose(found[name], expected[name], atol=1e-6)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("SIGINT", marks=pytest.mark.full),
        pytest.param("SIGTERM", marks=pytest.mark.full),
        "SIGKILL",
    ],
)
def test_interrupted_and_continued_ends_with_the_same_weights(
    environment, finished, tmp_path, kind
):
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        command(environment, workdir),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # In the middle of the second epoch.
    for line in process.stdout:
        if line.strip().startswith("step ") and int(line.split()[1].split("/")[0]) >= 10:
            break
    process.send_signal(getattr(signal, kind))
    _, stderr = process.communicate(timeout=120)
    if kind == "SIGKILL":
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 0
        assert "stopped after step" in stderr
        assert "Traceback" not in stderr
    assert not (workdir / "result.json").exists()
    done = run(environment, workdir)
    assert done.returncode == 0, done.stderr
    assert "resuming after step" in done.stdout
    expected, found = weights(finished[0]), weights(workdir)
    assert list(expected) == list(found)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == [8, 16, 24]


def test_predict_with_the_classes_of_the_checkpoint(environment, finished, capsys):
    workdir, _ = finished
    video = next((Path(environment["MOTION"]) / "val" / "up").glob("*.mp4"))
    assert cli.main(["predict", str(video), "--checkpoint", str(workdir)]) == 0
    _, path, *lines, last = capsys.readouterr().out.splitlines()
    assert path == str(video)
    shares = [float(line.split()[0]) for line in lines]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)
    classes = (Path(environment["MOTION"]) / "classes.txt").read_text().split()
    for line in lines:
        _, _, index, name = line.split()
        assert classes[int(index)] == name
    assert last.startswith("1 video, 0 failed")
    assert cli.main(["predict", "/gone.mp4", "--checkpoint", str(workdir)]) == 1
    assert capsys.readouterr().err.startswith("error: /gone.mp4")


def refused(done, *texts, status=1):
    """Checks that there is one error without a traceback, and that it contains the texts."""
    assert done.returncode == status, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr
    for text in texts:
        assert text in done.stderr, (text, done.stderr)


def test_another_config_in_the_folder(environment, finished):
    workdir, _ = finished
    config = small_config(environment)
    config.batch_size, config.optim.lr = 4, 0.3
    with pytest.raises(CheckpointError, match=r"(?s)has a run of another config.*optim.lr: 0\."):
        train(config.to_dict(), workdir)


def test_a_folder_that_is_something_else(environment, tmp_path):
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(CheckpointError, match="is not empty and not a run directory"):
        train(small_config(environment).to_dict(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_folder_that_cannot_be_made(environment, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot be written.*--workdir"):
        train(small_config(environment).to_dict(), tmp_path / "file" / "run")


def test_compiled_programs_are_kept(environment, finished, tmp_path):
    kept = Path(environment["JAX_COMPILATION_CACHE_DIR"])
    assert f"compilation cache: {kept}" in finished[1]
    assert list(kept.glob("jit_*"))  # not train_step: jaxlib cannot serialize calls of oneDNN
    (tmp_path / "file").touch()
    config = small_config(environment)
    config.compilation_cache = f"{tmp_path}/file/cache"
    with pytest.raises(ConfigError, match=r"compilation_cache=.* cannot be written.*'' for none"):
        train(config.to_dict(), tmp_path / "run")


@pytest.mark.parametrize(
    ("override", "texts"),
    [
        ("--config.optim.lrr=1", ["lrr", "Did you mean", "lr"]),
        ("--config.optim.lr=fast", ["optim.lr", "fast"]),
    ],
)
def test_bad_overrides(environment, tmp_path, override, texts, capsys, monkeypatch):
    """In this process: `train.py` only calls `main`."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(absl.logging, "set_verbosity", lambda level: None)
    assert main(command(environment, tmp_path / "run", override)[2:]) == 2
    error, usage = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert usage.startswith("usage: python train.py")
    for text in texts:
        assert text in error
    assert not (tmp_path / "run").exists()


def small_config(environment):
    """TINY's config, for a run in this process, which has eight devices."""
    config = motion.get_config(NETWORK)
    for argument in TINY[1:]:
        key, _, value = argument.removeprefix("--config.").partition("=")
        config.update_from_flattened_dict({key: ast.literal_eval(value)})
    config.batch_size = 8
    config.data.root = environment["MOTION"]
    return config


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("model.name", "r3d18", "r3d18.*Did you mean 'r3d_18'"),
        ("optim.schedule", "stepp", "stepp.*step, cosine, whole_cosine, plateau"),
        ("batch_size", 0, "batch_size=0"),
        ("optim.frozen", ("conv9*",), r"conv9\*.*matches no parameter"),
        ("data.source", "webcam", "webcam.*csv"),
    ],
)
def test_bad_values(environment, tmp_path, key, value, text):
    config = small_config(environment)
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError, match=text):
        train(config.to_dict(), tmp_path / "run")


@pytest.mark.full
def test_a_checkpoint_of_another_model(environment, finished, tmp_path):
    """Same config, but other parameters, as after a change of the code."""
    import shutil

    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    (workdir / "result.json").unlink()
    config = json.loads((workdir / "run.json").read_text())
    config["model"]["name"] = "c3d_depth1"
    (workdir / "run.json").write_text(json.dumps(config))
    done = run(environment, workdir, "--config.model.name=c3d_depth1")
    refused(done, "does not fit the model", "conv1a/kernel")


def test_missing_data_names_what_it_looked_for(tmp_path):
    config = i3d_rgb.get_config()
    config.data.root = str(tmp_path / "kinetics")
    config.batch_size = 64
    with pytest.raises(DataError) as refusal:
        train(config.to_dict(), tmp_path / "run")
    for text in (str(tmp_path / "kinetics"), "train.csv", "path/of/video.mp4 label", ":smoke"):
        assert text in str(refusal.value)


@pytest.mark.full
def test_nan_stops_and_names_the_step(environment, tmp_path):
    done = run(environment, tmp_path / "run", "--config.optim.lr=1e30")
    refused(done, "at step", "nan", "config.optim.lr")


@pytest.fixture
def videos(tmp_path):
    """Seven valid videos of two classes, and one file that is not a video."""
    lines = []
    for k in range(7):
        write_video(tmp_path / f"{k}.mp4", frames=12)
        lines.append(f"{k}.mp4 {'even' if k % 2 == 0 else 'odd'}")
    (tmp_path / "bad.mp4").write_text("no video")
    lines.append("bad.mp4 odd")
    for name in ("train.csv", "val.csv"):
        (tmp_path / name).write_text("\n".join(lines))
    return tmp_path


OWN = [
    "--config.data.source=csv",
    "--config.epochs=2.0",
    "--config.optim.warmup_epochs=0.0",
]


@pytest.mark.full
def test_a_broken_video_is_named_counted_and_skipped(environment, videos, tmp_path):
    root = f"--config.data.root={videos}"
    done = run(environment, tmp_path / "run", *OWN, root, "--config.data.max_broken=0.2")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("skipped, 1 so far") == 1
    assert f"{videos}/bad.mp4" in done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["videos"] == 7
    assert result["unreadable_videos"] == 1


@pytest.mark.full
def test_too_many_broken_videos_stop_the_run(environment, videos, tmp_path):
    for k in range(5):
        (videos / f"{k}.mp4").write_text("broken too")
    done = run(environment, tmp_path / "run", *OWN, f"--config.data.root={videos}")
    refused(done, "cannot be read", "max_broken", ".mp4")


def test_a_bad_annotation_line_is_named(environment, videos, tmp_path):
    with (videos / "train.csv").open("a") as file:
        file.write("\nonlypath.mp4\n")
    config = small_config(environment)
    config.data.source, config.data.root = "csv", str(videos)
    with pytest.raises(DataError, match=r"train.csv, line 9.*path/of/video.mp4 label"):
        train(config.to_dict(), tmp_path / "run")


@pytest.mark.full
def test_time_is_not_wasted_on_signals_twice(environment, tmp_path):
    """A second Ctrl-C ends at once, without a traceback."""
    process = subprocess.Popen(
        command(environment, tmp_path / "run"),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.strip().startswith("step "):
            break
    process.send_signal(signal.SIGINT)
    time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr
