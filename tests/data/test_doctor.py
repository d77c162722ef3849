"""Records of known videos, and the files that `doctor` writes."""

import argparse
import hashlib
import json
import os

import av
import cv2
import numpy as np
import pytest

from jaxvideo.cli import doctor as command
from jaxvideo.data import doctor
from jaxvideo.data.datasets.load import load_dataset
from jaxvideo.data.doctor import Record, examine, scan
from jaxvideo.data.engines import Engine
from jaxvideo.types import DataError
from tests.conftest import write_video
from tests.data.published import write
from tests.data.unusual_videos import CASES


def damage(path, frame):
    """Replaces the packet of a frame by zeros."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        place, size = packets[frame].pos, packets[frame].size
    data = bytearray(path.read_bytes())
    data[place : place + size] = bytes(size)
    path.write_bytes(data)
    return path


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    options = parser.parse_args(["doctor", *map(str, arguments)])
    return options.run(options)


def test_the_record_of_a_known_video(tmp_path):
    path = write_video(tmp_path / "v.mp4", frames=40, gop=10, size=(48, 64), rotation=90)
    record = examine(path)
    assert record == Record(
        path=str(path),
        status="ok",
        frames=40,
        packets=40,
        fps=25.0,
        duration=1.6,
        rotation=90,
        height=64,
        width=48,
        codec="h264",
        pixel_format="yuv420p",
        gop=10,
        size=path.stat().st_size,
        modified=path.stat().st_mtime_ns,
        digest=hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest(),
    )


def test_variable_rate_and_gaps(tmp_path):
    uneven = [k + k // 3 for k in range(30)]
    record = examine(write_video(tmp_path / "a.mkv", pts=uneven))
    assert (record.status, record.variable) == ("ok", True)
    # Matroska rounds 1 / 30 second to milliseconds; that is not a variable rate.
    with av.open(str(tmp_path / "b.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(20):
            picture = np.zeros((32, 32, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    record = examine(tmp_path / "b.mkv")
    assert (record.frames, record.variable) == (20, False)
    assert record.fps == pytest.approx(30, rel=0.01)
    late = [k + 500 * (k > 15) for k in range(30)]
    record = examine(write_video(tmp_path / "c.mp4", pts=late))
    assert (record.status, record.frames) == ("suspicious", 30)
    assert record.reason == "no frame for 20.0 seconds"


def test_broken_videos_say_why(tmp_path):
    holed = damage(write_video(tmp_path / "holed.mp4", frames=60, gop=10, size=(96, 128)), 30)
    record = examine(holed)
    assert record.status == "broken"
    assert "corrupt" in record.reason or "decoded" in record.reason
    assert record.packets == 60
    gone = examine(tmp_path / "gone.mp4")
    assert (gone.status, gone.size, gone.digest) == ("broken", 0, "")
    assert "No such file" in gone.reason
    (tmp_path / "text.mp4").write_text("not a video")
    assert examine(tmp_path / "text.mp4").reason.startswith("cannot be opened as a video")


def test_a_folder_of_frames(tmp_path):
    for k in range(4):
        cv2.imwrite(str(tmp_path / f"{k}.png"), np.full((8, 9, 3), k, np.uint8))
    record = examine(tmp_path)
    assert (record.status, record.frames, record.codec, record.gop) == ("ok", 4, "images", 1)
    content = b"".join((tmp_path / f"{k}.png").read_bytes() for k in range(4))
    assert record.digest == hashlib.blake2b(content, digest_size=16).hexdigest()
    assert record.size == len(content)
    (tmp_path / "2.png").write_bytes(b"")
    cv2.imwrite(str(tmp_path / "3.png"), np.zeros((9, 9, 3), np.uint8))
    record = examine(tmp_path)
    assert (record.status, record.frames) == ("broken", 2)
    assert record.reason.startswith("2 frames cannot be decoded (")
    assert "2.png" in record.reason


def test_a_scan_keeps_the_order_and_what_is_known(tmp_path):
    paths = [str(write_video(tmp_path / f"{k}.mp4", frames=5 + 30 * (k == 0))) for k in range(6)]
    paths.insert(3, str(tmp_path / "gone.mp4"))
    done = []
    records = scan(paths, Engine(workers=3), done=done.append)
    assert [record.path for record in records] == paths
    assert sorted(done, key=lambda record: paths.index(record.path)) == records
    known = {record.path: record for record in records}
    os.utime(paths[1], ns=(0, 0))
    again = scan(paths, Engine(workers=2), known=known)
    assert [new is old for new, old in zip(again, records, strict=True)] == [
        True,
        False,
        True,
        False,
        True,
        True,
        True,
    ]
    assert again[1].digest == records[1].digest


def record(path, digest, **how):
    return Record(path, "ok", size=1, digest=digest, **how)


def test_copies_and_leaks():
    records = [record("a", "1"), record("b", "2"), record("c", "1"), record("d", "1")]
    records += [record("e", "3"), Record("f", "broken"), Record("g", "broken")]
    assert doctor.duplicates(records) == [["a", "c", "d"]]
    splits = {"train": ["a", "b", "c", "f"], "val": ["b", "d", "g"], "test": ["e"]}
    assert doctor.leaks(records, splits) == [
        [("train", "a"), ("train", "c"), ("val", "d")],
        [("train", "b"), ("val", "b")],
    ]


def test_the_index_is_read_again(tmp_path):
    path, root = tmp_path / "index.jsonl", str(tmp_path)
    records = [record(str(tmp_path / "deep/a.mp4"), "1", frames=3), record("/other/b.mp4", "2")]
    doctor.write_index(path, records, root)
    lines = path.read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["deep/a.mp4", "/other/b.mp4"]
    # A truncated line, as after SIGKILL, and one of another version.
    path.write_text("\n".join([*lines, '{"path": "c"}', lines[0][:30]]))
    assert doctor.read_index(path, root) == {record.path: record for record in records}
    assert doctor.read_index(tmp_path / "gone.jsonl", root) == {}


@pytest.fixture
def data(tmp_path):
    """Two splits with a broken video, a video in both, a copy, and a missing video."""
    root = tmp_path / "data"
    (root / "videos").mkdir(parents=True)
    for k in range(4):
        write_video(root / "videos" / f"{k}.mp4", frames=8 + k)
    write_video(root / "videos" / "5.mp4", frames=20)
    (root / "videos" / "4.mp4").write_bytes((root / "videos" / "1.mp4").read_bytes())
    (root / "videos" / "bad.mp4").write_bytes(b"\0" * 100)
    train = ["videos/0.mp4 a", "videos/1.mp4 b", "videos/bad.mp4 a", "videos/5.mp4 b"]
    val = ["videos/0.mp4 a", "videos/4.mp4 b", "videos/3.mp4 a", "videos/gone.mp4 b"]
    (root / "train.csv").write_text("\n".join(train))
    (root / "val.csv").write_text("\n".join(val))
    return root


def test_the_command_writes_what_training_reads(data, capsys):
    assert run(data, "--threads", 2) == 1
    told = capsys.readouterr().out
    assert "6 videos, 5 ok, 0 suspicious, 1 broken" in told
    assert "train: 4 videos\n" in told
    assert "val: 3 videos, 1 missing\n" in told
    assert "videos/bad.mp4: cannot be opened as a video" in told
    assert "train videos/0.mp4, val videos/0.mp4\n" in told
    assert "train videos/1.mp4, val videos/4.mp4\n" in told
    lines = (data / "quarantine.txt").read_text().splitlines()
    assert [line.partition("\t")[0] for line in lines] == ["videos/bad.mp4"]
    train = load_dataset(data, "csv")
    assert [path.rpartition("/")[2] for path in train.paths] == ["0.mp4", "1.mp4", "5.mp4"]
    assert len(train.quarantined) == 1
    page = (data / "doctor.html").read_text()
    assert "videos/bad.mp4" in page
    assert "src=" not in page
    assert "href=" not in page
    assert "<script" not in page
    assert len((data / "index.jsonl").read_text().splitlines()) == 6

    # Again, after the broken video is replaced and a user has added another one.
    write_video(data / "videos" / "bad.mp4", frames=9)
    with (data / "quarantine.txt").open("a") as file:
        file.write("# not ours\nvideos/5.mp4\twrong label\n")
    assert run(data) == 0
    assert "6 videos, 6 ok, 0 suspicious, 0 broken" in (told := capsys.readouterr().out)
    assert "5 unchanged since the last scan" in told
    assert (data / "quarantine.txt").read_text() == "# not ours\nvideos/5.mp4\twrong label\n"


def test_a_folder_without_annotations(tmp_path, capsys):
    videos, out = tmp_path / "some", tmp_path / "out"
    videos.mkdir()
    write_video(videos / "fine.mp4", frames=6)
    (videos / "bad.avi").write_text("no")
    strange = os.fsencode(videos) + b"/\xe9t\xe9.mp4"
    with open(strange, "wb") as file:
        file.write((videos / "fine.mp4").read_bytes())
    assert run(videos, "--out", out) == 1
    told = capsys.readouterr().out
    assert "3 videos, 2 ok, 0 suspicious, 1 broken" in told
    assert f"--data.quarantine={out}/quarantine.txt" in told
    assert sorted(os.listdir(out)) == ["doctor.html", "index.jsonl", "quarantine.txt"]
    assert len(os.listdir(videos)) == 3
    with pytest.raises(DataError, match="nowhere does not exist"):
        run(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        run(videos, "--out", tmp_path / "file")


def test_recordings_in_several_splits_and_what_is_unusual(tmp_path, capsys):
    """Clips of one recording, by UCF101's names; a file that was cut without re-encoding."""
    for name in ("v_Run_g01_c01.avi", "v_Run_g01_c02.avi", "v_Run_g02_c01.avi"):
        write_video(tmp_path / name, 5, codec="mpeg4", size=(60, 80))
    for k in range(2):
        CASES["copied_b.mp4"](tmp_path / f"cut{k}.mp4")
    write(tmp_path, "train.csv", "v_Run_g01_c01.avi,a\nv_Run_g02_c01.avi,b\ncut0.mp4,a\n")
    write(tmp_path, "val.csv", "v_Run_g01_c02.avi,a\ncut1.mp4,b\n")
    assert run(tmp_path) == 0
    told = capsys.readouterr().out
    assert "recordings with clips in several splits (training reads them; accuracies are " in told
    assert "  v_Run_g01: train 1, val 1\n" in told
    assert "unusual (training copes with it):" in told
    assert "  2 videos, for example cut0.mp4: an edit list hides 8 of 40 frames\n" in told
    page = (tmp_path / "doctor.html").read_text()
    assert "v_Run_g01" in page
    assert "an edit list hides 8 of 40 frames" in page


def test_declared_frames(tmp_path, capsys):
    """Both numbers are reported, where training would stop."""
    for folder, count in (("one", 3), ("two", 4)):
        (tmp_path / folder).mkdir()
        for k in range(count):
            cv2.imwrite(str(tmp_path / folder / f"img_{k}.jpg"), np.zeros((9, 9, 3), np.uint8))
    write(tmp_path, "train.txt", "one 3 0\ntwo 5 0\n")
    with pytest.raises(DataError, match="two: the annotations state 5 frames, but there are 4"):
        load_dataset(tmp_path)
    assert run(tmp_path) == 1
    told = capsys.readouterr().out
    assert "2 videos, 2 ok" in told
    assert "other frames than the annotations state (training stops):\n  two: 5 stated, 4" in told
    assert "two" in (tmp_path / "doctor.html").read_text()
