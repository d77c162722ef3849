"""Files of older versions: every released format is read and resumed."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxvideo
from jaxvideo.training import run_folder
from jaxvideo.types import CheckpointError
from jaxvideo.weights import files, formats

ROOT = Path(__file__).parent.parent.parent
OLD = Path("tests/training/checkpoints")

# The config of `checkpoints/README.md`, with today's values.
RESUME = """
import sys
from configs import common
from jaxvideo.progress import console
from jaxvideo.training.loop import train
config = common.default_config()
config.update_from_flattened_dict({
    "epochs": 3.0, "epoch_steps": 1, "batch_size": 4, "eval_batch_size": 4,
    "label_smoothing": 0.1, "compilation_cache": "",
    "data.root": "tests/training/checkpoints/format1/data",
    "model.name": "c3d", "init.inflate": "center",
    "preprocessing.range": (0.0, 1.0), "preprocessing.mean": (0.0, 0.0, 0.0),
    "preprocessing.std": (1.0, 1.0, 1.0), "preprocessing.order": "RGB", "preprocessing.width": 0,
    "preprocessing.frames": 4, "preprocessing.size": 24, "preprocessing.crop": 20,
    "augment.flip": False, "augment.scales": (1.0, 1.25),
    "optim.lr": 0.05, "optim.schedule": "plateau", "optim.nesterov": True,
    "optim.weight_decay": 1e-3, "optim.no_decay": ("*/bias",), "optim.clip_norm": 5.0,
    "protocol.clips": 2, "protocol.starts": "centers", "checkpoint.keep": 3,
})
config.model.update({"width": 1 / 64, "norm": "all", "dropout_rate": 0.2})
with console(sys.stdout):
    train(config.to_dict(), sys.argv[1])
"""


def test_every_format_has_a_checkpoint():
    assert list(formats.UPGRADES) == list(range(1, formats.FORMAT))
    stored = {path.name for path in (ROOT / OLD).iterdir() if path.is_dir()}
    assert stored == {f"format{number}" for number in formats.UPGRADES}


def test_a_run_of_format_1_resumes(tmp_path, monkeypatch):
    """The next step equals that of the old code: state, data stream, loss and update."""
    workdir = tmp_path / "run"
    shutil.copytree(ROOT / OLD / "format1/run", workdir)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    done = subprocess.run(
        [sys.executable, "-c", RESUME, str(workdir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "after step 2 of 3" in done.stdout
    (found,) = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    expected = json.loads((ROOT / OLD / "format1/next.json").read_text())
    for name in ("step", "lr", "loss", "val_loss"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(found["grad_norm"], expected["grad_norm"], rtol=1e-3)
    # The new checkpoint has the current format.
    assert json.loads((workdir / "run.json").read_text())["format"] == formats.FORMAT
    assert jaxvideo.load(workdir).protocol.starts == "centers"


def test_a_run_of_format_1_opens(monkeypatch):
    monkeypatch.chdir(ROOT)
    net = jaxvideo.load(OLD / "format1/run")
    assert net.name == "c3d"
    assert net.card["step"] == 2
    assert net.classes[:2] == ("left", "right")
    assert net.protocol.starts == "centers"
    logits, _ = net.model.apply(net.variables, jnp.ones((1, *net.shape)), train=False)
    assert logits.shape == (1, 8)
    assert np.isfinite(logits).all()
    recorded = run_folder.read_run_config(OLD / "format1/run")
    assert recorded["protocol"]["starts"] == "centers"
    assert recorded["init"]["inflate"] == "center"


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("r2plus1d_18", 8, 0.125),
        ("ip_csn_r152", 64, 1.0),
        ("slowfast_16x8_r101_nl", 32, 0.5),
        ("i3d_r50_nl", 16, 0.25),
        ("i3d_rgb", 0.125, 0.125),
        ("fused_two_stream_inception", 0.5, 0.5),
        ("x3d_m", 1.0, 0.5),
        ("x3d_xl", 2.9, 1.0),
        ("densenet3d_161", 96, 1.0),
        ("densenet3d_121", 16, 0.25),
    ],
)
def test_widths_of_format_1(name, width, expected):
    """Widths were numbers of channels in some networks, and twice the paper's factor in X3D."""
    old = {"model": {"name": name, "width": width}, "config": {"model": {"name": name}}}
    new = {"model": {"name": name, "width": expected}, "config": {"model": {"name": name}}}
    assert formats.upgrade(old, "x") == new


def description(**protocol):
    return {"model": {"name": "x"}, "protocol": protocol, "classes": []}


def weight_file(path, stored):
    """Writes a safetensors file with this header, as every version of jaxvideo does."""
    save_file({"params/a": np.zeros(2, np.float32)}, path, {"jaxvideo": json.dumps(stored)})
    return path


def test_a_weight_file_of_format_1(tmp_path):
    """Its header has no format number."""
    path = weight_file(tmp_path / "w.safetensors", description(starts="centres"))
    assert files.read_description(path) == description(starts="centers")
    stored = files.write(path, files.read_arrays(path), description(starts="centers"))
    assert stored == {**description(starts="centers"), "format": formats.FORMAT}
    assert files.read_description(path) == description(starts="centers")


def test_upgrading_changes_a_copy():
    old = {"config": description(starts="centres"), "format": 1}
    assert formats.upgrade(old, "x") == {"config": description(starts="centers")}
    assert old["config"]["protocol"]["starts"] == "centres"
    clips = {"preprocessing": {"fps": None}}
    found = formats.upgrade({**clips, "config": copy.deepcopy(clips)}, "x")
    # A description without `pixels` is older than this key. A config leaves it open.
    assert found == {
        "preprocessing": {"fps": None, "pixels": "rgb"},
        "config": {"preprocessing": {"fps": 0}},
    }
    damaged = {"model": None, "protocol": 3, "config": []}
    assert formats.upgrade(damaged, "x") == damaged


@pytest.mark.parametrize("number", [formats.FORMAT + 1, 0, "2", None, [1]])
def test_a_newer_format_is_refused(tmp_path, number):
    path = weight_file(tmp_path / "w.safetensors", {**description(), "format": number})
    reads = f"jaxvideo {jaxvideo.__version__} reads formats 1 to {formats.FORMAT}"
    message = rf"w\.safetensors has format .*; {reads}"
    with pytest.raises(CheckpointError, match=message):
        files.read_description(path)
    (tmp_path / "run.json").write_text(json.dumps({"model": {}, "format": number}))
    with pytest.raises(CheckpointError, match=r"run\.json has format"):
        run_folder.read_run_config(tmp_path)
