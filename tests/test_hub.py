"""The Hugging Face Hub: model cards, uploads to a fake API, downloads from a host on loopback."""

import dataclasses
import hashlib
import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxvideo
from jaxvideo.pretrained.card import model_card
from jaxvideo.pretrained.named import card_of
from jaxvideo.types import CheckpointError, ConfigError
from jaxvideo.weights import zoo
from tests.test_network import network
from tests.weights.server import serving

ROW = zoo.find("x3d_m", "k400_pytorchvideo")
ORIGIN = {"file": "X3D_M.pyth", "sha256": "ab" * 32, "source": "pytorchvideo", "left_out": []}


@pytest.fixture(scope="module")
def net():
    """A tiny network with the card of real weights."""
    reference = {
        "package": "pytorchvideo 0.1.5",
        "clip": [1, 4, 20, 20, 3],
        "stages": {"conv1": 2e-7, "logits": 3e-6},
    }
    card = {**ORIGIN, **card_of(ROW), "reference": reference}
    return dataclasses.replace(network(), card=card)


# --- Cards ------------------------------------------------------------------------------------


def front(text):
    """Returns the metadata of a card; its values are JSON, which is YAML."""
    lines = re.fullmatch(r"---\n(.*?)\n---\n.*", text, flags=re.DOTALL)[1].splitlines()
    pairs = (line.partition(": ") for line in lines)
    return {key: json.loads(value) for key, _, value in pairs}


def test_the_card_of_published_weights(net):
    text = model_card(net._weights, "me/x3d")
    head = front(text)
    assert head["library_name"] == "jaxvideo"
    assert head["pipeline_tag"] == "video-classification"
    assert head["license"] == "apache-2.0"
    (result,) = head["model-index"][0]["results"]
    assert result["dataset"]["name"] == "Kinetics-400"
    first = result["metrics"][0]
    assert first["name"] == "top-1 (10 clips x 3 crops of 256)"
    assert (first["value"], first["verified"]) == (75.94, False)
    assert 'jaxvideo.load("hf:me/x3d")' in text
    assert "| top-1 | 75.94 % | 10 clips x 3 crops of 256 |" in text
    assert "not measured with jaxvideo" in text
    assert "| license | Apache-2.0 (code) |" in text
    assert "| data terms | Kinetics: CC BY 4.0 by its page" in text
    assert "| SHA-256 | abab" in text
    assert "| logits | 3.0e-06 |" in text
    assert (
        "Largest difference to pytorchvideo 0.1.5 on one random clip [1 x 4 x 20 x 20 x 3]" in text
    )
    assert "3 clips x 3 crops per video (4 frames, stride 2" in text


def test_the_card_is_yaml(net):
    yaml = pytest.importorskip("yaml")
    text = model_card(net._weights, "me/x3d")
    assert yaml.safe_load(text.split("---\n")[1]) == front(text)


def test_a_changed_network_claims_no_accuracy(net):
    text = model_card(net.with_classes(["walk", "run"])._weights, "me/x3d")
    assert "model-index" not in front(text)
    assert "No accuracy is stated" in text
    assert "| new values | fc/* |" in text


def test_the_license_of_your_own_network():
    weights = network()._weights
    assert "license" not in front(model_card(weights, "me/own"))
    assert "| license | not stated |" in model_card(weights, "me/own")
    assert front(model_card(weights, "me/own", "MIT"))["license"] == "mit"
    head = front(model_card(weights, "me/own", "House rules"))
    assert (head["license"], head["license_name"]) == ("other", "House rules")


# --- Uploads ----------------------------------------------------------------------------------


class Commit:
    commit_url = "https://hub.example/me/x3d/commit/1"


def test_push_to_hub(net, tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")
    calls = {}

    class Api:
        def __init__(self, **options):
            calls["api"] = options

        def create_repo(self, repo, **options):
            calls["repo"] = (repo, options)

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
            calls["files"] = (repo_id, files, commit_message)
            return Commit()

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert net.push_to_hub("me/x3d", token="t", private=True) == Commit.commit_url
    assert calls["api"]["token"] == "t"
    assert calls["repo"] == ("me/x3d", {"private": True, "exist_ok": True})
    repo, files, message = calls["files"]
    assert (repo, message) == ("me/x3d", "Upload a network of jaxvideo")
    assert files.keys() == {"model.safetensors", "config.json", "README.md"}
    assert files["README.md"].decode() == model_card(net._weights, "me/x3d")
    assert json.loads(files["config.json"])["model"]["name"] == net.name
    path = tmp_path / "model.safetensors"
    path.write_bytes(files["model.safetensors"])
    again = jaxvideo.load(path)
    jax.tree.map(np.testing.assert_array_equal, again.variables, net.variables)
    assert again.card == net.card

    def refuse(*arguments, **options):
        raise OSError("401 Unauthorized\nlong explanation")

    monkeypatch.setattr(Api, "upload_folder", refuse)
    with pytest.raises(CheckpointError, match=r"me/x3d was not uploaded: 401 Unauthorized\. `hf"):
        net.push_to_hub("me/x3d")


def test_a_name_that_is_no_repository(net, monkeypatch):
    for name in ("x3d", "a/b/c", "", "me/x 3d"):
        with pytest.raises(ConfigError, match="it must be owner/name"):
            net.push_to_hub(name)
    with pytest.raises(ConfigError, match="it must be owner/name"):
        jaxvideo.load("hf:x3d")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install 'jaxvideo\[hub\]'"):
        jaxvideo.load("hf:me/x3d")


# --- Downloads --------------------------------------------------------------------------------


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A host with the addresses of the Hub; the cache is empty."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs the extra [hub]")
    for name in ("JAXVIDEO_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url(""))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        yield server


def publish(server, net, tmp_path, revision="main"):
    path = tmp_path / "model.safetensors"
    net.save(path)
    address = f"/me/x3d/resolve/{revision}/model.safetensors"
    content = path.read_bytes()
    commit = hashlib.sha1(content).hexdigest()
    server.files[address] = content
    server.headers[address] = {"X-Repo-Commit": commit}
    server.files[f"/me/x3d/resolve/{commit}/model.safetensors"] = content


@pytest.mark.hub
def test_load_from_the_hub(host, net, tmp_path, monkeypatch):
    publish(host, net, tmp_path)
    opened = jaxvideo.load("hf:me/x3d")
    jax.tree.map(np.testing.assert_array_equal, opened.variables, net.variables)
    assert opened.card == net.card
    assert opened.classes == net.classes
    monkeypatch.setenv("JAXVIDEO_OFFLINE", "1")
    host.requests.clear()
    again = jaxvideo.load("hf:me/x3d", dtype="bfloat16")
    assert again.arguments["dtype"] == "bfloat16"
    assert not host.requests
    with pytest.raises(ConfigError, match="num_classes must be omitted"):
        jaxvideo.load("hf:me/x3d", num_classes=3)
    with pytest.raises(CheckpointError, match="hf:me/other is not in the cache, and JAXVIDEO_OFF"):
        jaxvideo.load("hf:me/other")


@pytest.mark.hub
def test_repositories_without_a_network(host):
    host.errors["/me/x3d/resolve/main/model.safetensors"] = "EntryNotFound"
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors, hence no network of ja"):
        jaxvideo.load("hf:me/x3d")
    host.errors["/me/x3d/resolve/v9/model.safetensors"] = "RevisionNotFound"
    with pytest.raises(CheckpointError, match="hf:me/x3d has no revision 'v9'"):
        jaxvideo.load("hf:me/x3d@v9")
    host.errors["/me/x3d/resolve/main/model.safetensors"] = "RepoNotFound"
    with pytest.raises(CheckpointError, match="does not exist, or is private or gated"):
        jaxvideo.load("hf:me/x3d")
