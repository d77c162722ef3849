"""Two processes of `extract`, `evaluate` and `fvd` give the results of one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxvideo import create_model
from jaxvideo.evaluation.fusion import load_scores
from jaxvideo.evaluation.partial import unpack_rows
from jaxvideo.pretrained import Weights, save_weights
from jaxvideo.training.step import init_variables
from jaxvideo.types import Preprocessing
from tests.conftest import write_video

pytestmark = pytest.mark.full  # starts processes, each of which compiles

PRE = Preprocessing(frames=4, size=40, crop=32)
MODEL = {"name": "f_r2d_10", "width": 1 / 16, "num_classes": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Seven videos, of which one is broken; annotations and weights."""
    root = tmp_path_factory.mktemp("processes")
    (root / "videos").mkdir()
    for k in range(7):
        write_video(root / "videos" / f"{k}.mp4", frames=8 + 3 * k)
    (root / "videos" / "5.mp4").write_bytes(b"no video")
    lines = [f"{k}.mp4,{'xy'[k % 2]}" for k in range(7)]
    (root / "videos" / "val.csv").write_text("\n".join(lines))
    (root / "videos" / "train.csv").write_text("0.mp4,x\n1.mp4,y")
    shapes = jax.eval_shape(lambda: init_variables(create_model(**MODEL), PRE, 0))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: rng.uniform(0.1, 1, s.shape).astype(np.float32), shapes)
    save_weights(root / "net.safetensors", Weights(variables, MODEL, PRE, ("x", "y"), {}))
    return root


# `jaxvideo`, but Ctrl-C arrives when the second video is scored.
STOPPED = """
import sys
from jaxvideo import cli
from jaxvideo.evaluation import protocol
real, calls = protocol.mean_scores, []
def stop(clips):
    calls.append(clips)
    if len(calls) == 2:
        raise KeyboardInterrupt
    return real(clips)
protocol.mean_scores = stop
sys.exit(cli.main(sys.argv[1:]))
"""
# `jaxvideo`, which reports every video that is scored.
COUNTED = STOPPED.replace(
    "if len(calls) == 2:\n        raise KeyboardInterrupt",
    "print('scored a video', file=sys.stderr)",
)


def start(repository, *arguments, process=None, port=None, begin=None):
    several = []
    if process is not None:
        several = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process", process]
    program = ["-m", "jaxvideo"] if begin is None else ["-c", begin]
    command = [sys.executable, *program, *arguments, *several]
    return subprocess.Popen(
        [str(word) for word in command],
        cwd=repository,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", "JAXVIDEO_HUGE_PAGES": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(repository, *arguments, **how):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    return [start(repository, *arguments, process=i, port=port, **how) for i in (0, 1)]


def finish(*processes):
    """Returns (exit status, stdout, stderr) of each process."""
    printed = [process.communicate(timeout=300) for process in processes]
    return [(p.returncode, *both) for p, both in zip(processes, printed, strict=True)]


def test_extract(root, repository, tmp_path):
    command = ["extract", root / "videos", "--checkpoint", root / "net.safetensors"]
    alone = finish(start(repository, *command, "--out", tmp_path / "one"))
    both = finish(*start_two(repository, *command, "--out", tmp_path / "two"))
    assert [status for status, *_ in alone + both] == [1, 1, 1]  # one video is broken
    for (_, out, _), lines in zip(both, (2, 0), strict=True):
        assert len(out.splitlines()) == lines
    assert "6 written, 0 skipped (already present), 1 failed" in both[0][1]
    assert sum("5.mp4: cannot be opened" in errors for *_, errors in both) == 1
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == names
    for name in names:
        with np.load(tmp_path / "one" / name) as a, np.load(tmp_path / "two" / name) as b:
            for key in a:
                np.testing.assert_array_equal(a[key], b[key])
    (tmp_path / "two" / names[2]).unlink()
    both = finish(*start_two(repository, *command, "--out", tmp_path / "two"))
    assert "1 written, 5 skipped (already present), 1 failed" in both[0][1]


def test_evaluate_and_its_resumption(root, repository, tmp_path):
    command = ["evaluate", "--config", repository / "configs/motion.py", "--data.source=csv"]
    command += [f"--data.root={root / 'videos'}", "--eval_batch_size=4", "--json"]
    command += ["--checkpoint", root / "net.safetensors"]
    alone = finish(start(repository, *command, "--out", tmp_path / "one"))
    both = finish(*start_two(repository, *command, "--out", tmp_path / "two"))
    assert [status for status, *_ in alone + both] == [0, 0, 0]
    assert both[1][1] == ""
    one, two = (load_scores(tmp_path / name) for name in ("one", "two"))
    np.testing.assert_allclose(two.scores, one.scores, atol=1e-6)
    np.testing.assert_array_equal(two.labels, one.labels)
    assert two.videos == one.videos
    results = [json.loads((tmp_path / n / "result.json").read_text()) for n in ("one", "two")]
    for key in ("top1", "intervals", "videos", "broken", "coverage", "views", "clip"):
        assert results[0][key] == results[1][key]
    assert not (tmp_path / "two" / "partial").exists()
    # Both processes end after the first of their videos; one process resumes.
    stopped = finish(*start_two(repository, *command, "--out", tmp_path / "three", begin=STOPPED))
    assert all(status not in (0, 1) for status, *_ in stopped)
    partial = tmp_path / "three" / "partial"
    kept = [path for file in partial.iterdir() for path in unpack_rows(file.read_bytes())[1]]
    assert sorted(Path(path).name for path in kept) == ["0.mp4", "1.mp4"]
    assert not (tmp_path / "three" / "result.json").exists()
    resumed = finish(start(repository, *command, "--out", tmp_path / "three", begin=COUNTED))
    assert (resumed[0][0], resumed[0][2].count("scored a video")) == (0, 4)
    three = load_scores(tmp_path / "three")
    np.testing.assert_allclose(three.scores, one.scores, atol=1e-6)
    assert three.videos == one.videos
    assert not partial.exists()


def test_fvd(root, repository, tmp_path):
    good = tmp_path / "good"
    good.mkdir()
    for k in range(5):
        write_video(good / f"{k}.mp4", frames=20 + k)
    command = ["fvd", root / "videos", good, "--checkpoint", root / "net.safetensors"]
    command += ["--frames", "10", "--json", "--partial", tmp_path / "partial"]
    ((status, alone, _),) = finish(start(repository, *command))
    assert status == 0
    both = finish(*start_two(repository, *command))
    assert [status for status, *_ in both] == [0, 0]
    assert json.loads(both[0][1]) == json.loads(alone)
    assert both[1][1] == ""
    assert json.loads(alone)["videos"] == [5, 5]
    assert len(json.loads(alone)["left_out"]) == 2
    assert not (tmp_path / "partial").exists()


def test_an_error_of_one_process_ends_both(root, repository, tmp_path):
    command = ["fvd", root / "videos", root / "videos", "--checkpoint", root / "net.safetensors"]
    both = finish(*start_two(repository, *command, "--frames", "10", "--strict"))
    assert [status for status, *_ in both] == [1, 1]
    assert any("5.mp4: cannot be opened" in errors for *_, errors in both)
