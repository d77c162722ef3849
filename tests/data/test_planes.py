"""Planes of the host, converted on the device, against FFmpeg's conversion on the host."""

import av
import jax
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from jaxvideo.data import planes
from jaxvideo.data.decode import cut, read_clip
from jaxvideo.data.packed.record import Packing, pack_video, record_video
from jaxvideo.data.pipeline import as_stored, read_views
from jaxvideo.data.video import open_video
from jaxvideo.inference.prepare import prepare, to_rgb
from jaxvideo.types import BLACK, Preprocessing, View, Window

SIZE = 48
WHOLE = View((0,), Window(0, 0, SIZE, SIZE))
MATRICES = {"unstated": 2, "bt709": 1, "fcc": 4, "bt601": 5, "ntsc": 6, "smpte240": 7, "bt2020": 9}
FORMATS = [
    "yuv420p",
    "yuvj420p",
    "yuv422p",
    "yuv444p",
    "yuv411p",
    "yuva420p",
    "yuv420p10le",
    "yuv422p12le",
    "yuv444p16le",
    "nv12",
    "gray",
    "gray10le",
    "rgb24",
    "gbrp",
    "bgra",
]


def chart(size: int = SIZE, cells: int = 3) -> np.ndarray:
    """Returns flat squares of random colors, uint8 RGB; a color fills whole pixels of chroma."""
    colors = np.random.default_rng(0).integers(30, 226, (cells, cells, 3)).astype(np.uint8)
    return np.kron(colors, np.ones((size // cells, size // cells, 1), np.uint8))


def frame_of(picture: np.ndarray, name: str, matrix: int = 2, full: bool = False) -> av.VideoFrame:
    """Returns the picture in a pixel format, with the stated matrix and range."""
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    frame = VideoReformatter().reformat(
        frame,
        format=name,
        dst_colorspace=matrix,
        dst_color_range="JPEG" if full else "MPEG",
    )
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    return frame


def converted(frame, view: View = WHOLE, size: int = SIZE) -> np.ndarray:
    cut = planes.cut_planes(frame, view, size, VideoReformatter())
    assert cut.shape == (planes.length(size),)
    return np.asarray(to_rgb(cut[None, None], size))[0, 0].astype(int)


def inside(picture: np.ndarray) -> np.ndarray:
    """Returns the middle of each square; chroma is interpolated at the edges."""
    cells = picture.reshape(3, SIZE // 3, 3, SIZE // 3, 3)
    return cells[:, 7:-7, :, 7:-7]


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_every_matrix_gives_the_colors_of_ffmpeg(matrix, full):
    frame = frame_of(chart(), "yuv444p", matrix, full)
    theirs = VideoReformatter().reformat(frame, format="rgb24").to_ndarray().astype(int)
    # FFmpeg rounds downwards.
    difference = inside(converted(frame)) - inside(theirs)
    assert abs(difference.mean()) < 1.1
    assert np.abs(difference).max() <= 3


@pytest.mark.parametrize("name", FORMATS)
def test_every_pixel_format_gives_the_colors_of_ffmpeg(name):
    frame = frame_of(chart(), name)
    theirs = VideoReformatter().reformat(frame, format="rgb24").to_ndarray().astype(int)
    assert np.abs(inside(converted(frame)) - inside(theirs)).max() <= 3


@pytest.mark.parametrize("size", [48, 47, 33, 32])
@pytest.mark.parametrize("window", [Window(0, 0, 96, 96), Window(5, 7, 81, 83)])
def test_scaled_windows_are_those_of_rgb(size, window):
    y, x = np.mgrid[:96, :97]
    smooth = np.stack([x * 2, y * 2, 255 - x - y], -1).clip(20, 235).astype(np.uint8)
    for mirrored in (False, True):
        view = View((0,), window, mirrored)
        frame = frame_of(smooth, "yuv420p")
        theirs = cut(VideoReformatter().reformat(frame, format="rgb24").to_ndarray(), view, size)
        difference = np.abs(converted(frame, view, size) - theirs.astype(int))
        assert difference.mean() < 2
        assert difference.max() <= 8


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Writes 12 frames whose gray level is their index, with a colored corner."""
    path = tmp_path_factory.mktemp("planes") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(12):
            picture = np.full((64, 96, 3), 20 * index, np.uint8)
            picture[:16, :16] = 200, 40, 90
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return str(path)


def rgb_of(clips: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(jax.jit(to_rgb, static_argnums=1)(clips, size)).astype(int)


def test_clips_of_a_file_and_of_its_shard(video):
    views = [View((3, 0, 3, 11), Window(0, 0, 64, 64), mirrored) for mirrored in (False, True)]
    with open_video(video) as file:
        rgb = read_clip(file, views, 32).astype(int)
        own = rgb_of(read_clip(file, views, 32, "yuv"), 32)
        record = pack_video(file, Packing(format="mp4", size=64, crf=1))
    assert np.abs(own - rgb).mean() < 2
    # The middle of each frame has its gray level.
    assert np.abs(own[0, :, 16, 16].mean(-1) - [60, 0, 60, 220]).max() <= 3
    np.testing.assert_array_equal(own[0], own[1][:, :, ::-1])
    shard = record_video(record, "shard")
    assert shard.planar
    packed = rgb_of(read_clip(shard, views, 32, "yuv"), 32)
    assert np.abs(packed - own).mean() < 2


def test_black_frames_are_black(video):
    p = Preprocessing(frames=3, crop=32, size=64, short="pad")
    with open_video(video) as file:
        clip = read_views(file, [View((11, BLACK, BLACK), Window(0, 0, 64, 64))], p)
    assert clip.shape == (1, *p.transfer_shape)
    shown = rgb_of(clip, 32)[0]
    assert not shown[1:].any()
    assert shown[0].mean() > 150


def test_arrays_stay_rgb():
    frames = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3)).astype(np.uint8)
    p = Preprocessing(frames=4, crop=40, size=40)
    with open_video(frames) as file:
        assert as_stored(file, p).pixels == "rgb"
        view = View((0, 1, 2, 3), Window(0, 0, 40, 40))
        np.testing.assert_array_equal(read_views(file, [view], as_stored(file, p))[0], frames)
        # In batches with other videos they become planes, at half the resolution of color.
        gray = np.broadcast_to(frames[..., :1], frames.shape)
        with open_video(np.ascontiguousarray(gray)) as other:
            own = rgb_of(read_views(other, [view], p), 40)[0]
    assert np.abs(own - gray).max() <= 1


def test_prepare_accepts_planes_and_rgb(video):
    p = Preprocessing(frames=2, crop=32, size=64, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    with open_video(video) as file:
        clip = read_views(file, [View((5, 6), Window(0, 0, 64, 64))], p)
    rgb = to_rgb(clip, 32)
    own, theirs = prepare(clip, p, np.float32), prepare(rgb, p, np.float32)
    np.testing.assert_array_equal(own, theirs)


def test_a_transfer_is_half_of_rgb():
    p = Preprocessing(frames=16, crop=112)
    assert np.prod(p.transfer_shape) < 0.501 * np.prod(p.video_shape)
