"""Clips from cached frames have the same bytes as decoded ones."""

import contextlib
import dataclasses
import gc
import hashlib
import os
import shutil

import av
import cv2
import numpy as np
import pytest

from jaxvideo.data import cache, tables
from jaxvideo.data.cache import CachedDataset, cache_frames
from jaxvideo.data.crops import RandomCrop
from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.decode import decode_frames
from jaxvideo.data.loading import Loading
from jaxvideo.data.packed.read import load_packed
from jaxvideo.data.packed.record import Packing
from jaxvideo.data.packed.write import pack
from jaxvideo.data.pipeline import train_batches
from jaxvideo.data.planes import Planes
from jaxvideo.data.protocol_reader import read_tests
from jaxvideo.data.video import reader_video
from jaxvideo.types import ConfigError, DataError, Preprocessing, Protocol
from tests.conftest import write_video
from tests.data import broken_videos
from tests.data.test_doctor import damage
from tests.data.test_frame_tables import SOUND
from tests.data.unusual_videos import CASES, encode

PRE = Preprocessing(frames=4, stride=2, size=40, crop=32)
KINDS = ("ram", "disk") if hasattr(os, "memfd_create") else ("disk",)

#: Two crops of every decoded clip, of random size and place.
AUGMENTED = {"views_per_video": 2, "repeated": 2, "crop": RandomCrop(areas=(0.3, 1.0))}


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXVIDEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tables, "_KNOWN", {})
    return tmp_path / "cache" / "decoded"


def of(*paths):
    classes = ("a", "b")
    return VideoDataset(tuple(map(str, paths)), tuple(i % 2 for i in range(len(paths))), classes)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Videos of many pixel formats and containers, and folders that are no video files."""
    folder = tmp_path_factory.mktemp("videos")
    frames = folder / "frames"
    frames.mkdir()
    for k in range(9):
        picture = np.random.default_rng(k).integers(0, 256, (50, 70, 3), np.uint8)
        cv2.imwrite(str(frames / f"{k}.png"), picture)
    return of(
        write_video(folder / "b.mp4", b_frames=2),
        write_video(folder / "odd.avi", codec="mpeg4", size=(46, 62)),
        write_video(folder / "turned.mp4", rotation=90),
        encode(folder / "packed.mjpeg", "mjpeg"),
        noise(folder / "deep.mkv", "libx264", "yuv422p10le"),
        CASES["clip.gif"](folder / "clip.gif"),
        CASES["packed.avi"](folder / "packed.avi"),
        CASES["copied_b.mp4"](folder / "copied.mp4"),
        frames,
        folder / "gone.mp4",
    )


def noise(path, codec, pixel_format):
    """Writes 12 frames with any pixel format."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, pixel_format
        for k in range(12):
            picture = np.random.default_rng(k).integers(0, 256, (48, 64, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixel_format)))
        container.mux(stream.encode())
    return path


def digest(batches):
    found = hashlib.sha256()
    for batch in batches:
        for key in sorted(batch):
            found.update(f"{key} {batch[key].shape}".encode() + batch[key].tobytes())
    return found.hexdigest()


def stream(dataset, preprocessing=PRE, **loading):
    how = {"batch_size": 4, "seed": 3, "last_batch": 10, **AUGMENTED}
    return list(train_batches(dataset, preprocessing, loading=Loading(**loading), **how))


@pytest.mark.parametrize("pixels", ["yuv", "rgb"])
@pytest.mark.parametrize("kind", KINDS)
def test_clips_are_those_of_the_files(sources, kind, pixels, monkeypatch):
    p = dataclasses.replace(PRE, pixels=pixels)
    expected = digest(stream(sources, p))
    (cached,) = cache_frames([sources], p, Loading(cache=kind))
    assert [one is not None for one in cached.stored] == [True] * 9 + [False]
    opened = []
    opening = cache.open_stored
    monkeypatch.setattr(
        cache, "open_stored", lambda *given: opened.append(given) or opening(*given)
    )
    assert digest(stream(cached, p)) == expected
    assert len(opened) == 18  # two epochs
    assert cache_frames([cached], p, Loading(cache=kind)) == [cached]


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
def test_worker_processes_share_the_frames(sources, kind):
    expected = digest(stream(sources))
    assert digest(stream(sources, cache=kind, workers=2)) == expected


@pytest.mark.full
@pytest.mark.parametrize("name", SOUND)
def test_every_unusual_video(tmp_path, name):
    data = of(CASES[name](tmp_path / name))
    (cached,) = cache_frames([data], PRE, Loading(cache="disk"))
    assert cached.stored[0]
    assert digest(stream(cached)) == digest(stream(data))


@pytest.mark.full
def test_damaged_videos(tmp_path):
    """Hundreds; clips of many of them can be read."""
    cases = broken_videos.make(tmp_path)
    data = of(*(tmp_path / case.name for case in cases))
    (cached,) = cache_frames([data], PRE, Loading(cache="disk"))
    count = len(data) // 2
    assert sum(one is not None for one in cached.stored) > 50
    for one, other in zip(
        *(train_batches(d, PRE, batch_size=2, seed=1, last_batch=count) for d in (cached, data)),
        strict=True,
    ):
        for key, array in one.items():
            np.testing.assert_array_equal(array, other[key], err_msg=f"{key} {one['sample']}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("crops", [1, 3])
def test_protocols(sources, kind, crops):
    protocol = Protocol(clips=2, crops=crops)
    p = protocol.apply(PRE)

    def read(dataset):
        found = []
        for video, piece in read_tests(dataset.open, range(10), p, protocol, ahead=8):
            if hasattr(piece, "views"):
                piece = (piece.views.tobytes(), piece.views.shape, piece.frames, piece.seconds)
            found.append((video, str(piece)))
        return found

    (cached,) = cache_frames([sources], PRE, Loading(cache=kind))
    assert read(cached) == read(sources)


@pytest.mark.parametrize("kind", KINDS)
def test_no_video_is_opened_again(sources, kind, monkeypatch):
    data = dataclasses.replace(sources, paths=sources.paths[:9], labels=sources.labels[:9])
    cached = cache_frames([data, data], PRE, Loading(cache=kind))
    monkeypatch.setattr("jaxvideo.data.datasets.dataset.open_video", None)
    assert digest(stream(cached[0])) == digest(stream(cached[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_or_lost_video_is_read_from_its_file(tmp_path, kind):
    """As if there were no cache, also in the middle of a run."""
    data = of(*(write_video(tmp_path / f"{k}.mp4", frames=20 + k) for k in range(3)))
    (cached,) = cache_frames([data], PRE, Loading(cache=kind))
    write_video(tmp_path / "0.mp4", frames=14, size=(64, 48))
    (tmp_path / "1.mp4").unlink()
    expected = stream(data)
    assert {float(w) for batch in expected for w in batch["weight"]} == {0.0, 1.0}
    assert digest(stream(cached)) == digest(expected)


def test_files_on_disk_are_used_by_the_next_run(tmp_path, directory, monkeypatch, caplog):
    caplog.set_level("INFO", "jaxvideo")
    data = of(*(write_video(tmp_path / f"{k}.mp4", frames=20 + k) for k in range(3)))
    decoded, store = [], cache.store

    def counted(file, *given):
        decoded.append(os.path.basename(file.path))
        return store(file, *given)

    monkeypatch.setattr(cache, "store", counted)

    def again():
        decoded.clear()
        (cached,) = cache_frames([data], PRE, Loading(cache="disk"))
        assert digest(stream(cached)) == digest(stream(data))
        return sorted(decoded)

    assert again() == ["0.mp4", "1.mp4", "2.mp4"]
    size = 63 * 48 * 64 * 3 // 2
    text = f"loading.cache='disk': {size / 1e6:.1f} MB for 63 frames of 3 videos; "
    assert any(message.startswith(text) for message in caplog.messages), caplog.messages
    assert again() == []
    assert f", {size / 1e6:.1f} MB of it are stored already; " in caplog.text
    assert all(path.stat().st_size > 20 * 4608 for path in directory.iterdir())
    write_video(tmp_path / "1.mp4", frames=17)
    assert again() == ["1.mp4"]
    files = sorted(directory.iterdir())
    files[0].write_bytes(files[0].read_bytes()[:-1])
    files[1].write_bytes(b"")
    assert len(again()) == 2
    monkeypatch.setattr("jaxvideo.data.stored._FORMAT", [1, "other"])
    assert len(again()) == 3
    assert len(list(directory.iterdir())) == 3


@pytest.mark.skipif("ram" not in KINDS, reason="needs Linux")
def test_memory_is_freed(tmp_path):
    data = of(write_video(tmp_path / "a.mp4"))
    (cached,) = cache_frames([data], PRE, Loading(cache="ram"))
    other = dataclasses.replace(cached, labels=(1,))
    place = cached.stored[0].path
    del cached
    with other.open(0) as file:
        assert len(list(file.reader([3]))) == 1
    del other, file
    gc.collect()
    assert not os.path.exists(place)


@pytest.mark.parametrize("kind", KINDS)
def test_a_video_with_a_broken_frame_is_not_cached(tmp_path, kind, caplog):
    """Its other clips are read from the file, as before."""
    caplog.set_level("INFO", "jaxvideo")
    paths = [write_video(tmp_path / f"{k}.avi", codec="mpeg4") for k in range(2)]
    data = of(damage(paths[0], 14), paths[1])
    (cached,) = cache_frames([data], PRE, Loading(cache=kind))
    assert [one is not None for one in cached.stored] == [False, True]
    assert "  1 videos are not cached" in caplog.text
    assert digest(stream(cached)) == digest(stream(data))


def test_a_video_with_several_pixel_formats_is_not_cached(tmp_path):
    parts = [noise(tmp_path / f"{k}.mjpeg", "mjpeg", f"yuvj4{k}p") for k in (20, 44)]
    joined = tmp_path / "joined.mjpeg"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    data = of(joined)
    (cached,) = cache_frames([data], PRE, Loading(cache="disk"))
    assert cached.stored == (None,)
    assert digest(stream(cached)) == digest(stream(data))


def test_a_set_that_does_not_fit_is_one_error(sources, monkeypatch, directory):
    usage = shutil.disk_usage(os.sep)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage._replace(free=250_000))
    with pytest.raises(
        ConfigError,
        match=r"'disk' needs about \(by 2 of them\) 1\.3 MB for the 300 frames of 10 videos at "
        r"their own size, but 0\.2 MB are free .* Set loading\.cache='', or pack ",
    ):
        cache_frames([sources], PRE, Loading(cache="disk"))
    assert not list(directory.iterdir())
    monkeypatch.setattr(cache, "free_memory", lambda: (250_000, "limit of this job"))
    if "ram" in KINDS:
        with pytest.raises(ConfigError, match=r"limit of this job.* Set loading\.cache='disk', "):
            stream(sources, cache="ram")


def test_a_disk_that_cannot_be_written(sources, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXVIDEO_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be written \(.*Set JAXVIDEO_CACHE"):
        cache_frames([sources], PRE, Loading(cache="disk", index=False))
    monkeypatch.setenv("JAXVIDEO_CACHE", str(tmp_path / "full"))

    @contextlib.contextmanager
    def full(path):
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setattr(cache, "replacing", full)
    with pytest.raises(DataError, match="No space left on device"):
        cache_frames([sources], PRE, Loading(cache="disk"))


@pytest.mark.skipif("ram" not in KINDS, reason="needs Linux")
@pytest.mark.parametrize("form", ["mp4", "jpeg"])
def test_packed_videos(sources, tmp_path, form):
    pack({"train": sources}, tmp_path / "packed", Packing(size=40, format=form))
    packed = load_packed(tmp_path / "packed", "train")
    (cached,) = cache_frames([packed], PRE, Loading(cache="ram"))
    assert all(cached.stored)
    assert digest(stream(cached)) == digest(stream(packed))
    with pytest.raises(ConfigError, match="set 'ram' for packed videos"):
        cache_frames([packed], PRE, Loading(cache="disk"))


def test_what_is_not_possible(sources, monkeypatch):
    with pytest.raises(ConfigError, match=r"loading\.cache='tape': allowed are '', 'ram', 'disk'"):
        Loading(cache="tape")
    flow = dataclasses.replace(PRE, modality="flow", flow="stored", mean=(0, 0), std=(1, 1))
    with pytest.raises(ConfigError, match="stored flow is not cached"):
        cache_frames([sources], flow, Loading(cache="disk"))
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with pytest.raises(ConfigError, match="'ram' needs Linux"):
        cache_frames([sources], PRE, Loading(cache="ram"))


def test_rgb_of_cached_planes(sources):
    (cached,) = cache_frames([sources], PRE, Loading(cache="disk"))
    assert isinstance(cached, CachedDataset)
    with cached.open(0) as file, sources.open(0) as original:
        ((_, found),), ((_, expected),) = (decode_frames(each, [0]) for each in (file, original))
        assert np.abs(found.astype(int) - expected).max() <= 3
    gray = Planes((np.zeros((8, 8), np.uint8),), 0)
    numbers = np.arange(1)
    video = reader_video("gray", lambda wanted: ((0, gray) for _ in wanted), numbers, numbers, 8, 8)
    with pytest.raises(ConfigError, match="gray: cached as planes that are not 8-bit 4:2:0"):
        list(decode_frames(video, [0]))


def test_flow_of_the_host(sources):
    """It is computed from RGB, which is stored although `pixels` is "yuv"."""
    how = {"modality": "flow", "flow": "farneback", "mean": (0, 0), "std": (1, 1)}
    p = dataclasses.replace(PRE, **how)
    data = of(*sources.paths[:2])
    (cached,) = cache_frames([data], p, Loading(cache="disk"))
    assert digest(stream(cached, p)) == digest(stream(data, p))
