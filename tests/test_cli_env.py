"""`env`: the table for bug reports."""

import json
from importlib import metadata

import jax
import pytest

from jaxvideo import __version__, cli
from jaxvideo.layers.lowerings import onednn_probe


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXVIDEO_CACHE", str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/tmp/x")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(onednn_probe, "status", lambda: {"convolution": "as tested"})


def test_table(tmp_path, capsys):
    (tmp_path / "xla").mkdir()
    (tmp_path / "xla" / "program").write_bytes(bytes(1500))
    assert cli.main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len({line.index(line.split("  ", 1)[1].lstrip()) for line in lines}) == 1, "aligned"
    assert cli.main(["env", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == len(lines)
    assert rows["jaxvideo"] == __version__
    assert rows["jax"] == jax.__version__
    assert "libavcodec" in rows["FFmpeg of av"]
    assert rows["devices"].startswith(f"{jax.device_count()} x ")
    assert rows["convolution"] == "as tested"
    assert rows["compilation cache"] == f"{tmp_path}/xla (1.5 kB in 1 files)"
    assert rows["XLA_FLAGS"] == "--xla_dump_to=/tmp/x"


def test_two_packages_that_own_opencv(monkeypatch, capsys):
    found = {"opencv-python-headless": "4.10", "opencv-contrib-python": "4.11"}

    def version(name):
        return found[name] if name in found else real(name)

    real = metadata.version
    monkeypatch.setattr(metadata, "version", version)
    assert cli.main(["env", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows["opencv-python-headless"].startswith(
        "4.10 (shares the directory cv2 with opencv-contrib-python"
    )


def test_devices_that_cannot_be_used(monkeypatch, capsys):
    def fail(*args):
        raise RuntimeError("no driver\nat all")

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setattr(onednn_probe, "status", fail)
    assert cli.main(["env", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows["devices"] == rows["convolution"] == "error: RuntimeError: no driver at all"
