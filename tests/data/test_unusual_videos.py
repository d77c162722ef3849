"""Files as people have them: the frames are those that FFmpeg shows, everywhere in the library."""

import dataclasses
import io
import logging
import os
import re
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from jaxvideo.cli import main
from jaxvideo.data import doctor
from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.decode import decode_frames
from jaxvideo.data.packed.record import Packing, pack_video, record_video
from jaxvideo.data.pipeline import train_batches
from jaxvideo.data.protocol_reader import protocol_clips
from jaxvideo.data.samplers import SAMPLERS
from jaxvideo.data.video import find_videos, is_video, open_video
from jaxvideo.data.views import protocol_views, random_view
from jaxvideo.types import Preprocessing, Protocol, VideoError
from tests.conftest import write_video
from tests.data.unusual_videos import CASES, encode, remux, shown, source
from tests.marks import some

#: Frames that FFmpeg shows, where the number of packets is another.
COUNTS = {
    "packed.avi": 13,
    "packed.divx": 13,
    "packed_hmdb.avi": 31,
    "packed_two.avi": 3,
    "copied.mp4": 30,
    "copied_b.mp4": 32,
    "copied_mpeg4.mp4": 30,
    "copied_one_key.mp4": 30,
    "ends_early.mp4": 20,
    "ends_early_b.mp4": 20,
    "starts_late.mp4": 50,
    "two_parts.mp4": 20,
    "twice.mp4": 20,
    "gaps.avi": 14,
    "not_coded.avi": 17,
    "not_coded.mp4": 17,
    "streams.mkv": 30,
    "streams.mp4": 30,
}

QUICK = (
    *("packed.avi", "packed_hmdb.avi", "copied_b.mp4", "copied_mpeg4_b.mp4", "ends_early_b.mp4"),
    *("twice.mp4", "gaps.avi", "not_coded.avi", "late_b.ts", "late.avi", "open.mkv"),
    *("streams.mkv", "hidden.webm", "joined.ts", "clip.h264", "clip.vob", "clip.gif"),
)


@pytest.mark.parametrize("name", some(CASES, QUICK))
def test_the_frames_are_those_that_ffmpeg_shows(tmp_path, name):
    path = CASES[name](tmp_path / name)
    assert is_video(name)
    expected = shown(path)
    assert len(expected) == COUNTS.get(name, len(expected)) > 0
    with open_video(path) as video:
        assert (video.num_frames, video.damage) == (len(expected), "")
        assert (np.diff(video.times) > 0).all()
        found = [frame for _, frame in decode_frames(video, range(video.num_frames))]
        np.testing.assert_array_equal(found, expected)
        rng = np.random.default_rng(0)
        for count in (1, 1, 1, 2, 3):
            wanted = sorted(rng.choice(len(expected), count, replace=False).tolist())
            for index, frame in decode_frames(video, wanted):
                np.testing.assert_array_equal(frame, expected[index], err_msg=f"{wanted}")
    with open_video(path.read_bytes()) as video:
        assert video.num_frames == len(expected)
    record = doctor.examine(path)
    # FFmpeg marks the packet at the seam of two transport streams as corrupt.
    status = "suspicious" if name == "joined.ts" else "ok"
    assert (record.status, record.frames, record.packets) == (status, *[len(expected)] * 2)


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_every_command_counts_the_same_frames(tmp_path, name, capsys):
    """`doctor`, `data`, `pack`, the readers of training, of protocols and of flow."""
    path = CASES[name](tmp_path / name)
    count = len(shown(path))
    p = Preprocessing(frames=1, size=16, crop=16)
    counts = {"doctor": doctor.examine(path).frames}
    with open_video(path) as video:
        packed = pack_video(video, Packing(size=16))
        # `evaluate`, `predict`, `extract` and `fvd` read clips of a protocol; "windows" are all.
        tested = protocol_clips(video, p, Protocol(clips=0, starts="windows"))
        counts["protocol"] = len(list(tested))
    counts["pack"] = record_video(packed, name).num_frames
    data = VideoDataset((str(path),), (0,), ("a",))
    drawn = []

    def last(num_frames, step, preprocessing, rng):
        drawn.append(num_frames)
        return [num_frames - 1]

    SAMPLERS["last"] = last
    try:
        (batch,) = train_batches(data, p, batch_size=1, seed=0, last_batch=1, sampler="last")
    finally:
        del SAMPLERS["last"]
    assert batch["weight"] == 1
    counts["train"] = drawn[-1]
    (tmp_path / "train.csv").write_text(f"{name},a\n")
    assert main(["data", str(tmp_path)]) == 0
    counts["data"] = int(re.findall(r", (\d+) frames, ", capsys.readouterr().out)[-1])
    assert counts == dict.fromkeys(counts, count)


def test_all_files_are_opened_by_one_function(repository):
    """Otherwise two commands could count the frames of a file in two ways."""
    files = [p for p in (repository / "jaxvideo").rglob("*.py") if "av.open(" in p.read_text()]
    reading = {
        f"{path.parent.name}/{path.name}"
        for path in files
        for call in path.read_text().split("av.open(")[1:]
        if '"w"' not in call.partition("as container")[0]
    }
    # `pack` reads back what it has encoded; a file of stored flow has its settings inside.
    assert reading == {"data/video.py", "data/stored_flow.py", "packed/codecs.py"}


def test_what_is_unusual_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO, "jaxvideo")
    for name, remark in {
        "copied_b.mp4": "an edit list hides 8 of 40 frames",
        "ends_early.mp4": "an edit list hides 20 of 40 frames",
        "packed.avi": "its frames are counted by decoding (packed bitstream)",
        "late.avi": "its frames are counted by decoding (it begins between key frames)",
        "streams.mkv": "2 video streams; stream 1 is read, the one FFmpeg selects",
        "aspect.mp4": "its pixels are not square (sample aspect ratio 64:45)",
    }.items():
        with open_video(CASES[name](tmp_path / name)) as video:
            assert [text for text in video.remarks if text.startswith(remark)], video.remarks
    streams = tmp_path / "streams.mkv"
    assert caplog.messages == [
        f"{streams}: 2 video streams; stream 1 is read, the one FFmpeg selects"
    ]
    with open_video(streams), open_video(write_video(tmp_path / "plain.mp4", b_frames=2)) as video:
        assert (video.remarks, video.counted) == ((), "")
    assert len(caplog.messages) == 1  # once per file, not once per epoch


def test_ordinary_files_are_not_decoded_to_count_frames(tmp_path, monkeypatch):
    for name, how in {
        "a.mp4": {"b_frames": 2},
        "b.mkv": {"b_frames": 2},
        "c.avi": {"codec": "mpeg4", "size": (96, 128)},
        "d.avi": {"codec": "mpeg4", "b_frames": 2},
    }.items():
        with open_video(write_video(tmp_path / name, **how)) as video:
            assert (video.counted, video.num_frames) == ("", 30), name
    monkeypatch.setenv("SVT_LOG", "0")
    for name, codec in {
        "e.webm": "libvpx",
        "f.avi": "msmpeg4",
        "g.avi": "mjpeg",
        "h.mp4": "libsvtav1",
    }.items():
        with open_video(encode(tmp_path / name, codec)) as video:
            assert (video.counted, video.num_frames) == ("", 30), name
            assert len(list(decode_frames(video, range(30)))) == 30
    # For root, the AV1 encoder gives the calling thread the highest real-time priority.
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with open_video(CASES["copied_b.mp4"](tmp_path / "copied.mp4")) as video:
        assert video.counted == ""


def test_a_damaged_packet_is_not_passed_over(tmp_path):
    """Where frames are counted by decoding, a packet in the middle must still be an error."""
    made = source(tmp_path / "x.mp4", frames=30)

    def damage(index, data):
        return data[:6] + b"\xff" * (len(data) - 6) if index == 9 else data

    path = remux(made, tmp_path / "x.ts", change=damage)
    record = doctor.examine(path)
    assert (record.status, record.frames) == ("broken", 29)
    assert "1 frames cannot be decoded" in record.reason
    assert "29 frames in 30 packets" in record.remarks
    with open_video(path) as video, pytest.raises(VideoError, match="frame 28 of 29 cannot be de"):
        list(decode_frames(video, [28]))


def test_a_cover_picture_is_no_second_stream(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream(codec, rate=25) for codec in ("libx264", "mjpeg")]
        streams[1].disposition = Disposition.attached_pic
        for stream, pixels in zip(streams, ("yuv420p", "yuvj420p"), strict=True):
            stream.height, stream.width, stream.pix_fmt = 32, 32, pixels
        for stream, count in zip(streams, (5, 1), strict=True):
            for _ in range(count):
                picture = np.zeros((32, 32, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    with open_video(path) as video:
        assert (video.num_frames, video.remarks) == (5, ())


def test_animated_webp(tmp_path):
    """C5, with durations that vary; a picture is no animation."""
    levels = (10, 90, 170)
    pictures = [Image.new("RGB", (40, 30), (level,) * 3) for level in levels]
    path = tmp_path / "a.webp"
    how = {"save_all": True, "lossless": True, "duration": [100, 300, 100]}
    pictures[0].save(path, append_images=pictures[1:], **how)
    for given in (path, path.read_bytes()):
        with open_video(given) as video:
            assert (video.num_frames, video.height, video.width) == (3, 30, 40)
            np.testing.assert_allclose(video.times, [0, 0.1, 0.4])
            found = [(index, int(frame[5, 5, 1])) for index, frame in decode_frames(video, [0, 2])]
            assert found == [(0, 10), (2, 170)]
    assert doctor.examine(path).status == "ok"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(VideoError, match=r"a\.webp: cannot be decoded as an animated WebP"):
        open_video(path).__enter__()
    single = io.BytesIO()
    pictures[1].save(single, "webp", lossless=True)
    with open_video(single.getvalue()) as video:
        assert video.num_frames == 1


def test_endings(tmp_path, caplog):
    """C6 and C7."""
    caplog.set_level(logging.INFO, "jaxvideo")
    names = ["a.MTS", "b.m2ts", "c.ts", "d.3gp", "e.ogv", "f.m2v", "g.vob", "h.asf", "i.divx"]
    names += ["j.h264", "k.f4v", "l.MP4"]
    for name in [*names, "._a.MTS", "._l.MP4", "m.srt", "n.nfo", "o.SRT"]:
        (tmp_path / name).touch()
    assert [path.rpartition("/")[2] for path in find_videos([tmp_path])] == names
    assert "ignored 2 side files of macOS" in caplog.text
    assert "3 other files, neither videos nor annotations: .srt (2), .nfo (1)" in caplog.text


# --- Sample aspect ratio (C4) -------------------------------------------------------------

STORED = Preprocessing(frames=1, size=576, crop=512)
SQUARE = dataclasses.replace(STORED, square_pixels=True)


def test_square_pixels_change_the_windows():
    """720 x 576 with pixels of 64:45 is shown as 1024 x 576; the crop is square there."""
    how = {"pixel_aspect": 64 / 45}
    ((view,),) = protocol_views(1, 576, 720, 25.0, STORED, Protocol(clips=1), **how)
    assert (view.window.width, view.window.height) == (512, 512)
    ((view,),) = protocol_views(1, 576, 720, 25.0, SQUARE, Protocol(clips=1), **how)
    assert (view.window.width, view.window.height) == (360, 512)
    assert view.window.left == 180
    three = protocol_views(1, 576, 720, 25.0, SQUARE, Protocol(clips=1, crops=3), **how)
    assert [view.window.left for view in three[0]] == [0, 180, 360]
    rng = np.random.default_rng(0)
    drawn = {random_view(1, 576, 720, 25.0, SQUARE, rng, **how).window for _ in range(200)}
    assert {window.width for window in drawn} <= {359, 360, 361}
    assert all(0 <= window.left <= 720 - window.width for window in drawn)


def test_a_circle_stays_a_circle(tmp_path):
    """A circle on a 4:3 DVD frame, as the network sees it."""
    y, x = np.mgrid[:144, :180]
    picture = ((y - 72) ** 2 + ((x - 90) * 64 / 45) ** 2 < 50**2).astype(np.uint8) * 255
    with av.open(str(tmp_path / "dvd.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 144, 180, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(64, 45)
        frame = av.VideoFrame.from_ndarray(np.stack([picture] * 3, -1), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    p = Preprocessing(frames=1, size=144, crop=128, pixels="rgb")
    with open_video(tmp_path / "dvd.mkv") as video:
        assert video.pixel_aspect == pytest.approx(64 / 45)
        for square, ratio in ((False, 45 / 64), (True, 1.0)):
            seen = dataclasses.replace(p, square_pixels=square)
            (clip,) = protocol_clips(video, seen, Protocol(clips=1))
            inside = clip.views[0, 0, :, :, 0] > 128
            width, height = inside.any(0).sum(), inside.any(1).sum()
            assert width / height == pytest.approx(ratio, abs=0.03)
