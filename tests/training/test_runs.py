"""`jaxvideo runs` and `train --name`."""

import csv
import io
import json
import os
import subprocess
import sys

import pytest

from jaxvideo import cli
from jaxvideo.training import checkpoint, run_folder, runs
from jaxvideo.training.config import load_config
from jaxvideo.training.log import metrics_log


def test_file_names_are_those_of_training():
    names = (run_folder.RUN, run_folder.RESULT, checkpoint.FOLDER)
    assert names == (runs.RUN, runs.RESULT, runs.CHECKPOINTS)


@pytest.fixture
def folder(tmp_path):
    """Runs in all states."""
    config = {**load_config("motion"), "format": 2}
    names = ("motion-r2plus1d_18-abcdef", "mine", "deep/empty", "damaged", "no_run")
    for number, name in enumerate(names):
        path = tmp_path / name
        path.mkdir(parents=True)
        if name == "no_run":
            (path / "note.txt").touch()
            continue
        text = "{" if name == "damaged" else json.dumps(config)
        (path / "run.json").write_text(text)
        os.utime(path / "run.json", (1e9 + number, 1e9 + number))
    for name in names[:2]:
        with metrics_log(tmp_path / name, 0) as write:
            for step, top1 in ((10, 0.25), (20, 0.75), (30, 0.5)):
                write(step, {"loss": 1.0, "val_top1": top1})
    (tmp_path / "mine" / "checkpoints" / "35").mkdir(parents=True)
    result = {"top1": 0.625, "top5": 1.0, "protocol": "10 clips", "seconds": 7.5}
    (tmp_path / names[0] / "result.json").write_text(json.dumps(result))
    return tmp_path


def test_summaries(folder):
    finished, mine, empty, damaged = runs.find_runs(folder)
    assert (finished.state, finished.recipe, finished.network) == (
        "finished",
        "motion",
        "r2plus1d_18",
    )
    assert (finished.top1, finished.best_top1, finished.best_step) == (0.625, 0.75, 20)
    assert (finished.step, finished.epoch, finished.epochs, finished.data) == (30, 3, 9.0, "motion")
    assert (mine.state, mine.recipe, mine.step, mine.top1) == ("stopped", "", 35, None)
    assert (empty.state, empty.step) == ("no checkpoint yet", None)
    assert damaged.state == "damaged"


def test_command(folder, capsys, monkeypatch):
    assert cli.main(["runs", str(folder)]) == 0
    heads, first, second, *_, last = capsys.readouterr().out.splitlines()
    assert heads.split()[:3] == ["run", "started", "network"]
    for text in ("motion-r2plus1d_18-abcdef", "2001-09-", "3/9", "62.50 %", "75.00 %", "20"):
        assert text in first
    assert second.split()[-1] == "stopped"
    assert last == "4 runs: 1 finished, 1 stopped, 1 no checkpoint yet, 1 damaged"
    assert cli.main(["runs", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["runs"]
    assert [run["top1"] for run in found] == [0.625, None, None, None]
    assert found[0]["started"] == "2001-09-09T01:46:40Z"
    assert cli.main(["runs", str(folder), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["best_step"] for row in rows] == ["20", "20", "", ""]
    monkeypatch.chdir(folder / "no_run")
    assert cli.main(["runs"]) == 1
    assert "runs: no such directory; `jaxvideo train` writes" in capsys.readouterr().err
    assert cli.main(["runs", "."]) == 0
    assert capsys.readouterr().out == "no runs in .\n"


def test_it_starts_fast(repository):
    program = (
        "import sys\nfrom jaxvideo import cli\ncli.main(['runs', '.'])\n"
        "slow = {'jax', 'flax', 'orbax', 'tensorboardX', 'cv2', 'av'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    cwd = repository / "docs"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=cwd, env=environment)


@pytest.mark.parametrize(
    "arguments", [["--name", "a/b"], ["--name", "a", "--workdir", "b"], ["--name", ".."]]
)
def test_wrong_names(arguments, capsys):
    assert cli.main(["train", "motion", *arguments]) == 2
    assert "must be the name of a directory in runs/" in capsys.readouterr().err


def test_the_name_is_the_run_directory(monkeypatch):
    asked = []

    def train(values, workdir):
        asked.append(workdir.as_posix())
        raise runs.DataError("stop")

    monkeypatch.setattr("jaxvideo.training.loop.train", train)
    assert cli.main(["train", "motion", "--name", "mine"]) == 1
    assert cli.main(["train", "motion"]) == 1
    assert asked[0] == "runs/mine"
    assert asked[1].startswith("runs/motion-r2plus1d_18-")
