"""Weights by name: `load`, commands and training, from a server on loopback."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxvideo
from jaxvideo.cli import main
from jaxvideo.models import create_model
from jaxvideo.pretrained import named
from jaxvideo.pretrained.card import model_card
from jaxvideo.training.initial import check_paths, initial_weights
from jaxvideo.training.schema import Init
from jaxvideo.types import CheckpointError, ConfigError
from jaxvideo.weights import download, reference, store, tree, zoo
from tests.weights.published import arrays_of, caffe2_file, small
from tests.weights.server import serving

NAME, TAG = "f_r2d_10", "k400_vmz-caffe2_16f"
FIVE = ("a", "b", "c", "d", "e")
TORCHVISION = zoo.find("r3d_18", "k400_torchvision")


@pytest.fixture(scope="module")
def host():
    """A host with two files of a short and narrow network, and their rows, those of `f_r2d_18`."""
    with serving() as server:
        rows, ours = [], {}
        for seed, tag in enumerate(("k400_vmz-caffe2_8f", TAG)):
            real = dataclasses.replace(zoo.find("f_r2d_18", tag), network=NAME)
            row = small(real, server, frames=4, size=40, width=0, crop=32)
            path = f"/{NAME}/{tag}/{row.files[0].name}"
            server.files[path], ours[tag] = caffe2_file(row, seed)
            rows.append(row)
        yield server, rows, ours


@pytest.fixture
def published(host, monkeypatch, tmp_path):
    """An empty cache, and a table with the rows of the host and those that need a browser."""
    server, rows, ours = host
    monkeypatch.setenv("JAXVIDEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    others = [row for row in zoo.table() if not row.downloadable]
    monkeypatch.setattr(zoo, "table", lambda: (*rows, *others))
    server.faults, before = {}, dict(server.files)
    server.requests.clear()
    yield server, rows, ours
    server.files = before


def same(variables, ours):
    """True if variables are the published arrays (variances are shifted by the epsilons)."""
    flat = tree.flatten(variables)
    assert flat.keys() == ours.keys()
    return all(np.allclose(flat[name], ours[name], atol=1.1e-3) for name in ours)


def test_first_and_second_use(published, monkeypatch, caplog):
    """The second one needs neither the host nor the publisher's file nor its reader."""
    server, rows, ours = published
    caplog.set_level("INFO", logger="jaxvideo")
    net = jaxvideo.load(NAME, weights="default")
    assert same(net.variables, ours[TAG])
    assert net.preprocessing.shape == (4, 32, 32, 3)
    assert net.classes[:2] == ("abseiling", "air drumming")
    assert net.arguments["short_clips"] == "kept"
    assert net.card["tag"] == TAG
    assert net.card["source"] == "vmz-caffe2"
    assert net.card["published"] == {"top-1": 60.9, "top-5": 81.9}
    assert net.card["protocol"] == "10 clips x center crop"
    assert "downloading r2df_d18_l16.pkl" in caplog.text
    folder = store.folder(rows[1])
    assert {p.name for p in folder.iterdir()} == {
        *("r2df_d18_l16.pkl", "weights.safetensors", "weights.json", "record.json", ".lock")
    }
    (folder / "r2df_d18_l16.pkl").unlink()
    monkeypatch.setenv("JAXVIDEO_OFFLINE", "1")
    monkeypatch.setattr(named, "_read", None)
    caplog.clear()
    again = jaxvideo.load(NAME, weights="default")
    jax.tree.map(np.testing.assert_array_equal, again.variables, net.variables)
    assert again.card == net.card
    assert again.preprocessing == net.preprocessing
    assert len(server.requests) == 1
    assert not caplog.text


@pytest.mark.torch
def test_the_second_use_needs_no_torch(published, monkeypatch):
    """The file is one of torchvision, whose name contains its hash."""
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    server, *_ = published
    row = small(TORCHVISION, server, frames=4, size=40, width=0, crop=32)
    theirs, ours = arrays_of(row)
    content = io.BytesIO()
    torch.save({n: torch.from_numpy(np.ascontiguousarray(a)) for n, a in theirs.items()}, content)
    digits = hashlib.sha256(content.getvalue()).hexdigest()[:8]
    file = dataclasses.replace(row.files[0], hash_kind="sha256-prefix", hash=digits)
    row = dataclasses.replace(row, files=(file,))
    server.files["/r3d_18/k400_torchvision/r3d_18-b3b3357e.pth"] = content.getvalue()
    monkeypatch.setattr(zoo, "table", lambda: (row,))
    assert same(jaxvideo.load("r3d_18", weights="k400").variables, ours)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert same(jaxvideo.load("r3d_18", weights="k400").variables, ours)
    assert len(server.requests) == 1


def test_other_ways_to_name_weights(published):
    _, _, ours = published
    for tag in ("k400_vmz-caffe2_8f", "k400_vmz-caffe2_8"):
        assert same(jaxvideo.load(NAME, weights=tag).variables, ours["k400_vmz-caffe2_8f"])
    assert same(jaxvideo.load(NAME, weights="k400").variables, ours[TAG])
    with pytest.warns(UserWarning, match="width"):
        assert same(jaxvideo.load_weights(NAME, weights="default"), ours[TAG])
    assert jaxvideo.list_models(weights=True) == [NAME]


def test_a_file_that_was_downloaded_in_another_way(published, tmp_path):
    server, _, ours = published
    path = tmp_path / "copy.pkl"
    path.write_bytes(server.files[f"/{NAME}/{TAG}/r2df_d18_l16.pkl"])
    net = jaxvideo.load(NAME, weights=TAG, path=path)
    assert same(net.variables, ours[TAG])
    assert net.card["license"] == "Apache-2.0"
    assert not server.requests
    with pytest.raises(ConfigError, match="needs weights by name"):
        jaxvideo.load(NAME, weights=path, source="vmz-caffe2", path=path)


def test_a_new_classifier(published):
    net = jaxvideo.load(NAME, weights="k400", num_classes=3, leave_out=("fc/*",))
    assert net.variables["params"]["fc"]["kernel"].shape[-1] == 3
    assert net.card["left_out"] == ["fc/*"]
    with pytest.raises(ConfigError) as caught:
        jaxvideo.load(NAME, weights="k400", num_classes=3)
    text = "f_r2d_10 k400_vmz-caffe2_16f has 400 classes, and num_classes=3"
    assert text in str(caught.value)
    assert 'with_classes(3), or pass leave_out=("fc/*",)' in str(caught.value)


def test_a_damaged_entry_is_made_again(published, caplog):
    """From the publisher's file, or after downloading it again."""
    server, rows, ours = published
    jaxvideo.load(NAME, weights="k400")
    path = store.folder(rows[1]) / store.CONVERTED
    good = path.read_bytes()
    for damaged in (good[:-5], good[:-5] + b"?????", b""):
        path.write_bytes(damaged)
        caplog.clear()
        assert same(jaxvideo.load(NAME, weights="k400").variables, ours[TAG])
        assert caplog.text.count("weights.safetensors is damaged") == 1
    assert len(server.requests) == 1
    path.write_bytes(b"x")
    (path.parent / "r2df_d18_l16.pkl").write_bytes(b"y")
    caplog.clear()
    assert same(jaxvideo.load(NAME, weights="k400").variables, ours[TAG])
    assert "It is downloaded again" in caplog.text
    assert len(server.requests) == 2


def test_a_newer_version_converts_again(published, monkeypatch):
    server, rows, _ = published
    jaxvideo.load(NAME, weights="k400")
    monkeypatch.setattr(store, "__version__", "99.0")
    assert store.converted(rows[1]) is None
    jaxvideo.load(NAME, weights="k400")
    assert store.converted(rows[1])
    assert len(server.requests) == 1


def test_a_full_cache_need_not_be_writable(published, monkeypatch):
    _, _, ours = published
    jaxvideo.load(NAME, weights="k400")

    def refuse(*arguments, **named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert same(jaxvideo.load(NAME, weights="k400").variables, ours[TAG])
    with pytest.raises(CheckpointError, match=r"Permission denied\)\. Set JAXVIDEO_CACHE"):
        jaxvideo.load(NAME, weights="k400_vmz-caffe2_8f")


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hostile",)


def test_a_hostile_pickle(published, tmp_path, monkeypatch):
    server, rows, ours = published
    monkeypatch.chdir(tmp_path)
    path = f"/{NAME}/{TAG}/r2df_d18_l16.pkl"
    good = server.files[path]
    server.files[path] = pickle.dumps({"blobs": {"conv1_w": Hostile()}}, protocol=2)
    with pytest.raises(CheckpointError) as caught:
        jaxvideo.load(NAME, weights="default")
    assert "r2df_d18_l16.pkl contains " in str(caught.value)
    assert "Delete it to download it again" in str(caught.value)
    assert not Path("hostile").exists()
    assert not (store.folder(rows[1]) / store.CONVERTED).exists()
    # It is not pinned: after it is deleted, the right file is accepted.
    (store.folder(rows[1]) / "r2df_d18_l16.pkl").unlink()
    server.files[path] = good
    assert same(jaxvideo.load(NAME, weights="default").variables, ours[TAG])


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: jaxvideo.load(NAME, weights="k40_vmz"),
            ConfigError,
            "f_r2d_10 has no weights 'k40_vmz'. Did you mean 'k400_vmz-caffe2_8f'",
        ),
        (
            lambda: jaxvideo.load(NAME, weights="k400_vmz"),
            ConfigError,
            "'k400_vmz' is the beginning of several tags of f_r2d_10: k400_vmz-caffe2_8f, ",
        ),
        (
            lambda: jaxvideo.load("lrcn", weights="default"),
            ConfigError,
            "no weights of 'lrcn' can be downloaded by name. `jaxvideo weights list` shows",
        ),
        (lambda: jaxvideo.load(NAME), ConfigError, "Pass weights='default', or weights=FILE"),
        (lambda: jaxvideo.load("f_r2d18", weights="k400"), ConfigError, "Did you mean 'f_r2d_18'"),
        (
            lambda: jaxvideo.load_weights(NAME, weights="k400", source="vmz"),
            ConfigError,
            "weights='k400' and source='vmz': pass one of them",
        ),
        (
            lambda: jaxvideo.load("resnet18_3d_a", weights="default"),
            CheckpointError,
            "resnet-18-kinetics.pth of resnet18_3d_a k400_hara cannot be downloaded without",
        ),
        (lambda: jaxvideo.load(NAME, weights="a.pth"), ConfigError, "a.pth"),
    ],
)
def test_wrong_names(published, call, error, text):
    with pytest.raises((error, CheckpointError)) as caught:
        call()
    assert text in str(caught.value)
    assert not published[0].requests


def test_offline_and_not_cached(published, monkeypatch):
    monkeypatch.setenv("JAXVIDEO_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="JAXVIDEO_OFFLINE is set"):
        jaxvideo.load(NAME, weights="default")


# --- Commands ---------------------------------------------------------------------------------


def test_predict_needs_a_model_only(published, video, capsys):
    assert main(["predict", str(video), "--model", NAME, "--clips", "1", "--top", "2"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("f_r2d_10: 1 clip x center crop per video (4 frames")
    assert out.count(" %  ") == 2
    assert "downloading r2df_d18_l16.pkl" in err
    assert "published   60.9 % top-1, 81.9 % top-5 (10 clips x center crop)" in err


def test_fetch_path_and_verify(published, capsys, tmp_path):
    _, rows, _ = published
    assert main(["weights", "path", NAME]) == 1
    assert "jaxvideo weights fetch f_r2d_10 k400_vmz-caffe2_16f" in capsys.readouterr().err
    assert main(["weights", "verify"]) == 0
    assert f"no weights in {tmp_path}" in capsys.readouterr().out
    path = str(store.folder(rows[1]) / store.CONVERTED)
    for action in ("fetch", "path"):
        assert main(["weights", action, NAME, "k400"]) == 0
        assert capsys.readouterr().out == f"{path}\n"
    assert main(["weights", "verify", NAME]) == 0
    assert capsys.readouterr().out.count("ok       f_r2d_10 k400_vmz-caffe2_16f  ") == 2
    Path(path).write_bytes(b"x")
    assert main(["weights", "verify"]) == 1
    out, err = capsys.readouterr()
    assert "damaged  f_r2d_10 k400_vmz-caffe2_16f  weights.safetensors: its SHA-256" in out
    assert "1 of 2 files differ" in err


def test_convert_a_tag(published, capsys, tmp_path, monkeypatch):
    """The comparison with the original network is in the file and in the model card."""
    _, _, ours = published

    def original(name, arrays, classes, clip):
        assert "conv1_w" in arrays
        return {"logits": np.full((len(clip), classes), 1e3, np.float32)}, "VMZ 1.0"

    monkeypatch.setitem(reference.STAGES, "vmz-caffe2", original)
    out = tmp_path / "w.safetensors"
    assert main(["convert", "k400", "--model", NAME, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "400 classes" in said
    assert "from VMZ 1.0" in said
    net = jaxvideo.load(out)
    assert same(net.variables, ours[TAG])
    assert net.card["tag"] == TAG
    assert net.card["reference"]["clip"] == [1, 4, 32, 32, 3]
    net.save(tmp_path / "again.safetensors")
    again = jaxvideo.load(tmp_path / "again.safetensors")
    assert again.card == net.card
    assert "Largest difference to VMZ 1.0" in model_card(again._weights, "me/net")
    assert main(["convert", "k300", "--model", NAME, "--out", str(out)]) == 2
    assert "has no weights 'k300'" in capsys.readouterr().err
    assert main(["convert", "--model", NAME, "--out", str(out)]) == 2
    assert "IN is missing" in capsys.readouterr().err


def test_weights_are_listed(capsys):
    """The table fits into 100 columns."""
    assert main(["weights", "list", "*slowfast*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["network", "tag", "classes", "top-1", "top-5", "test", "MB", "get"]
    assert {line.split()[0] for line in lines[1:] if line[:1] == "s"} == {
        *("slowfast_4x16_r50", "slowfast_r50", "slowfast_r101", "slowfast_16x8_r101_50_50")
    }
    assert "  [1] 10 clips x 3 crops of 256" in lines
    assert main(["weights", "list"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100
    assert main(["weights", "list", "x3d_m", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)[0]
    assert first["evidence"]
    assert first["files"][0]["urls"]
    assert main(["weights", "list", "x3d_m", "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(zoo.rows_of("x3d_m"))
    assert main(["weights", "list", "nothing"]) == 1
    assert "no weights match 'nothing'" in capsys.readouterr().err


# --- Training ---------------------------------------------------------------------------------


def test_a_run_starts_from_weights_by_name(published):
    _, _, ours = published
    init = Init(weights="zoo:k400", leave_out=("fc/*",))
    check_paths(init)
    variables, model, clips, notes, _ = initial_weights(init, {"name": NAME}, FIVE, {}, 0)
    assert model["width"] == 1 / 16
    assert clips.shape == (4, 32, 32, 3)
    assert not notes
    flat = tree.flatten(variables)
    assert flat["params/fc/kernel"].shape[-1] == 5
    np.testing.assert_array_equal(flat["params/conv1/kernel"], ours[TAG]["params/conv1/kernel"])
    # Another network's weights are named with it.
    other = Init(weights=f"zoo:{NAME}/k400", leave_out=("fc/*",))
    again, *_ = initial_weights(other, {"name": NAME}, FIVE, {}, 0)
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    with pytest.raises(ConfigError, match="has no weights 'k300'"):
        initial_weights(Init(weights="zoo:k300"), {"name": NAME}, FIVE, {}, 0)
    with pytest.raises(ConfigError, match=r"init\.source='vmz': unset it"):
        initial_weights(Init(weights="zoo:k400", source="vmz"), {"name": NAME}, FIVE, {}, 0)


def test_create_model_accepts_the_arguments_of_the_card(published):
    net = jaxvideo.load(NAME, weights="default")
    assert create_model(**net.spec) == net.model
    assert dataclasses.replace(net.preprocessing) == net.preprocessing
