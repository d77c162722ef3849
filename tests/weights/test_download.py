"""Downloads from a host on loopback: complete and checked, or absent."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import requests

from jaxvideo.types import CheckpointError, ConfigError
from jaxvideo.weights import download, store, zoo
from tests.weights.server import serving

CONTENT = np.random.default_rng(0).bytes(3_000_000)
PATH = "/net/weights-0123.pth"
CHUNK = download._CHUNK


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXVIDEO_CACHE", str(tmp_path / "cache"))
    for name in ("JAXVIDEO_OFFLINE", "JAXVIDEO_MIRROR", "http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    monkeypatch.setattr(download, "_CHUNK", 100_000)
    with serving() as server:
        server.files[PATH] = CONTENT
        yield server


def hash_of(kind, content=CONTENT):
    if kind == "git-blob-sha1":
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    digits = hashlib.new(kind.removesuffix("-prefix"), content).hexdigest()
    return digits[:8] if kind == "sha256-prefix" else digits


def file_of(server, *paths, kind="", digits=None, **more):
    urls = tuple(server.url(path) for path in paths or (PATH,))
    hash_ = (digits or hash_of(kind)) if kind else ""
    return zoo.File("weights.pth", urls, hash_kind=kind, hash=hash_, **more)


def fetch(file, tmp_path):
    target = tmp_path / "weights.pth"
    url = download.download(file, file.urls, target)
    assert target.read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("weights")] == ["weights.pth"]
    return url


def problem(file, tmp_path):
    """Returns the message of a failed download; the file must not be there."""
    target = tmp_path / "weights.pth"
    with pytest.raises(CheckpointError) as caught:
        download.download(file, file.urls, target)
    assert not target.exists()
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- One file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["", *zoo.HASHES])
def test_the_published_file(server, tmp_path, kind):
    file = file_of(server, kind=kind, bytes=len(CONTENT))
    assert fetch(file, tmp_path) == server.url(PATH)


@pytest.mark.parametrize("kind", zoo.HASHES)
def test_another_file_than_the_published_one(server, tmp_path, kind):
    wrong = hash_of(kind, b"other")
    text = problem(file_of(server, kind=kind, digits=wrong), tmp_path)
    assert f"{kind} {hash_of(kind)[:16]}" in text
    assert f"instead of {wrong}" in text
    assert not list(tmp_path.glob("weights*"))  # nothing of it is kept


def test_a_redirect(server, tmp_path):
    server.faults["/old"] = ["redirect", PATH]
    fetch(file_of(server, "/old", kind="sha256"), tmp_path)
    assert [path for path, _ in server.requests] == ["/old", PATH]


def test_a_connection_that_breaks_is_resumed(server, tmp_path):
    server.faults[PATH] = ["cut", 1_000_000, 1]
    fetch(file_of(server), tmp_path)
    assert server.requests == [(PATH, None), (PATH, "bytes=1000000-")]


def test_many_interruptions_with_progress(server, tmp_path):
    """Attempts count only if they bring no new byte."""
    server.faults[PATH] = ["cut", 400_000, 7]
    fetch(file_of(server, kind="sha1"), tmp_path)
    assert len(server.requests) == 8


def test_connections_that_break_early(server, tmp_path, monkeypatch):
    """Also if each brings less than a megabyte, the download advances."""
    monkeypatch.setattr(download, "_CHUNK", CHUNK)
    server.faults[PATH] = ["cut", 300_000, 99]
    fetch(file_of(server), tmp_path)
    assert len(server.requests) < 20


def test_an_interrupted_download_is_continued_later(server, tmp_path):
    server.faults[PATH] = ["cut", 600_000, 1]
    real, calls = download._transfer, []

    def once(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            raise KeyboardInterrupt
        real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "_transfer", once)
        with pytest.raises(KeyboardInterrupt):
            fetch(file_of(server), tmp_path)
    assert (tmp_path / "weights.pth.part").stat().st_size == 600_000
    fetch(file_of(server), tmp_path)
    assert server.requests[1:] == [(PATH, "bytes=600000-")]


def test_a_host_whose_file_has_changed_meanwhile(server, tmp_path):
    part = tmp_path / "weights.pth.part"
    server.files[PATH] = b"x" * 2_000_000
    server.faults[PATH] = ["cut", 500_000, 1, 503]
    text = problem(file_of(server), tmp_path)
    assert "answers 503 Service Unavailable. 0.5 MB are kept; the same call continues" in text
    assert part.stat().st_size == 500_000
    server.files[PATH], server.faults = CONTENT, {}
    fetch(file_of(server), tmp_path)  # the ETag differs, so it starts again


@pytest.mark.parametrize(
    ("kind", "ranges"), [("", [None, None]), ("sha256", [None, "bytes=700000-"])]
)
def test_a_host_that_does_not_name_its_content(server, tmp_path, kind, ranges):
    """Without an ETag, only a published hash shows that both parts are of one file."""
    server.etags, server.faults[PATH] = False, ["cut", 700_000, 1]
    fetch(file_of(server, kind=kind), tmp_path)
    assert [wanted for _, wanted in server.requests] == ranges


def test_a_part_that_is_too_long(server, tmp_path):
    part = tmp_path / "weights.pth.part"
    part.write_bytes(b"x" * (len(CONTENT) + 5))
    state = {"url": server.url(PATH), "validator": ""}
    part.with_name(part.name + ".json").write_text(json.dumps(state))
    fetch(file_of(server, kind="sha256"), tmp_path)


def test_a_truncated_file(server, tmp_path):
    server.faults[PATH] = ["cut", 0, 99]
    text = problem(file_of(server), tmp_path)
    assert "closed the connection" in text or "ended after 0 of 3000000 bytes" in text
    assert len(server.requests) == download._ATTEMPTS


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (["status", 404], "answers 404 Not Found for http://127.0.0.1"),
        (["status", 403], "answers 403 Forbidden"),
        (["page"], "sends a web page instead of the file"),
    ],
)
def test_a_host_without_the_file(server, tmp_path, fault, text):
    server.faults[PATH] = fault
    assert text in problem(file_of(server), tmp_path)
    assert len(server.requests) == 1  # asking again would not help


def test_an_overloaded_host(server, tmp_path):
    server.faults[PATH] = ["status", 503]
    assert "answers 503 Service Unavailable" in problem(file_of(server), tmp_path)
    assert len(server.requests) == download._ATTEMPTS


def test_the_size_is_checked_before_the_download(server, tmp_path):
    text = problem(file_of(server, bytes=7), tmp_path)
    assert "offers 3000000 bytes instead of the published 7" in text


def test_another_address_of_the_same_file(server, tmp_path):
    url = fetch(file_of(server, "/gone", PATH, kind="sha256"), tmp_path)
    assert url == server.url(PATH)


def test_no_host(tmp_path, server):
    server.shutdown()
    server.server_close()
    assert "127.0.0.1" in (text := problem(file_of(server), tmp_path))
    assert "cannot be reached" in text


def test_a_proxy_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url("/").rstrip("/"))
    monkeypatch.setenv("no_proxy", "")
    server.files["http://weights.example/net.pth"] = CONTENT
    file = zoo.File("weights.pth", ("http://weights.example/net.pth",))
    fetch(file, tmp_path)
    assert server.requests == [("http://weights.example/net.pth", None)]


def test_no_space_before_and_during_a_download(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        text = problem(file_of(server), tmp_path)  # the server names the size
    assert "No space left on device): the file has 3 MB, and 1 MB are free" in text
    assert "JAXVIDEO_CACHE" in text

    def chunks(answer, size):
        yield CONTENT[:size]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(requests.Response, "iter_content", chunks)
        assert "No space left on device" in problem(file_of(server), tmp_path)
    fetch(file_of(server), tmp_path)
    assert server.requests[-1][1] == "bytes=100000-"  # what was written is not lost


# --- The cache --------------------------------------------------------------------------------


def row_of(server, *files):
    """A row of the real table, with files on the server."""
    return zoo.dataclasses.replace(zoo.find("x3d_m", "k400_pytorchvideo"), files=files)


def original(row):
    with store.locked(row):
        return store.originals(row)


def test_first_use_says_what_is_downloaded(server, caplog):
    caplog.set_level("INFO", logger="jaxvideo")
    row = row_of(server, file_of(server))
    path = original(row)
    assert path == store.root() / "x3d_m" / "k400_pytorchvideo" / "weights.pth"
    text = caplog.text
    assert "downloading weights.pth (size not published) from 127.0.0.1" in text
    assert "75.94 % top-1, 92.72 % top-5 (10 clips x 3 crops of 256)" in text
    assert "Apache-2.0 (code)" in text
    assert "Kinetics: CC BY 4.0 by its page" in text
    assert f"Its SHA-256 {hash_of('sha256')[:16]}... is recorded" in text
    caplog.clear()
    assert original(row) == path
    assert not caplog.text
    assert len(server.requests) == 1


def test_all_files_of_a_checkpoint(server):
    server.files |= {"/ckpt.index": b"index", "/ckpt.data": b"data"}
    names = ("ckpt.index", "ckpt.data")
    row = row_of(server, *(zoo.File(n, (server.url(f"/{n}"),)) for n in names))
    path = original(row)
    assert path.name == "ckpt.index"
    assert path.with_name("ckpt.data").read_bytes() == b"data"


def test_a_damaged_file_is_downloaded_again(server, caplog):
    row = row_of(server, file_of(server))
    path = original(row)
    path.write_bytes(CONTENT[:-1] + b"?")
    assert store.verify(row) == {"weights.pth": "its SHA-256 has changed"}
    original(row)
    assert path.read_bytes() == CONTENT
    assert "weights.pth is damaged (its SHA-256 has changed). It is downloaded again" in caplog.text
    assert store.verify(row) == {"weights.pth": "ok"}


def test_a_damaged_record(server):
    row = row_of(server, file_of(server, kind="sha256"))
    path = original(row)
    for text in ("{", "[]", '{"files": 3}'):
        (path.parent / "record.json").write_text(text)
        assert original(row) == path
    path.write_bytes(b"x")
    original(row)
    assert path.read_bytes() == CONTENT


def test_trust_on_first_use(server):
    """A pinned file is required even after it has been deleted."""
    row = row_of(server, file_of(server))
    path = original(row)
    (path.parent / store.CONVERTED).write_bytes(b"made of it")
    store.keep_converted(row)
    path.unlink()
    server.files[PATH] = b"another file"
    with pytest.raises(CheckpointError, match=r"is another file than the one of 20.*record\.json"):
        original(row)
    assert not path.exists()
    server.files[PATH] = CONTENT
    assert original(row) == path


def test_offline(server, monkeypatch):
    row = row_of(server, file_of(server))
    monkeypatch.setenv("JAXVIDEO_OFFLINE", "1")
    with pytest.raises(CheckpointError) as caught:
        original(row)
    assert "jaxvideo weights fetch x3d_m k400_pytorchvideo" in str(caught.value)
    assert "jaxvideo.load('x3d_m', 'k400_pytorchvideo', path=FILE)" in str(caught.value)
    assert "weights=" not in str(caught.value)  # commands would write it as an option
    assert not server.requests
    monkeypatch.setenv("JAXVIDEO_OFFLINE", "0")
    path = original(row)
    monkeypatch.setenv("JAXVIDEO_OFFLINE", "1")
    assert original(row) == path


def test_a_mirror_replaces_all_hosts(server, monkeypatch):
    server.files["/mirror/x3d_m/k400_pytorchvideo/weights.pth"] = CONTENT
    monkeypatch.setenv("JAXVIDEO_MIRROR", server.url("/mirror/"))
    original(row_of(server, zoo.File("weights.pth", ())))  # even of Google Drive
    assert server.requests == [("/mirror/x3d_m/k400_pytorchvideo/weights.pth", None)]
    monkeypatch.setenv("JAXVIDEO_MIRROR", "/srv/weights")
    with pytest.raises(ConfigError, match="JAXVIDEO_MIRROR='/srv/weights': must begin with http"):
        original(row_of(server, zoo.File("other.pth", ())))


def test_files_that_need_a_browser(server):
    row = zoo.find("resnet18_3d_a")
    with pytest.raises(CheckpointError) as caught:
        original(row)
    text = str(caught.value)
    assert "cannot be downloaded without a browser" in text
    assert "https://drive.google.com/drive/folders/" in text
    assert "jaxvideo.load('resnet18_3d_a', 'k400_hara', path=FILE)" in text


def test_a_missing_file_names_the_page(server):
    row = row_of(server, file_of(server, "/gone"))
    with pytest.raises(CheckpointError, match=r"answers 404 .* listed at https://github.com/face"):
        original(row)


def test_a_cache_that_cannot_be_written(server, monkeypatch):
    def refuse(*arguments, **named):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CheckpointError, match=r"Read-only file system\)\. Set JAXVIDEO_CACHE"):
        original(row_of(server, file_of(server)))


def test_two_processes_download_once(server, tmp_path, caplog, monkeypatch):
    """The second one waits for the first, and uses its file."""
    caplog.set_level("INFO", logger="jaxvideo")
    monkeypatch.setattr(store, "_PATIENCE", 0.05)
    gate = threading.Event()
    server.faults[PATH] = ["slow", gate]
    program = (
        "import dataclasses, sys\n"
        "from jaxvideo.weights import store, zoo\n"
        "file = zoo.File('weights.pth', (sys.argv[1],))\n"
        "row = dataclasses.replace(zoo.find('x3d_m', 'k400_pytorchvideo'), files=(file,))\n"
        "with store.locked(row):\n"
        "    print('locked', flush=True)\n"
        "    print(store.originals(row))\n"
    )
    command = [sys.executable, "-c", program, server.url(PATH)]
    root = Path(__file__).parents[2]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)
    assert other.stdout.readline() == "locked\n"
    opener = threading.Timer(0.3, gate.set)
    opener.start()
    row = row_of(server, file_of(server))
    path = original(row)
    with other:
        assert other.stdout.read().strip() == str(path)
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert "x3d_m k400_pytorchvideo: waiting for another process that downloads it" in caplog.text
