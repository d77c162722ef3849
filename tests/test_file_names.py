"""File names that are not UTF-8 or hold line breaks: printed, written and read back (C29, C30)."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

from jaxvideo import cli
from jaxvideo.data import doctor
from jaxvideo.data.datasets.load import load_splits
from jaxvideo.data.packed.read import load_packed
from jaxvideo.evaluation.fusion import Scores, load_scores, save_scores
from jaxvideo.names import escape, one_line, unescape
from jaxvideo.progress import echo
from jaxvideo.report.page import page, text
from jaxvideo.types import VideoError
from tests.conftest import write_video

LATIN, BREAK = os.fsdecode(b"\xe9t\xe9.mp4"), "line\nbreak.mp4"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (LATIN, r"\xe9t\xe9.mp4"),
        (BREAK, r"line\nbreak.mp4"),
        ("a\\n\tb\r\x85\u2028\x7f\x00", r"a\\n\tb\r\u0085\u2028\x7f\x00"),
        ("été 视频.mp4", "été 视频.mp4"),
        ("\ud800", r"\ud800"),
    ],
)
def test_escapes_are_reversible(name, shown):
    assert escape(name) == shown
    assert unescape(shown) == name
    assert len(escape(name).splitlines()) == 1
    assert escape(name).encode()
    assert one_line(escape(name)) == escape(name)


def test_printing(capsysbinary, monkeypatch):
    echo(LATIN)
    assert capsysbinary.readouterr().out == b"\\xe9t\\xe9.mp4\n"
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", ascii_only)
    echo("über 视")
    assert ascii_only.buffer.getvalue() == b"\\u00fcber \\u89c6\n"


def test_errors_of_videos_are_one_line():
    assert str(VideoError(f"{BREAK}: no video")) == r"line\nbreak.mp4: no video"


def test_pages_are_utf_8():
    assert page(LATIN, text(BREAK)).encode()
    assert text(f"<{BREAK}>") == r"&lt;line\nbreak.mp4&gt;"


def test_scores_keep_names(tmp_path):
    names = (LATIN.removesuffix(".mp4"), BREAK.removesuffix(".mp4"))
    save_scores(tmp_path / "s.npz", Scores(np.eye(2), np.arange(2), (LATIN, BREAK), names))
    found = load_scores(tmp_path / "s.npz")
    assert (found.videos, found.classes) == (names, (LATIN, BREAK))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Class folders with names of both kinds, whole and broken."""
    root = tmp_path_factory.mktemp("names")
    (root / "a").mkdir()
    (root / LATIN).mkdir()
    for number, name in enumerate((LATIN, BREAK, "c.mp4")):
        write_video(root / "plain.mp4", frames=4 + number)
        (root / "plain.mp4").rename(root / "a" / name)
        write_video(root / "plain.mp4", frames=8 + number)
        (root / "plain.mp4").rename(root / LATIN / name)
    (root / "a" / f"broken {LATIN}").write_bytes(b"x")
    (root / "a" / f"broken {BREAK}").write_bytes(b"x")
    return root


def test_quarantine(folder, capsys, monkeypatch):
    """Broken videos are left out of training, whatever their names are."""
    whole = len(load_splits(folder)["train"]) + len(load_splits(folder)["val"])
    assert whole == 8
    assert cli.main(["doctor", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert r"a/broken \xe9t\xe9.mp4: cannot be opened as a video" in printed
    assert r"a/broken line\nbreak.mp4: cannot be opened as a video" in printed
    lines = (folder / "quarantine.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(line.partition("\t")[0] for line in lines) == [
        r"a/broken \xe9t\xe9.mp4",
        r"a/broken line\nbreak.mp4",
    ]
    assert r"broken \xe9t\xe9.mp4" in (folder / "doctor.html").read_text(encoding="utf-8")
    splits = load_splits(folder)
    assert sum(len(dataset) for dataset in splits.values()) == whole - 2
    assert sum(len(dataset.quarantined) for dataset in splits.values()) == 2
    records = doctor.read_index(folder / "index.jsonl", str(folder))
    assert all(os.path.exists(path) for path in records)
    # A list of another program has the names as they are.
    (folder / "quarantine.txt").write_bytes(os.fsencode(f"a/{LATIN}\n"))
    found = [path for dataset in load_splits(folder).values() for path in dataset.quarantined]
    assert found == [str(folder / "a" / LATIN)]
    (folder / "quarantine.txt").unlink()
    monkeypatch.setattr(doctor, "examine", None)  # every record comes from the index
    assert cli.main(["doctor", str(folder), "--csv"]) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {unescape(row["path"]) for row in rows} == {
        str(path) for path in folder.rglob("*.mp4") if path.is_file()
    }
    assert [row["status"] for row in rows].count("broken") == 2


def test_data_as_json_and_csv(folder, capsys):
    assert cli.main(["data", str(folder), "--json"]) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    assert found["classes"] == sorted(["a", LATIN])
    assert {Path(folder, row["video"]).exists() for row in found["samples"]} == {True}
    assert cli.main(["data", str(folder), "--csv"]) in (0, 1)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    videos = [row["video"] for row in found["samples"]]
    assert [unescape(row["video"]) for row in rows] == videos
    assert cli.main(["data", str(folder)]) in (0, 1)
    assert r"classes: a, \xe9t\xe9.mp4" in capsys.readouterr().out


def test_flow(folder, capsys):
    assert cli.main(["flow", str(folder / LATIN), "--method", "dis", "--size", "32"]) == 0
    assert "3 written" in capsys.readouterr().out
    flow = [os.fspath(path.name) for path in (folder / LATIN).glob("*.flow.mkv")]
    assert LATIN.replace(".mp4", ".flow.mkv") in flow
    assert BREAK.replace(".mp4", ".flow.mkv") in flow


def test_packing(folder, tmp_path, capsys):
    (folder / "quarantine.txt").unlink(missing_ok=True)
    arguments = ["pack", str(folder), str(tmp_path / "out"), "--workers", "0", "--size", "32"]
    assert cli.main([*arguments, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["left_out"] == 2
    assert r"left out: " in printed.err
    assert r"broken line\nbreak.mp4" in printed.err
    packed = [load_packed(tmp_path / "out", split) for split in ("train", "val")]
    splits = load_splits(folder)
    assert packed[0].classes == splits["train"].classes
    for one, other in zip(packed, (splits["train"], splits["val"]), strict=True):
        names = {os.path.relpath(path, folder) for path in other.paths}
        assert set(one.paths) == {name for name in names if "broken" not in name}
        with one.open(0) as video:
            assert video.num_frames >= 4
