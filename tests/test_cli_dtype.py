"""`--dtype`, and the dtype of a config."""

import json

import jax
import numpy as np
import pytest

from jaxvideo import cli, create_model
from jaxvideo.layers.lowerings import onednn_probe
from jaxvideo.precision import resolve_dtype
from jaxvideo.pretrained import Weights, save_weights
from jaxvideo.training import run_folder
from jaxvideo.training.config import load_config
from jaxvideo.training.preparation import read_run
from jaxvideo.types import ConfigError, Preprocessing
from tests.conftest import write_video
from tests.models.test_backbones2d import random_variables

PRE = Preprocessing(frames=4, size=40, crop=32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A directory with a file of random weights and two videos."""
    folder = tmp_path_factory.mktemp("dtype")
    arguments = {"name": "f_r2d_10", "width": 1 / 16, "num_classes": 3}
    variables = random_variables(create_model(**arguments), PRE.shape)
    weights = Weights(variables, arguments, PRE, ("x", "y", "z"), {"source": "test"})
    save_weights(folder / "w.safetensors", weights)
    (folder / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_video(folder / "videos" / name, frames=8)
    return folder


def test_auto(monkeypatch):
    for fast, name in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(onednn_probe, "fast_bfloat16", lambda fast=fast: fast)
        assert resolve_dtype("auto", "cpu") == name
    assert resolve_dtype("auto", "tpu") == "bfloat16"
    for capability, name in (("8.0", "bfloat16"), ("7.5", "float32"), ("gfx90a", "float32")):
        device = type("Device", (), {"compute_capability": capability})()
        monkeypatch.setattr(jax, "local_devices", lambda device=device: [device])
        assert resolve_dtype("auto", "gpu") == name
    assert resolve_dtype("float32", "tpu") == "float32"
    with pytest.raises(ConfigError, match="'half': allowed are float32, bfloat16, auto"):
        resolve_dtype("half")


def predictions(weights, capsys, *options):
    file = str(weights / "w.safetensors")
    command = ["predict", str(weights / "videos" / "a.mp4"), "--checkpoint", file, "--clips", "1"]
    assert cli.main([*command, "--json", *options]) == 0
    record = json.loads(capsys.readouterr().out)
    return record["protocol"], {top["class"]: top["probability"] for top in record["top"]}


def test_predict(weights, capsys, monkeypatch):
    protocol, usual = predictions(weights, capsys)
    assert predictions(weights, capsys, "--dtype", "float32") == (protocol, usual)
    other, rounded = predictions(weights, capsys, "--dtype", "bfloat16")
    assert other == f"{protocol}, bfloat16"
    assert rounded != usual
    np.testing.assert_allclose([rounded[c] for c in "xyz"], [usual[c] for c in "xyz"], atol=0.02)
    monkeypatch.setattr(onednn_probe, "fast_bfloat16", lambda: False)
    assert predictions(weights, capsys, "--dtype", "auto") == (protocol, usual)
    with pytest.raises(SystemExit):
        cli.main(["predict", "v.mp4", "--dtype", "half"])
    assert "allowed are float32, bfloat16, auto" in capsys.readouterr().err


def test_fvd_and_extract(weights, capsys, tmp_path):
    file, videos = str(weights / "w.safetensors"), str(weights / "videos")
    frames = ["--frames", "4", "--dtype", "bfloat16"]
    assert cli.main(["fvd", videos, videos, "--checkpoint", file, *frames]) == 0
    assert ", bfloat16" in capsys.readouterr().out
    extract = ["extract", videos, "--checkpoint", file, "--out", str(tmp_path), "--clips", "1"]
    assert cli.main(extract) == 0
    assert cli.main([*extract, "--dtype", "float32"]) == 0
    assert "2 skipped" in capsys.readouterr().out
    assert cli.main([*extract, "--dtype", "bfloat16"]) == 1
    assert "has features of other settings" in capsys.readouterr().err


def test_a_run_keeps_its_dtype(tmp_path, monkeypatch, repository):
    """A machine that would choose float32 resumes the run in bfloat16."""
    overrides = ["model.dtype=auto", "compilation_cache="]
    config = load_config(str(repository / "configs/motion.py"), overrides)
    monkeypatch.setattr(onednn_probe, "fast_bfloat16", lambda: True)
    values, run = read_run(config, tmp_path)
    assert run.model["dtype"] == "bfloat16"
    with run_folder.claimed(tmp_path, values):
        monkeypatch.setattr(onednn_probe, "fast_bfloat16", lambda: False)
        assert read_run(config, tmp_path)[1].model["dtype"] == "bfloat16"
        assert read_run(config, tmp_path / "other")[1].model["dtype"] == "float32"
    config["model"]["dtype"] = "half"
    with pytest.raises(ConfigError, match=r"config\.model\.dtype='half': allowed are float32"):
        read_run(config, tmp_path)
