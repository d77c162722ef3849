"""The formats of packed videos: colors, parts, older shards, damage, and their comparison."""

import dataclasses
import io
import json
import math
import re
import tarfile
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from jaxvideo.cli import main
from jaxvideo.cli import pack as command
from jaxvideo.data import planes
from jaxvideo.data.colors import MATRICES, matrix_of
from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.decode import decode_frames, read_clip, scaled_planes
from jaxvideo.data.packed import compare, record
from jaxvideo.data.packed.builder import PackedVideos
from jaxvideo.data.packed.codecs import CODECS, JFIF
from jaxvideo.data.packed.read import load_packed
from jaxvideo.data.packed.record import Packing, pack_video, record_video, split_record
from jaxvideo.data.packed.write import pack
from jaxvideo.data.planes import Planes, convert_planes
from jaxvideo.data.video import open_video, reader_video
from jaxvideo.inference.prepare import to_rgb
from jaxvideo.types import ConfigError, DataError, VideoError, View, Window
from tests.conftest import write_video
from tests.data.test_planes import SIZE, chart, frame_of, inside

BEST = {"size": SIZE, "crf": 1, "quality": 100}
WHOLE = View((0,), Window(0, 0, SIZE, SIZE))


def video_of(*frames):
    """Returns a video of frames: PyAV's, planes, or RGB."""

    def read(wanted):
        return ((index, frames[index]) for index in wanted)

    numbers = np.arange(len(frames))
    return reader_video("chart", read, numbers / 25, numbers, SIZE, SIZE, pixel_format="yuv420p")


def colors(video) -> np.ndarray:
    """Returns the middle of the squares of the first frame, converted on the device."""
    clip = read_clip(video, [WHOLE], SIZE, "yuv")
    return inside(np.asarray(to_rgb(clip, SIZE))[0, 0].astype(int))


SOURCES = {
    "unstated": lambda: frame_of(chart(), "yuv420p"),
    "bt709": lambda: frame_of(chart(), "yuv420p", 1),
    "bt709 full": lambda: frame_of(chart(), "yuv420p", 1, full=True),
    "bt2020 10 bits": lambda: frame_of(chart(), "yuv444p10le", 9),
    "gray": lambda: frame_of(chart(), "gray"),
    "rgb": chart,
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("name", CODECS)
def test_colors_of_a_record_are_those_of_its_source(name, source):
    video = video_of(source(), source())
    fields = pack_video(video, Packing(format=name, **BEST))
    packed = record_video(fields, "packed")
    assert np.abs(colors(packed) - colors(video)).max() <= 3
    (_, rgb), _ = decode_frames(packed, (0, 1))
    (_, expected), _ = decode_frames(video, (0, 1))
    assert np.abs(inside(rgb.astype(int)) - inside(expected.astype(int))).max() <= 4


def test_matrix_and_range_of_the_source_are_kept():
    frames = [frame_of(chart(), "yuv420p", 1, full=True)] * 2
    (found, *_) = scaled_planes(video_of(*frames), SIZE, SIZE)
    for name in ("mp4", "raw"):
        fields = pack_video(video_of(*frames), Packing(format=name, **BEST))
        assert list(fields["colors"]) == [1, 1]
        (packed, *_) = scaled_planes(record_video(fields, "packed"), SIZE, SIZE)
        assert matrix_of(packed.kind) == (1, True)
    for own, theirs in zip(packed.planes, found.planes, strict=True):  # raw
        np.testing.assert_array_equal(own, theirs)
    with av.open(io.BytesIO(pack_video(video_of(*frames), Packing(**BEST))["video"])) as container:
        shown = next(container.decode(video=0))
    assert (int(shown.colorspace), int(shown.color_range)) == (1, planes.FULL)


def test_jpeg_images_have_the_colors_that_jfif_prescribes():
    """An independent decoder reads them, and does not know the matrix of the source."""
    for source in (frame_of(chart(), "yuv420p", 1), frame_of(chart(), "yuv420p", 9, full=True)):
        fields = pack_video(video_of(source), Packing(format="jpeg", **BEST))
        assert matrix_of(JFIF) == (5, True) == tuple(fields["colors"])
        shown = cv2.imdecode(np.frombuffer(fields["video"], np.uint8), cv2.IMREAD_COLOR_RGB)
        assert np.abs(inside(shown.astype(int)) - inside(chart().astype(int))).max() <= 5


def test_frames_that_differ_in_matrix_are_converted_to_the_first():
    frames = [frame_of(chart(), "yuv420p", matrix) for matrix in (1, 5)]
    for name in CODECS:
        fields = pack_video(video_of(*frames), Packing(format=name, **BEST))
        packed = list(scaled_planes(record_video(fields, "packed"), SIZE, SIZE))
        assert len({frame.kind for frame in packed}) == 1
        one, other = (colors(video_of(frame)) for frame in packed)
        assert np.abs(one - other).max() <= 4


def test_planes_between_all_matrices_and_ranges():
    kinds = range(1, len(MATRICES))
    source = planes.area_planes(chart(), SIZE, SIZE, VideoReformatter())
    expected = colors(video_of(source))
    for kind in kinds:
        other = convert_planes(source, kind)
        assert other.kind == kind
        assert np.abs(colors(video_of(other)) - expected).max() <= 4
        back = convert_planes(other, source.kind)
        for one, two in zip(back.planes, source.planes, strict=True):
            assert np.abs(inside_plane(one) - inside_plane(two)).max() <= 2
    assert convert_planes(source, JFIF) is source


def inside_plane(plane: np.ndarray) -> np.ndarray:
    cell = len(plane) // 3
    return plane.astype(int).reshape(3, cell, 3, cell)[:, 2:-2, :, 2:-2]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> VideoDataset:
    root = tmp_path_factory.mktemp("videos")
    paths = [str(write_video(root / f"v{i}.mp4", 20 + i, gop=5)) for i in range(3)]
    return VideoDataset(tuple(paths), (0, 1, 0), ("a", "b"))


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(record, "_PART_BYTES", 500)


def test_a_video_within_the_limit_is_one_record(dataset, monkeypatch):
    monkeypatch.setattr(record, "_PART_BYTES", 20 * 32 * 42 * 3 // 2)
    for index, count in enumerate((1, 3, 3)):
        with dataset.open(index) as video:
            fields = pack_video(video, Packing(format="raw", size=32))
        assert len(split_record(fields)) == count


@pytest.mark.parametrize("name", CODECS)
def test_a_divided_video_is_the_same(dataset, small_parts, tmp_path, name):
    packing = Packing(format=name, size=32, gop=4, quality=50)
    pack({"train": dataset}, tmp_path / "o", packing)
    found = load_packed(tmp_path / "o", "train")
    assert found.format == name
    assert len(found.source) > 2 * len(found)
    for index, path in enumerate(dataset.paths):
        with open_video(path) as file, found.open(index) as packed:
            assert packed.num_frames == file.num_frames
            whole = record_video(pack_video(file, packing), "whole")
            for wanted in (range(20), [19], [3, 4, 11]):
                own, theirs = (
                    np.stack([frame for _, frame in decode_frames(video, wanted)])
                    for video in (packed, whole)
                )
                np.testing.assert_array_equal(own, theirs)
    builder = PackedVideos({"train": dataset}, packing, data_dir=tmp_path / "builder")
    builder.download_and_prepare()
    other = load_packed(builder.data_dir, "train")
    assert other.places == found.places
    for one, two in zip(other.source, found.source, strict=True):
        np.testing.assert_equal(record.parse(one), record.parse(two))


def test_a_clip_reads_only_its_parts(dataset, small_parts):
    with dataset.open(0) as video:
        fields = pack_video(video, Packing(format="raw", size=32))
    head, *pieces = split_record(fields)
    assert not head["video"]
    assert len(pieces) == 20  # a frame has more bytes than the limit
    read = []

    def load(part):
        read.append(part)
        return pieces[part]["video"]

    frames = [frame for _, frame in decode_frames(record_video(head, "r", load), [7, 8, 15])]
    parts = np.searchsorted(fields["parts"], [7, 8, 15], "right") - 1
    assert read == sorted(set(parts.tolist()))
    expected = decode_frames(record_video(fields, "r"), [7, 8, 15])
    np.testing.assert_array_equal(frames, [frame for _, frame in expected])


def test_the_parts_of_an_mp4_record_are_a_file(dataset, small_parts):
    with dataset.open(1) as video:
        head, *pieces = split_record(pack_video(video, Packing(size=32, gop=4)))
    assert len(pieces) > 1
    assert np.isin(head["parts"][:-1], head["keyframes"]).all()
    with open_video(b"".join(piece["video"] for piece in pieces)) as file:
        assert file.num_frames == 21


def test_shards_of_version_1_0_0_are_read(tmp_path):
    archive = Path(__file__).with_name("packed_1.0.0.tar.xz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    for name in ("mp4", "jpeg"):
        found = load_packed(tmp_path / name, "train")
        assert (found.paths, found.labels, found.format) == (("v0.mp4", "v1.mp4"), (0, 1), name)
        for index in range(2):
            with found.open(index) as video:
                assert (video.num_frames, video.height, video.width) == (8, 32, 42)
                gray = View(tuple(range(8)), Window(16, 24, 16, 16))
                clip = np.asarray(to_rgb(read_clip(video, [gray], 16, "yuv"), 16))
                np.testing.assert_allclose(clip.mean((0, 2, 3, 4)), 8 * np.arange(8), atol=3)
        # A folder that is complete is not packed again by a newer version.
        metadata = json.loads((tmp_path / name / "metadata.json").read_text())
        assert "version" not in metadata


def test_an_unfinished_folder_of_another_version_is_refused(dataset, tmp_path):
    def stop(videos):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack({"train": dataset}, tmp_path / "o", Packing(size=32), watch=stop)
    plan = json.loads((tmp_path / "o/packing.json").read_text())
    del plan["version"]
    (tmp_path / "o/packing.json").write_text(json.dumps(plan))
    with pytest.raises(DataError, match=r"other version: None, not 1\.1\.0; use another folder"):
        pack({"train": dataset}, tmp_path / "o", Packing(size=32))


def test_an_encoder_that_pyav_lacks(monkeypatch):
    monkeypatch.setattr(av, "codecs_available", {"mjpeg"})
    assert record.usable_formats() == ["jpeg", "raw"]
    with pytest.raises(ConfigError, match=r"format='mp4': .* use \['jpeg', 'raw'\]"):
        Packing()


@pytest.mark.parametrize("name", CODECS)
def test_damaged_frames_name_the_video(dataset, name):
    with dataset.open(0) as video:
        fields = pack_video(video, Packing(format=name, size=32))
    offsets = fields["offsets"].copy()
    fields["offsets"] = np.append(offsets[:-1], offsets[-2] + 9)
    packed = record_video(fields, "v0")
    assert len(list(decode_frames(packed, range(19)))) == 19
    with pytest.raises(VideoError, match=r"^v0: frame 19 "):
        list(decode_frames(packed, [19]))


def test_psnr_is_that_of_the_planes():
    rng = np.random.default_rng(0)
    sides = (SIZE, SIZE // 2, SIZE // 2)
    source = [rng.integers(0, 250, (side, side)).astype(np.uint8) for side in sides]
    changed = [plane + 4 * rng.permuted(np.indices(plane.shape)[0] % 2) for plane in source]
    one, other = (
        video_of(Planes([plane.astype(np.uint8) for plane in frame], JFIF))
        for frame in (source, changed)
    )
    assert math.isinf(compare.psnr(one, one))
    assert compare.psnr(one, other) == pytest.approx(10 * math.log10(255**2 / (16 / 2)))


def test_the_formats_are_measured(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "FRAMES", 12)
    sample = compare.draw_sample(dataset, 2)
    assert len(sample) == 2
    with sample.open(0) as video:
        assert video.num_frames == 12
    packing = Packing(size=32, crf=30)
    files, *found = compare.compare(sample, packing, 30, tmp_path, seconds=0)
    assert [one.format for one in found] == list(CODECS)
    raw = found[-1]
    assert math.isinf(raw.psnr)
    assert 0 < raw.clip_bytes / (16 * 32 * 42 * 1.5) - 1 < 8  # shards of a few videos are padded
    assert raw.total_bytes == pytest.approx(raw.clip_bytes / 16 * sum(sample.frames) / 2 * 30)
    assert 20 < found[0].lowest_psnr <= found[0].psnr < 60
    assert files.psnr is None
    assert all(speed > 0 for one in (files, *found) for speed in one.speeds.values())


def test_the_recommendation():
    def measured(name, size, speed):
        return compare.Measured(name, 1, size, 40, 40, {16: speed, 64: 1})

    found = [measured("mp4", 1e9, 100), measured("jpeg", 4e9, 90), measured("raw", 2e10, 200)]
    for memory, expected in ((64e9, "raw"), (40e9, "raw"), (39e9, "mp4"), (1e9, "mp4")):
        assert compare.recommend(found, memory).format == expected
    faster = [dataclasses.replace(found[0], speeds={16: 80}), *found[1:]]
    assert compare.recommend(faster, 39e9).format == "jpeg"
    assert compare.recommend(faster, 1e9).format == "mp4"


@pytest.fixture
def folder(dataset, tmp_path) -> Path:
    for split in ("train", "val"):
        lines = [f"{path} {label}" for path, label in zip(dataset.paths, "aba", strict=True)]
        (tmp_path / f"{split}.csv").write_text("\n".join([*lines, f"{tmp_path}/broken.mp4 b"]))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    return tmp_path


def test_the_command(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "_SECONDS", 0.0)
    words = ["pack", str(folder), str(tmp_path / "o"), "--size", "32", "--workers", "0"]
    assert main([*words, "--compare"]) == 0
    out = capsys.readouterr().out
    for name in ("files", *CODECS):
        assert re.search(rf"^  {name} +\d+\.\d ", out, re.MULTILINE)
    assert re.search(r"^recommended: --format \w+ \(", out, re.MULTILINE)
    assert not (tmp_path / "o").exists()
    assert main([*words, "--format", "raw", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "broken.mp4" in err
    found = json.loads(out)
    assert [row["format"] for row in found["formats"]] == ["files", *CODECS]
    assert found["formats"][-1]["psnr"] is None
    assert (found["format"], found["videos"], found["left_out"]) == ("raw", 6, 2)
    assert len(load_packed(tmp_path / "o", "val")) == 3
    assert main(["data", str(tmp_path / "o")]) == 0
    assert "packed as raw (uncompressed planes), short side 32" in capsys.readouterr().out
    assert main([*words, "--sample", "0", "--compare"]) == 2
    assert "--sample=0: must be at least 1" in capsys.readouterr().err
    assert main([*words, "--format", "avi"]) == 2
    assert "format='avi': allowed are mp4, jpeg, raw" in capsys.readouterr().err
