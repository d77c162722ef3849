"""Commands on Apache Beam's local runner, in two processes, give the files of one machine."""

import functools
import os
import subprocess
import sys

import pytest

from jaxvideo import cli
from jaxvideo.data.engines import Engine, map_items
from jaxvideo.types import DataError, UsageError, VideoError
from tests.conftest import write_video
from tests.data.test_engines import square, square_in

pytest.importorskip("apache_beam", reason="needs the extra [beam]")
# Every pipeline starts processes. Beam leaves sockets and threads to the garbage collector.
pytestmark = [
    pytest.mark.full,
    pytest.mark.beam,
    pytest.mark.filterwarnings("default"),
]

TWO = "--direct_running_mode=multi_processing --direct_num_workers=2"
BEAM = ["--engine", "beam", f"--beam-options={TWO}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve videos of two classes; one is broken, two are equal, one is missing."""
    root = tmp_path_factory.mktemp("videos")
    for i in range(12):
        write_video(root / f"v{i}.mp4", 10 + i)
    (root / "v4.mp4").write_bytes(b"no video")
    (root / "v6.mp4").write_bytes((root / "v5.mp4").read_bytes())
    lines = [f"v{i}.mp4 {'ab'[i % 2]}" for i in range(12)]
    (root / "train.csv").write_text("\n".join([*lines[:8], "gone.mp4 a"]))
    (root / "val.csv").write_text("\n".join(lines[8:]))
    return root


def files(out):
    return {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_two_processes_compute_all_items(tmp_path):
    engine = Engine("beam", options=tuple(TWO.split()))
    found = list(map_items(square_in, range(20), engine, folder=tmp_path, block=3))
    assert sorted((i, number) for i, (number, _) in found) == [(i, i * i) for i in range(20)]
    processes = {process for _, (_, process) in found}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert not list(tmp_path.iterdir())
    assert list(map_items(square_in, [], engine, folder=tmp_path)) == []


def test_errors(tmp_path):
    """Errors of jaxvideo arrive as they are; others end the pipeline."""
    call = functools.partial(map_items, engine=Engine("beam"), folder=tmp_path)
    with pytest.raises(VideoError, match=r"^7 is bad$"):
        list(call(functools.partial(square, bad=7), range(9)))
    with pytest.raises(
        DataError, match=r"the Beam pipeline failed: .*object of type 'int' has no len"
    ):
        list(call(len, [1]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("--runner=Nope", "Unexpected pipeline runner: Nope"),
        ("--direct_num_workers=x", "invalid int value: 'x'"),
        ("--direct_num_wrkers=2", "--direct_num_wrkers=2 is unknown. Did you mean '--direct_num_"),
        ("runner=DirectRunner", "runner=DirectRunner is unknown"),
    ],
)
def test_wrong_options(options, problem):
    with pytest.raises(UsageError) as error:
        Engine("beam", options=(options,))
    assert problem in str(error.value)


def test_doctor(folder, tmp_path, capsys):
    for name, how in (("one", []), ("other", BEAM)):
        assert cli.main(["doctor", str(folder), "--out", str(tmp_path / name), *how]) == 1
    out = capsys.readouterr().out
    assert out.count("12 videos, 11 ok, 0 suspicious, 1 broken") == 2
    found = files(tmp_path / "one")
    assert len(found) == 3
    assert files(tmp_path / "other") == found
    # It resumes from the index.
    index = tmp_path / "other/index.jsonl"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:5]))
    assert cli.main(["doctor", str(folder), "--out", str(tmp_path / "other"), *BEAM]) == 1
    assert "5 unchanged since the last scan" in capsys.readouterr().out
    assert files(tmp_path / "other") == found


def test_flow(folder, tmp_path, capsys):
    how = ["--method", "dis", "--size", "32"]
    for name, engine in (("one", []), ("other", BEAM)):
        assert cli.main(["flow", str(folder), "--out", str(tmp_path / name), *how, *engine]) == 1
        shown = capsys.readouterr()
        assert "11 written, 0 skipped (already present), 1 failed" in shown.out
        assert "v4.mp4: cannot be opened" in shown.err
    found = files(tmp_path / "one")
    assert len(found) == 11
    assert files(tmp_path / "other") == found
    assert cli.main(["flow", str(folder), "--out", str(tmp_path / "other"), *how, *BEAM]) == 1
    assert "0 written, 11 skipped (already present), 1 failed" in capsys.readouterr().out


def test_pack(folder, tmp_path, capsys):
    for name, how in (("one", ["--workers", "0"]), ("other", BEAM)):
        assert cli.main(["pack", str(folder), str(tmp_path / name), "--size", "32", *how]) == 0
        assert "left out: " in capsys.readouterr().err
    assert files(tmp_path / "other") == files(tmp_path / "one")


KILLED = """
import os, sys
from jaxvideo.data.datasets.load import load_splits
from jaxvideo.data.engines import Engine
from jaxvideo.data.packed.record import Packing
from jaxvideo.data.packed.write import pack
def watch(videos):
    for count, video in enumerate(videos):
        if count == 3 and sys.argv[3]:
            os._exit(9)
        yield video
pack({"train": load_splits(sys.argv[1])["train"]}, sys.argv[2], Packing(size=32, per_shard=2),
     root=sys.argv[1], watch=watch, engine=Engine("beam"))
"""


def test_a_killed_run_is_resumed(folder, tmp_path, repository):
    def start(out, how):
        command = [sys.executable, "-c", KILLED, folder, out, how]
        return subprocess.run(command, cwd=repository, check=False).returncode

    assert start(tmp_path / "whole", "") == 0
    out = tmp_path / "out"
    assert start(out, "killed") == 9
    assert list(out.glob(".beam-*"))
    assert not (out / "dataset_info.json").exists()
    first = {path: path.stat().st_mtime_ns for path in out.glob("packed_videos-*")}
    assert first
    assert start(out, "") == 0
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert files(out) == files(tmp_path / "whole")
