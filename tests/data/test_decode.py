"""Frame k of a clip is frame k of the file, whatever the file's kind."""

import dataclasses

import av
import numpy as np
import pytest

from jaxvideo.data import decode
from jaxvideo.data.decode import open_video, read_clip
from jaxvideo.types import VideoError, View, Window
from tests.conftest import write_video

# Also with the newest PyAV.
pytestmark = pytest.mark.fast


def read(path, indices, size=16):
    with open_video(path) as video:
        view = View(tuple(indices), Window(0, 0, video.height, video.width))
        return read_clip(video, [view], size)[0]


def levels(clip):
    """Grey level in the lower right quarter, which tells the frame."""
    return clip[:, 12:, 12:].mean((1, 2, 3))


def sequential(path):
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]


KINDS = {
    "gop-12": {},
    "one-key-frame": {"gop": 250},
    "every-frame-a-key": {"gop": 1},
    "b-frames": {"b_frames": 2},
    "variable-rate": {"pts": [k + k // 3 + (k > 20) * 7 for k in range(30)]},
    "mpeg4": {"codec": "mpeg4"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "indices", [range(30), range(9, 25), [0, 29], [28], [13, 14, 27], [3, 3, 4], [20, 25, 0, 5]]
)
def test_exactly_the_frames_asked_for(tmp_path, kind, indices):
    suffix = "avi" if kind == "mpeg4" else "mp4"
    path = write_video(tmp_path / f"v.{suffix}", **KINDS[kind])
    with open_video(path) as video:
        assert video.num_frames == 30
    expected = [8 * k for k in indices]
    np.testing.assert_allclose(levels(read(path, indices)), expected, atol=3)


def test_only_needed_frames_are_decoded(tmp_path):
    """A seek goes to the key frame before, and none is made where decoding on is shorter."""
    path = write_video(tmp_path / "v.mp4", frames=60, gop=10)
    decoded = []
    with open_video(path) as video:
        original = video.container.decode

        def counting(stream):
            for frame in original(stream):
                decoded.append(int(np.searchsorted(video.pts, frame.pts)))
                yield frame

        class Container:
            seek = staticmethod(video.container.seek)
            decode = staticmethod(counting)

        counted = dataclasses.replace(video, container=Container)
        got = [index for index, _ in decode._decode(counted, [2, 4, 37])]
    assert got == [2, 4, 37]
    key = max(k for k in video.keyframes if k <= 37)
    assert key > 5
    assert decoded == [0, 1, 2, 3, 4, *range(key, 38)]


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
    """Random content and B-frames: every frame against the decoder run from the start."""
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


def test_metadata_that_is_not_utf8(tmp_path):
    """As HMDB51's, whose titles are of another encoding."""
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
