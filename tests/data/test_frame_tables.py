"""Frame tables that are kept on disk equal those of the files, and so do the frames."""

import dataclasses
import os

import av
import numpy as np
import pytest

from jaxvideo.cli import main
from jaxvideo.data import tables, video
from jaxvideo.data.cache import build_index, indexed
from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.decode import decode_frames
from jaxvideo.data.loading import Loading
from jaxvideo.data.pipeline import train_batches
from jaxvideo.data.probe import FrameTable
from jaxvideo.data.video import open_video, stamp_of
from jaxvideo.types import Preprocessing, VideoError
from tests.conftest import write_video
from tests.data import broken_videos
from tests.data.unusual_videos import CASES

PRE = Preprocessing(frames=4, stride=2, size=40, crop=32)

#: One file for each way in which frames are found.
FEW = (
    *("packed.avi", "gaps.avi", "copied_b.mp4", "twice.mp4", "late_b.ts", "open.mkv"),
    *("streams.mkv", "hidden.webm", "clip.h264", "clip.gif"),
)

#: FFmpeg marks the packet at the seam of two transport streams as corrupt.
SOUND = [name for name in CASES if name != "joined.ts"]


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """A cache directory of its own, and no tables of other tests in memory."""
    monkeypatch.setenv("JAXVIDEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tables, "_KNOWN", {})
    return tmp_path / "cache" / "frames"


def new_process():
    """Writes the tables of this process, and forgets them."""
    for kept in tables._KNOWN:
        tables.flush(kept)
    tables._KNOWN.clear()


def ready(*paths):
    path = tables.file_of(map(str, paths))
    assert tables.ready(path)
    return str(path)


def look(path, kept=""):
    """All fields of the frame table, and frames in several orders; or the error."""
    path = os.fspath(path)
    try:
        with open_video(path, kept=kept) as file:
            found = {f.name: getattr(file, f.name) for f in dataclasses.fields(FrameTable)}
            rng = np.random.default_rng(0)
            for count in (1, 1, 2, 3, file.num_frames):
                count = min(count, file.num_frames)
                wanted = sorted(rng.choice(file.num_frames, count, replace=False).tolist())
                try:
                    read = [(i, f.tobytes()) for i, f in decode_frames(file, wanted)]
                except VideoError as error:
                    read = str(error)
                found[str(wanted)] = read
    except VideoError as error:
        return str(error)
    return found


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, str):
        assert one == other
        return
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, np.ndarray):
            assert value.dtype == other[key].dtype
            np.testing.assert_array_equal(value, other[key], err_msg=key)
        else:
            assert (type(value), value) == (type(other[key]), other[key]), key


@pytest.mark.parametrize(
    "name",
    [name if name in FEW else pytest.param(name, marks=pytest.mark.full) for name in SOUND],
)
def test_a_kept_table_is_the_one_of_the_file(tmp_path, name, monkeypatch):
    path = CASES[name](tmp_path / name)
    kept = ready(path)
    expected = look(path)
    assert_same(look(path, kept), expected)  # written
    new_process()
    monkeypatch.setattr(video, "probe", None)
    monkeypatch.setattr(video, "check_layout", None)
    assert_same(look(path, kept), expected)  # read


@pytest.mark.full
def test_damaged_files_have_the_same_frames_and_errors(tmp_path):
    cases = broken_videos.make(tmp_path)
    kept, paths = ready(tmp_path / "a"), [tmp_path / case.name for case in cases]
    expected = [look(path) for path in paths]
    for path in paths:
        look(path, kept)
    new_process()
    assert sum(isinstance(found, dict) for found in expected) > 100
    for path, found in zip(paths, expected, strict=True):
        assert_same(look(path, kept), found)


def test_a_changed_file_is_read_again(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=20)
    kept = ready(path)
    look(path, kept)
    write_video(path, frames=23)
    with open_video(path, kept=kept) as file:
        assert file.num_frames == 23
    new_process()
    # Other content with the same number of bytes: only the modification time differs.
    before = stamp_of(str(path))
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, ns=(0, before[1] + 1))
    with pytest.raises(VideoError, match="cannot be opened"):
        open_video(path, kept=kept).__enter__()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-5],
        lambda data: data[:40],
        lambda data: b"x" * 300,
        lambda data: data[:-40] + bytes(40),
    ],
    ids=["empty", "cut", "cut in its keys", "other", "zeros"],
)
def test_a_damaged_file_of_tables_is_replaced(tmp_path, directory, damage):
    path = write_video(tmp_path / "a.mp4", frames=20)
    kept = ready(path)
    expected = look(path, kept)
    new_process()
    (file,) = directory.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert_same(look(path, kept), expected)
    new_process()
    assert file.read_bytes() == whole


def test_writers_do_not_lose_tables_of_others(tmp_path):
    """Two processes with the same file; also if one replaces what the other has just written."""
    paths = [str(write_video(tmp_path / f"{k}.mp4", frames=20 + k)) for k in range(4)]
    found = []
    for path in paths:
        with open_video(path) as file:
            fields = dataclasses.fields(FrameTable)
            found.append(FrameTable(**{field.name: getattr(file, field.name) for field in fields}))
    target = tables.file_of(paths)
    assert tables.ready(target)
    one, two = tables._Tables(target), tables._Tables(target)

    def add(process, number):
        process.added[tables._key(paths[number])] = tables.encode(found[number], (1, number))

    def there():
        fresh = tables._Tables(target)
        tables._read(fresh)
        return [bool(fresh.content.record(tables._key(path))) for path in paths]

    add(one, 0)
    tables._write(one)
    add(two, 1)
    tables._write(two)
    assert there() == [True, True, False, False]
    # `two` has read the file before `one` writes, and replaces it afterwards.
    before = target.read_bytes()
    add(one, 2)
    tables._write(one)
    after = target.read_bytes()
    target.write_bytes(before)
    add(two, 3)
    tables._write(two)
    assert after != before
    assert there() == [True, True, False, True]
    tables._write(one)
    assert there() == [True] * 4
    assert list(one.added) == [tables._key(paths[2])]
    tables._read(one)
    assert not one.added


def test_tables_are_small(tmp_path, directory):
    path = write_video(tmp_path / "a.mp4", frames=300, size=(16, 16), b_frames=2)
    look(path, ready(path))
    new_process()
    (file,) = directory.iterdir()
    assert file.stat().st_size < 1500  # 5 kB as arrays


def test_the_name_has_the_versions(monkeypatch):
    names = {tables.file_of(["/data/a.mp4"]).name, tables.file_of(["/data/b.mp4"]).name}
    assert len(names) == 1
    monkeypatch.setattr(av, "__version__", "99.0.0")
    names.add(tables.file_of(["/data/a.mp4"]).name)
    monkeypatch.setattr(av, "library_versions", {"libavformat": (9,), "libavcodec": (8,)})
    names.add(tables.file_of(["/data/a.mp4"]).name)
    names.add(tables.file_of(["/other/a.mp4"]).name)
    assert len(names) == 4
    assert "-1.99.9.8" in " ".join(names)


@pytest.fixture
def dataset(tmp_path):
    paths = [str(write_video(tmp_path / f"{k}.mp4", frames=20 + k)) for k in range(3)]
    return VideoDataset((*paths, str(tmp_path / "gone.mp4")), (0, 1, 0, 1), ("a", "b"))


def stream(dataset, **loading):
    loading = Loading(threads=1, **loading)
    return list(train_batches(dataset, PRE, batch_size=4, seed=1, last_batch=3, loading=loading))


def test_training_reads_packets_once(dataset, directory, monkeypatch):
    expected = stream(dataset, index=False)
    assert not directory.exists()
    probed, probe = [], video.probe

    def counted(path, *arguments):
        probed.append(path)
        return probe(path, *arguments)

    monkeypatch.setattr(video, "probe", counted)
    for _ in range(2):
        for batch, other in zip(stream(dataset), expected, strict=True):
            for key, array in batch.items():
                np.testing.assert_array_equal(array, other[key], err_msg=key)
        assert sorted(probed) == sorted(dataset.paths[:3])
        new_process()


@pytest.mark.full
def test_workers_share_the_tables(dataset, directory):
    """A worker process writes them, and another one reads them."""
    stream(dataset, workers=1)
    (file,) = directory.iterdir()
    written = tables._Tables(file)
    tables._read(written)
    assert all(written.content.record(tables._key(path)) for path in dataset.paths[:3])


def test_a_directory_that_cannot_be_written_is_one_warning(dataset, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXVIDEO_CACHE", str(tmp_path / "file"))
    assert len(stream(dataset)) == 3
    (text,) = caplog.messages
    assert "Set JAXVIDEO_CACHE" in text
    assert str(tmp_path / "file") in text
    # The disk becomes full during a run.
    caplog.clear()
    monkeypatch.setenv("JAXVIDEO_CACHE", str(tmp_path / "full"))

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tables, "write_file", full)
    assert len(stream(dataset)) == 3
    for _ in range(2):
        tables.flush(indexed(dataset).kept)
    (text,) = caplog.messages
    assert "No space left on device" in text


def test_the_command_builds_the_index(dataset, tmp_path, directory, capsys, monkeypatch):
    rows = "".join(f"{k}.mp4,{'ab'[k % 2]}\n" for k in range(3))
    (tmp_path / "train.csv").write_text(rows)
    (tmp_path / "1.mp4").write_bytes(b"no video")
    assert main(["data", str(tmp_path), "--index"]) == 1
    text = f"frame tables of 2 videos are in {directory}; 1 videos cannot be opened"
    assert text in capsys.readouterr().out
    new_process()
    monkeypatch.setattr(video, "probe", None)
    whole = dataclasses.replace(dataset, paths=dataset.paths[:1] + dataset.paths[2:3])
    assert build_index(dataclasses.replace(whole, labels=(0, 0)), 2) == 0
