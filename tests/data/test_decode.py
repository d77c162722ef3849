"""Frame k of a video is frame k of the file, for every container and codec."""

import dataclasses
import re
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from jaxvideo.data.decode import decode_frames, read_clip
from jaxvideo.data.video import open_video
from jaxvideo.types import VideoError, View, Window
from tests.conftest import write_video


def read(path, indices, size=16):
    with open_video(path) as video:
        view = View(tuple(indices), Window(0, 0, video.height, video.width))
        return read_clip(video, [view], size)[0]


def levels(clip):
    """Returns the gray level of the lower right quarter, which identifies the frame."""
    return clip[:, 12:, 12:].mean((1, 2, 3))


def sequential(path):
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]


UNEVEN = [k + k // 3 + (k > 20) * 7 for k in range(30)]

KINDS = {
    "gop-12.mp4": {},
    "one-key-frame.mp4": {"gop": 250},
    "every-frame-a-key.mp4": {"gop": 1},
    "b-frames.mp4": {"b_frames": 2},
    "variable-rate.mp4": {"pts": UNEVEN},
    "variable-rate-b-frames.mp4": {"pts": UNEVEN, "b_frames": 2},
    "starts-late.mp4": {"pts": [k + 100 for k in range(30)], "b_frames": 2},
    "b-frames.mkv": {"b_frames": 2},
    "b-frames.flv": {"b_frames": 2},
    "mpeg4.avi": {"codec": "mpeg4"},
    # AVI has no presentation times; MPEG streams have no index.
    "mpeg4-b-frames.avi": {"codec": "mpeg4", "b_frames": 2},
    "h264-b-frames.avi": {"b_frames": 2},
    "transport.ts": {"b_frames": 2},
    "program.mpg": {"codec": "mpeg2video", "b_frames": 2},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    return {kind: write_video(folder / kind, **how) for kind, how in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "indices", [range(30), range(9, 25), [0, 29], [28], [13, 14, 27], [3, 3, 4], [20, 25, 0, 5]]
)
def test_exactly_the_frames_asked_for(videos, kind, indices):
    with open_video(videos[kind]) as video:
        assert video.num_frames == 30
    expected = [8 * k for k in indices]
    np.testing.assert_allclose(levels(read(videos[kind], indices)), expected, atol=3)


@pytest.mark.parametrize("kind", KINDS)
def test_times_are_those_that_were_written(videos, kind):
    ticks = KINDS[kind].get("pts", range(30))
    with open_video(videos[kind]) as video:
        assert video.times.dtype == np.float64
        expected = (np.asarray(ticks) - ticks[0]) / 25
        np.testing.assert_allclose(video.times, expected, atol=0.001)
        assert video.fps == pytest.approx(29 / expected[-1], rel=1e-3)


def test_a_file_from_memory(videos):
    """Bytes of every container give the same frames as the file."""
    for kind, path in videos.items():
        content = path.read_bytes()
        with open_video(content) as video, open_video(path) as file:
            np.testing.assert_array_equal(video.times, file.times)
            assert video.path == "<bytes>"
            view = View((3, 13, 14), Window(0, 0, video.height, video.width))
            expected = read_clip(file, [view], 16)
            np.testing.assert_array_equal(read_clip(video, [view], 16), expected, err_msg=kind)
    with pytest.raises(VideoError, match=r"^<bytes>: cannot be opened"):
        open_video(b"no video").__enter__()
    with pytest.raises(VideoError, match=r"^record 7: cannot be opened"):
        open_video(b"", name="record 7").__enter__()


def test_only_needed_frames_are_decoded(tmp_path):
    """A seek ends at the last key frame before, and is skipped if decoding on is shorter.

    In between, frames that no other frame refers to are not decoded.
    """
    path = write_video(tmp_path / "v.mp4", frames=60, gop=10)
    decoded = []
    with open_video(path) as video:

        class Container:
            @staticmethod
            def seek(offset, stream, **how):
                video.container.seek(offset, stream=video.stream, **how)

            @staticmethod
            def demux(stream):
                return video.container.demux(video.stream)

        class Stream:
            codec_context = video.stream.codec_context

            @staticmethod
            def decode(packet):
                frames = video.stream.decode(packet)
                decoded.extend(int(np.searchsorted(video.pts, frame.pts)) for frame in frames)
                return frames

        counted = dataclasses.replace(video, container=Container, stream=Stream)
        got = [index for index, _ in decode_frames(counted, [2, 4, 37])]
    assert got == [2, 4, 37]
    key = max(k for k in video.keyframes if k <= 37)
    assert key > 5
    assert {2, 4, 37} <= set(decoded) <= {0, 1, 2, 3, 4, *range(key, 38)}
    assert len(decoded) == len(set(decoded))


def test_window_is_cropped_and_scaled(video):
    with open_video(video) as file:
        view = View((5,), Window(0, 0, 16, 16))
        corner = read_clip(file, [view], 8)[0]
        assert corner.shape == (1, 8, 8, 3)
        assert corner.mean() > 245
        views = [view, View((5,), Window(20, 20, 28, 40))]
        both = read_clip(file, views, 8)
    assert both.shape == (2, 1, 8, 8, 3)
    np.testing.assert_array_equal(both[0], corner)
    assert abs(both[1].mean() - 40) < 3


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_applied(tmp_path, rotation):
    path = write_video(tmp_path / "v.mp4", rotation=rotation)
    with open_video(path) as video:
        expected = (48, 64) if rotation == 180 else (64, 48)
        assert (video.height, video.width) == expected
        whole = View((3,), Window(0, 0, video.height, video.width))
        frame = read_clip(video, [whole], 48)[0, 0]
    places = {
        "top left": frame[:6, :6],
        "top right": frame[:6, -6:],
        "bottom left": frame[-6:, :6],
        "bottom right": frame[-6:, -6:],
    }
    bright = [name for name, part in places.items() if part.mean() > 200]
    # FFmpeg's display matrix turns counterclockwise by `rotation` degrees.
    assert bright == [{90: "bottom left", 180: "bottom right", 270: "top right"}[rotation]]


def test_agrees_with_plain_decoding(tmp_path):
    """Random content and B-frames: every frame equals that of sequential decoding."""
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 9, 3
        for _ in range(40):
            picture = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    frames = sequential(path)
    for indices in ([39], [5, 17, 18, 33], range(8, 24), [38, 2]):
        np.testing.assert_array_equal(read(path, indices, size=32), [frames[i] for i in indices])


def damage(path, kind):
    data = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a video\n" * 40)
    elif kind == "no index":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "missing":
        path.unlink()
    return path


@pytest.mark.parametrize("kind", ["empty", "text", "no index", "missing"])
def test_broken_files_are_named(tmp_path, kind):
    path = damage(write_video(tmp_path / "bad.mp4"), kind)
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        read(path, [0])


def test_audio_only_is_named(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="no video stream"):
        read(path, [0])


def test_a_damaged_middle_is_an_error_and_the_rest_is_not(tmp_path):
    path = write_video(tmp_path / "holed.mp4", frames=60, gop=10, size=(96, 128))
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        place, size = packets[30].pos, packets[30].size
    data = bytearray(path.read_bytes())
    data[place : place + size] = bytes(size)
    path.write_bytes(data)
    assert abs(levels(read(path, [55]))[0] - 8 * 55 % 256) < 3
    with pytest.raises(VideoError, match=r"holed\.mp4.*frame 30"):
        read(path, [30])


@pytest.mark.parametrize("kind", ["b-frames.mp4", "mpeg4-b-frames.avi", "b-frames.mkv"])
@pytest.mark.parametrize("part", [0.5, 0.8])
def test_what_lies_before_the_cut_is_a_shorter_video(tmp_path, kind, part):
    """All frames with complete packets, including the last ones, which the decoder delays."""
    path = write_video(tmp_path / kind, **KINDS[kind])
    if kind.endswith("mp4"):
        path = index_first(path)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        # Truncates the file in the middle of a packet.
        cut = int(part * len(packets))
        end = packets[cut].pos + packets[cut].size // 2
        shown = sorted(packet.pts for packet in packets[:cut])
        places = {time: k for k, time in enumerate(sorted(packet.pts for packet in packets))}
    path.write_bytes(path.read_bytes()[:end])
    with open_video(path) as video:
        assert video.pts.tolist() == shown
        assert re.search(rf"only {cut} of 30|after .* of 1\.20 seconds", video.damage)
        assert video.corrupt_packets == (not kind.endswith("mkv"))
    expected = [8 * places[time] for time in shown]
    np.testing.assert_allclose(levels(read(path, range(cut))), expected, atol=3)
    np.testing.assert_allclose(levels(read(path, [cut - 1])), expected[-1:], atol=3)


def index_first(path):
    """Remuxes a file with the index before the packets."""
    target = path.with_name(f"first_{path.name}")
    options = {"movflags": "faststart"}
    with av.open(str(path)) as source, av.open(str(target), "w", options=options) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    return target


def test_nothing_is_wrong_with_whole_files(videos):
    for path in videos.values():
        with open_video(path) as video:
            assert (video.damage, video.corrupt_packets) == ("", 0)


def test_times_of_a_folder_are_indices(tmp_path):
    for k in (1, 2, 10):
        cv2.imwrite(str(tmp_path / f"{k}.png"), np.full((8, 9, 3), 20 * k, np.uint8))
    with open_video(tmp_path) as video:
        assert (video.times.tolist(), video.fps) == ([0.0, 1.0, 2.0], 0.0)
        assert video.times.dtype == np.float64
        assert [frame[0, 0, 0] for _, frame in decode_frames(video, [1, 2])] == [40, 200]


def test_a_packed_bitstream(tmp_path):
    """DivX, as in HMDB51: a chunk of a P-frame and the B-frame shown before it, then an empty one.

    The empty frame has vop_coded 0 (ISO/IEC 14496-2, 6.2.5).
    """
    path = tmp_path / "packed.avi"
    write_packed(path, frames=13)
    for indices in ([0, 1, 2, 3], [5], [6, 11], range(13)):
        expected = [8 * k for k in indices]
        np.testing.assert_allclose(levels(read(path, indices)), expected, atol=3)
    with open_video(path) as video:
        assert (video.num_frames, video.seekable, video.damage) == (13, False, "")
        np.testing.assert_allclose(video.times, np.arange(13) / 25)


def write_packed(path, frames):
    plain = path.with_name("plain.avi")
    with av.open(str(plain), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.max_b_frames, stream.codec_context.gop_size = 1, 250
        # Always I, P, B, P, B ... in the order of the file.
        stream.options = {"qmin": "1", "qmax": "1", "b_strategy": "0", "sc_threshold": "1000000000"}
        for k in range(frames):
            picture = np.full((48, 64, 3), 8 * k, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(plain)) as container, av.open(str(path), "w") as out:
        source = container.streams.video[0]
        first, *others = [bytes(packet) for packet in container.demux(source) if packet.size]
        # Decoders recognize packed bitstreams by the encoder's name in the header.
        start = first.index(b"\0\0\1\xb6")
        chunks = [first[:start] + b"\0\0\1\xb2DivX503b1393p" + first[start:]]
        for predicted, between in zip(others[::2], others[1::2], strict=True):
            # P-frame, modulo_time_base 0, 5 bits of time, not coded; padded with 0111 1111.
            chunks += [predicted + between, b"\0\0\1\xb6" + bytes([0b01010000, 0b01001111])]
        stream = out.add_stream_from_template(source)
        for time, chunk in enumerate(chunks):
            packet = av.Packet(chunk)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = time
            packet.is_keyframe = time == 0
            out.mux(packet)


def test_frames_of_another_size_are_an_error(tmp_path):
    """Two concatenated transport streams are one stream whose frame size changes."""
    parts = [
        write_video(tmp_path / f"{k}.ts", frames=8, size=size).read_bytes()
        for k, size in enumerate([(48, 64), (32, 32)])
    ]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    assert len(read(path, range(8))) == 8
    with pytest.raises(
        VideoError, match=r"both\.ts: frame 9 is 32 x 32, but the first frame is 64 x 48"
    ):
        read(path, [9])


def test_the_cover_of_a_song_is_no_video(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuvj420p"
        stream.disposition = Disposition.attached_pic
        picture = np.zeros((32, 32, 3), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="no video stream"):
        read(path, [0])


def test_metadata_that_is_not_utf8(tmp_path):
    """As in HMDB51, whose titles have another encoding."""
    path = tmp_path / "titled.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "TITLE"
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        picture = np.full((32, 32, 3), 100, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    content = path.read_bytes()
    assert b"TITLE" in content
    path.write_bytes(content.replace(b"TITLE", b"T\xefTL\xe9"))
    with open_video(path) as video:
        assert video.num_frames == 1
