"""The config: its keys, types and defaults, overrides, recipes by name."""

import dataclasses
import json
import shlex
from pathlib import Path

import pytest

from jaxvideo.cli.config import show_config
from jaxvideo.cli.train import overrides
from jaxvideo.models import model_entry
from jaxvideo.training import schema
from jaxvideo.training.config import (
    default_workdir,
    find_config,
    load_config,
    override,
    read_config,
)
from jaxvideo.types import ConfigError

ROOT = Path(__file__).parent.parent.parent


def test_defaults_are_those_of_the_classes():
    assert read_config({**schema.defaults(), "model": {"name": "c3d"}}) == read_config(
        {"model": {"name": "c3d"}}
    )
    assert schema.defaults()["optim"] == dataclasses.asdict(schema.Optim())
    assert set(schema.defaults()["preprocessing"].values()) == {None}


def test_preprocessing_is_the_network_s_own():
    for name in ("i3d_rgb", "x3d_m", "c3d"):
        own = model_entry(name).preprocessing
        assert read_config({"model": {"name": name}}).preprocessing == own
        given = {"frames": 8, "stride": None}
        run = read_config({"model": {"name": name}, "preprocessing": given})
        assert run.preprocessing == dataclasses.replace(own, frames=8)
    run = read_config({"model": {"name": "x3d_m"}, "preprocessing": {"fps": 0.0}})
    assert run.preprocessing.fps is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimm": {}}, r"config has no key 'optimm'\. Did you mean 'optim'\?"),
        ({"optim": {"lrr": 1.0}}, r"config\.optim has no key 'lrr'\. Did you mean 'lr'\?"),
        ({"optim": {"lr": "fast"}}, r"config\.optim\.lr='fast': must be a number"),
        ({"optim": {"lr": True}}, r"config\.optim\.lr=True: must be a number"),
        ({"batch_size": 8.5}, r"config\.batch_size=8\.5: must be an integer"),
        ({"augment": {"flip": 1}}, r"config\.augment\.flip=1: must be true or false"),
        ({"optim": {"milestones": 3}}, r"config\.optim\.milestones=3: must be a tuple"),
        ({"optim": 3}, r"config\.optim=3: must be a dict of keys"),
        ({"preprocessing": {"fps": "x"}}, r"fps='x': must be a number or None"),
        ({"model": {"name": "c3d", "lowering": "x"}}, r"config\.model\.lowering='x': allowed"),
        ({"epochs": 0.0}, r"config\.epochs=0\.0 only tests the weights of config\.init"),
        ({"loading": {"threads": 0}}, r"loading\.threads=0: must be at least 1"),
    ],
)
def test_wrong_values(values, message):
    with pytest.raises(ConfigError, match=message):
        read_config({"model": {"name": "c3d"}, **values})


def test_overrides_have_the_type_of_their_key():
    values = load_config("motion")
    for change in (
        "optim.lr=1",
        "optim.no_decay=*/bias",
        "optim.milestones=3,5.5",
        "profile=(2, 4)",
        "augment.flip=False",
        "augment.scales=(1, 2)",
        "preprocessing.fps=none",
        "preprocessing.frames=12",
        "init.parts.rgb=a.safetensors",
        "model.lowering=direct",
        "model.anything=none",
        "data.root=3",
    ):
        override(values, change)
    assert type(values["optim"]["lr"]) is float
    assert values["optim"]["no_decay"] == ["*/bias"]
    assert values["optim"]["milestones"] == [3, 5.5]
    assert values["profile"] == [2, 4]
    assert values["augment"]["flip"] is False
    assert values["preprocessing"]["fps"] is None
    assert values["preprocessing"]["frames"] == 12
    assert values["init"]["parts"] == {"rgb": "a.safetensors"}
    assert values["model"]["lowering"] == "direct"
    assert values["model"]["anything"] is None
    assert values["data"]["root"] == "3"


def test_arguments_of_both_programs():
    assert overrides(["--config.optim.lr=0.1"], "--config.") == ["optim.lr=0.1"]
    assert overrides(["--optim.lr=0.1", "--epochs=2.0"], "--") == ["optim.lr=0.1", "epochs=2.0"]
    for argument, prefix, message in (
        ("--optim.lr=1", "--config.", "write --config.optim.lr=1"),
        ("--config.optim.lr=1", "--", "write --optim.lr=1"),
        ("--config.optim.lr", "--config.", "needs an equals sign"),
        ("7", "--config.", "unknown argument '7'"),
    ):
        with pytest.raises(ConfigError, match=message):
            overrides([argument], prefix)


def test_recipes_by_name_and_by_file(tmp_path, monkeypatch):
    by_name = load_config("i3d_rgb:smoke")
    assert by_name == load_config(f"{ROOT}/configs/i3d_rgb.py:smoke")
    assert find_config("motion:c3d") == ((ROOT / "configs/motion.py").resolve(), "c3d")
    with pytest.raises(ConfigError, match=r"neither a file.*Did you mean 'i3d_rgb'.*config list"):
        find_config("i3d_rbg")
    # A config in another directory can import `configs.common` and modules next to it.
    (tmp_path / "mine.py").write_text(
        "import beside\nfrom configs import common\n\n\ndef get_config(argument=None):\n"
        "    config = common.default_config()\n    config.model.name = beside.NAME\n"
        "    return config\n"
    )
    (tmp_path / "beside.py").write_text("NAME = 'c3d'\n")
    monkeypatch.chdir(tmp_path)
    assert load_config("mine.py")["model"]["name"] == "c3d"
    (tmp_path / "mine.py").write_text("def get_config():\n    return 1 / 0\n")
    with pytest.raises(ConfigError, match=r"config mine\.py: ZeroDivisionError"):
        load_config("mine.py")


def test_the_run_directory_depends_on_what_is_not_a_default():
    values = load_config("motion")
    same = json.loads(json.dumps(values))
    override(same, "log_seconds=1.0")
    override(same, "optim.dampening=0.0")
    override(same, "data.hint=other words")
    assert default_workdir(values, "motion") == default_workdir(same, "motion")
    override(same, "optim.lr=0.1")
    assert default_workdir(values, "motion") != default_workdir(same, "motion")


def test_show_config():
    text = show_config("i3d_rgb", ["optim.lr=1"])
    lines = text.splitlines()
    assert "* --optim.lr=1.0" in lines
    assert "  --preprocessing.frames=64" in lines
    assert "* --model.name=i3d_rgb" in lines
    # The shell and the override parser accept the printed text.
    values = load_config("i3d_rgb")
    for line in lines:
        (argument,) = shlex.split(line[2:])
        override(values, argument.removeprefix("--"))
    assert read_config(values) == read_config(load_config("i3d_rgb", ["optim.lr=1"]))
    assert json.loads(show_config("i3d_rgb", [], as_json=True))["preprocessing"]["frames"] == 64
