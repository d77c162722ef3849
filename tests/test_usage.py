"""Wrong arguments: one error line that suggests names, the usage, and exit status 2."""

import os
import re
import subprocess
import sys

import pytest

from jaxvideo import cli
from jaxvideo.cli import train as train_command
from jaxvideo.cli.parser import in_options
from jaxvideo.cli.shared import check_output
from jaxvideo.names import MOST, nearest, network_names
from jaxvideo.progress import LOG
from jaxvideo.training.config import OTHER_NAMES, load_config
from jaxvideo.training.values import type_of
from jaxvideo.types import ConfigError, UsageError
from tests.conftest import write_video


def refused(main, arguments, capsys):
    """Returns the error line and the usage line; checks that there is nothing else."""
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    error, usage = printed.err.splitlines()
    return error, usage


@pytest.mark.parametrize(
    ("arguments", "error", "usage"),
    [
        (["predic"], "no command 'predic'. Did you mean 'predict'?", "jaxvideo [OPTIONS] COMMAND"),
        (["predict", "x", "--topk", "3"], "no option --topk. Did you mean '--top'?", "predict"),
        (
            ["predict", "x", "--dtype=fp16"],
            "--dtype=fp16: allowed are float32, bfloat16",
            "predict",
        ),
        (["fuse", "a", "--seed", "x"], "argument --seed: invalid int value: 'x'", "fuse [OPTIONS]"),
        (["convert", "a"], "required: --model, --out", "convert [OPTIONS]"),
        (["config", "shwo"], "no action 'shwo'. Did you mean 'show'?", "config [OPTIONS] ACTION"),
        (["models", "slwofast"], "Did you mean 'slowfast_r50'", "models [OPTIONS] [PATTERN]"),
        (["data", ".", "--form", "ucf"], "Did you mean 'ucf101'?", "data [OPTIONS] ROOT"),
        (["env", "now"], "too many arguments: now", "env [OPTIONS]"),
        # U5, C21
        (["train", "motion", "--optim.learning_rate=3"], "Did you mean 'optim.lr'?", "train"),
        (["train", "motion", "--learning_rate=3"], "Did you mean '--optim.lr'?", "train"),
        (["train", "motion", "--lr", "3"], "Did you mean '--optim.lr'?", "train"),
        (["train", "motion", "--epoch=3"], "Did you mean '--epochs' or '--epoch_steps'?", "train"),
        (["train", "motion", "--workdri=3"], "Did you mean '--workdir'?", "train"),
        (["train", "motion", "--config.epochs=3"], "write --epochs=3", "train"),
        (["train", "motion", "--batch_size=x"], "must be an integer", "train"),
        (["train", "motion", "--model.dtype=fp16"], "float32, bfloat16, auto", "train"),
        (["train", "motion", "--model.num_classes=7"], "that of the data set", "train"),
        (["train", "motion", "--data.source=ucf102"], "Did you mean 'ucf101'?", "train"),
        (["config", "show", "motion", "--optim=1"], "optim is a section", "config show"),
        # U7
        (["train", "motoin"], "Did you mean 'motion'?", "train [OPTIONS] CONFIG"),
        (["train", "configs/i3d.py"], "Did you mean 'i3d_rgb', ", "train [OPTIONS] CONFIG"),
        (["train", "finetune:r2plus1d18"], "no variant 'r2plus1d18'. Did you mean 'r2pl", "train"),
        (["train", "i3d_rgb:smok"], "no variant 'smok'. Did you mean 'smoke'?", "train"),
        (["plan", "--config", "motoin", "--topology", "8GB"], "Did you mean 'motion'?", "plan"),
        (["evaluate", "--config", "motoin", "--checkpoint", "x"], "mean 'motion'?", "evaluate"),
    ],
)
def test_the_nearest_names(arguments, error, usage, capsys, monkeypatch, repository):
    monkeypatch.chdir(repository)
    found = refused(cli.main, arguments, capsys)
    assert found[0].startswith("error: ")
    assert error in found[0]
    assert found[1].startswith(f"usage: jaxvideo {usage.removeprefix('jaxvideo ')}")


@pytest.mark.parametrize("option", ["--checkpoint", "--weights"])
def test_an_unknown_network(option, tmp_path, capsys):
    (tmp_path / "a.mp4").touch()
    arguments = ["predict", str(tmp_path / "a.mp4"), "--model", "slow", option, "x"]
    error, _ = refused(cli.main, arguments, capsys)
    assert error.startswith("error: --model=slow: no such network. Did you mean 'slow_")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--config", "configs/wrong.py"], "neither a file (FILE.py) nor a recipe"),
        (["--config=configs/motion.py", "--config.learning_rate=1"], "Did you mean 'optim.lr'?"),
        (["--config=configs/motion.py", "--workdri=1"], "no option --workdri. Did you mean '--wo"),
        (["--config=configs/motion.py", "--optim.lr=1"], "write --config.optim.lr=1"),
        ([], "the following arguments are required: --config"),
    ],
)
def test_of_the_training_program(arguments, error, capsys, monkeypatch, repository):
    monkeypatch.chdir(repository)
    found = refused(train_command.main, arguments, capsys)
    assert error in found[0]
    assert found[1].startswith("usage: python train.py [OPTIONS] --config FILE")


def test_names_that_begin_alike_come_first():
    """U14."""
    assert nearest("slow", ["slwo", "fast", "slow_r50_nl", "slow_r50"])[:2] == [
        "slow_r50",
        "slow_r50_nl",
    ]
    assert len(nearest("r", network_names())) == MOST
    assert nearest("CSN", network_names())[0].startswith("csn_")
    assert nearest("", ["a"]) == nearest("qqq", ["a"]) == []


def test_other_names_of_keys_lead_to_keys():
    assert all(type_of(key) or key.startswith("model.") for key in OTHER_NAMES.values())
    assert not [name for name in OTHER_NAMES if type_of(name)]


def test_a_config_without_variants(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def get_config():\n    raise AssertionError('not called')\n")
    with pytest.raises(UsageError, match=r"mine\.py has no variants; omit :smoke"):
        load_config(f"{path}:smoke")


def test_wrong_keys_are_found_before_jax_is_imported(repository):
    """So that the error takes a second."""
    program = (
        "import sys\nfrom jaxvideo import cli\n"
        "status = cli.main(['train', 'motion', '--model.dtype=fp16'])\n"
        "status += cli.main(['train', 'finetune:r3d18'])\n"
        "status += cli.main(['predict', 'train.py', '--model', 'r3d', '--weights', 'x'])\n"
        "assert status == 6, status\n"
        "slow = {'jax', 'flax', 'optax', 'orbax', 'grain'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=repository, env=os.environ)


@pytest.mark.parametrize(
    ("command", "message", "advice"),
    [
        ("predict", "source='hara' has no weights", "--from='hara' has no weights"),
        (
            "predict",
            "Pass weights=FILE and source=LIBRARY",
            "Pass --weights=FILE and --from=LIBRARY",
        ),
        ("predict", "protocol.crops=2: allowed are 1, 3", "--crops=2: allowed are 1, 3"),
        ("evaluate", "set --config.data.root=DIR", "set --data.root=DIR"),
        ("evaluate", "config.protocol.clips=0: must be 1", "--protocol.clips=0: must be 1"),
        ("train", "a lower config.optim.lr, a warm-up", "a lower --optim.lr, a warm-up"),
        ("train", "configs/config.py: no config.py", "configs/config.py: no config.py"),
        ("fuse", "how='x': allowed are", "--how='x': allowed are"),
        ("doctor", "threads=0: must be at least 1", "--threads=0: must be at least 1"),
        ("expand", "target='x': must be a number", "--target='x': must be a number"),
        ("extract", "every=3 of a model with width=0.5", "--every=3 of a model with width=0.5"),
    ],
)
def test_messages_name_what_the_command_understands(command, message, advice):
    """U18."""
    action = next(a for a in cli.make_parser()._actions if a.dest == "command")
    parser = action.choices[command]
    assert in_options(message, parser) == advice
    assert in_options(advice, parser) == advice
    assert in_options(message, train_command.make_parser()) == message


def test_warnings_and_errors_are_rewritten(monkeypatch, capsys):
    def fail():
        LOG.warning("config.optim.lr=1 is high")
        raise ConfigError("json=1, see config.data.root")

    monkeypatch.setattr("jaxvideo.cli.env._versions", fail)
    assert cli.main(["env"]) == 1
    assert capsys.readouterr().err == (
        "warning: --optim.lr=1 is high\nerror: --json=1, see --data.root\n"
    )
    assert not LOG.filters


def test_no_such_checkpoint(tmp_path, capsys):
    """U11."""
    (tmp_path / "a.mp4").touch()
    for command in (["predict", str(tmp_path)], ["extract", str(tmp_path), "--out", "out"]):
        assert cli.main([*command, "--checkpoint", "nope.safetensors"]) == 1
        assert "error: nope.safetensors: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "folder", "problem"),
    [
        ("gone/w.png", False, "cannot be written: the directory {}/gone does not exist"),
        ("file/w.png", False, "cannot be written: {}/file is a file"),
        ("deep", False, "cannot be written: it is a directory"),
        ("file", True, "cannot be written: {}/file is a file"),
        ("file/a/b", True, "cannot be written: {}/file is a file"),
    ],
)
def test_outputs(tmp_path, path, folder, problem):
    """U11."""
    (tmp_path / "file").touch()
    (tmp_path / "deep").mkdir()
    with pytest.raises(ConfigError) as caught:
        check_output(str(tmp_path / path), folder=folder)
    assert str(caught.value) == f"--out={tmp_path / path}: {problem.format(tmp_path)}"
    check_output(str(tmp_path / "new.png"))
    check_output(str(tmp_path / "a" / "b"), folder=True)
    assert {one.name for one in tmp_path.iterdir()} == {"file", "deep"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "w.pth", "--from", "torchvision", "--model", "r3d_18", "--out", "{}/W"],
        ["extract", "v", "--out", "{}", "--checkpoint", "x"],
        ["pack", "v", "{}"],
        ["pca", "f", "--annotations", "v", "--out", "{}/p.png"],
        ["tsne", "f", "--annotations", "v", "--out", "{}/p.png"],
        ["data", "v", "--sheet", "{}/s.png"],
        ["expand", "--objective", "published", "--out", "{}"],
        ["evaluate", "--config", "motion", "--checkpoint", "x", "--out", "{}"],
        ["doctor", "v", "--out", "{}"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_outputs_are_checked_before_any_work(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v" / "a.mp4", frames=2)
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    assert cli.main([one.format(tmp_path / "file" / "x") for one in arguments]) == 1
    assert re.search(r"cannot be written", capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before
