"""Flow on the host: methods, camera motion, quantization, and files beside the videos."""

import dataclasses
import functools
import sys

import av
import cv2
import numpy as np
import pytest

from jaxvideo.data.flow import (
    camera_motion,
    compensated,
    dequantize,
    host_flow,
    mirror,
    quantize,
    warped_flow,
)
from jaxvideo.data.flow_pictures import (
    color_wheel,
    flow_colors,
    pictures_info,
    write_colors,
    write_jpegs,
)
from jaxvideo.data.pipeline import read_views
from jaxvideo.data.stored_flow import (
    FlowInfo,
    describe_stored,
    find_flow,
    flow_path,
    open_flow,
    read_flow_clip,
    stored_info,
    write_flow,
)
from jaxvideo.data.video import open_video
from jaxvideo.types import (
    HOST_FLOWS,
    ConfigError,
    DataError,
    Preprocessing,
    VideoError,
    View,
    Window,
)
from tests.conftest import write_video

SIZE = (96, 120)
HAS_DUAL = hasattr(cv2, "optflow")


@functools.cache
def photograph():
    from skimage import data

    return data.astronaut()


def pan(dx, dy, frames=3, corner=(60, 170)):
    """Returns frames of a picture that moves by (dx, dy) pixels per frame."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    return np.stack(
        [
            cv2.remap(photograph(), x + corner[1] - t * dx, y + corner[0] - t * dy, cv2.INTER_CUBIC)
            for t in range(frames)
        ]
    )


def inner(flow, border=12):
    return flow[..., border:-border, border:-border, :]


# --- Methods --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", HOST_FLOWS)
def test_methods_find_a_translation(method):
    if method == "dualtvl1" and not HAS_DUAL:
        pytest.skip("OpenCV without its contributed modules")
    flow = host_flow(pan(2.0, -1.0), method)
    assert (flow.shape, flow.dtype) == ((2, *SIZE, 2), np.float32)
    np.testing.assert_allclose(np.median(inner(flow), (1, 2)), [[2, -1]] * 2, atol=0.15)


@pytest.mark.skipif(HAS_DUAL, reason="OpenCV has its contributed modules")
def test_dualtvl1_names_the_package():
    with pytest.raises(ConfigError, match=r"pip uninstall opencv-python-headless; pip install"):
        host_flow(pan(1.0, 0.0), "dualtvl1")


def test_wrong_input_is_named():
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    with pytest.raises(ConfigError, match=r"'brox'.*farneback"):
        host_flow(frames, "brox")
    with pytest.raises(DataError, match="at least 2 frames, not 1"):
        host_flow(frames[:1])
    with pytest.raises(DataError, match="float32"):
        host_flow(frames.astype(np.float32))
    with pytest.raises(DataError, match=r"\(2, 32, 32\)"):
        warped_flow(frames[..., 0])


# --- Camera motion --------------------------------------------------------------------------


def test_a_pan_of_the_camera_is_taken_out():
    frames = pan(3.0, -2.0)
    assert np.linalg.norm(np.median(inner(host_flow(frames)), (1, 2)), axis=-1).min() > 3
    assert np.abs(inner(warped_flow(frames))).mean() < 0.05


def test_what_moves_before_a_panning_camera_stays():
    frames = pan(3.0, -2.0, frames=2)
    patch = photograph()[300:340, 300:340]
    for t, left in enumerate([40, 44]):  # moves by (4, 0) in the frame
        frames[t, 30:70, left : left + 40] = patch
    seen = compensated(frames)[0][34:70, 43:79]  # and by (1, 2) relative to the background
    assert np.abs(seen.astype(int) - patch[2:38, 2:38]).mean() < 2
    still = compensated(frames)[0][40:60, 90:110].astype(int)
    assert np.abs(still - frames[0, 40:60, 90:110]).mean() < 2


def test_the_homography_is_from_a_frame_to_the_next():
    first, second = (cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in pan(3.0, -2.0, frames=2))
    motion = camera_motion(first, second)
    moved = motion @ [60, 48, 1]
    np.testing.assert_allclose(moved[:2] / moved[2], [63, 46], atol=0.05)


def test_nothing_to_follow_is_no_motion():
    rng = np.random.default_rng(0)
    flat = np.full((2, *SIZE, 3), 90, np.uint8)
    noise = rng.integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)  # unrelated frames, as at a cut
    for frames in (flat, noise):
        gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
        np.testing.assert_array_equal(camera_motion(*gray), np.eye(3))
        np.testing.assert_array_equal(compensated(frames), frames[1:])


def test_where_the_moved_frame_shows_nothing_it_stands_still():
    frames = pan(-9.0, 0.0, frames=2)
    frames[0, :, :4], frames[1, :, :4] = 10, 200
    # Warped back by +9: the 9 columns on the left are outside of the frame.
    np.testing.assert_array_equal(compensated(frames)[0][:, :4], frames[0][:, :4])


# --- Bytes ----------------------------------------------------------------------------------


def test_kinetics_mapping():
    flow = np.array([-31, -20, -19.95, -10, 0, 10, 19.93, 20, 99], np.float32)
    # (flow + 20) / 40 * 255: 0, 0, .32, 63.75, 127.5 (to even), 191.25, 254.55, 255, 255
    assert quantize(flow).tolist() == [0, 0, 0, 64, 128, 191, 255, 255, 255]
    assert quantize(np.array([-2.0, 1.0]), bound=2).tolist() == [0, 191]
    np.testing.assert_allclose(dequantize(np.array([0, 51, 255], np.uint8)), [-20, -12, 20])


def test_round_trips():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(quantize(dequantize(levels)), levels)
    flow = np.random.default_rng(0).uniform(-20, 20, 9999).astype(np.float32)
    error = np.abs(dequantize(quantize(flow)) - flow)
    assert 0.07 < error.max() <= 20 / 255 + 1e-5


def test_mirror_of_bytes():
    field = np.array([[[0, 7], [100, 8], [255, 9]]], np.uint8)
    assert mirror(field).tolist() == [[[0, 9], [155, 8], [255, 7]]]


def test_mirror_is_the_flow_of_mirrored_frames():
    frames = pan(3.0, -1.0)
    ours = mirror(quantize(host_flow(frames, "farneback")))
    theirs = quantize(host_flow(np.ascontiguousarray(frames[:, :, ::-1]), "farneback"))
    assert np.abs(inner(ours).astype(int) - inner(theirs)).mean() < 0.5  # of 255 levels
    assert np.median(inner(theirs)[..., 0]) == quantize(np.float32(-3.0))


# --- Files ----------------------------------------------------------------------------------

INFO = FlowInfo("dis", height=48, width=64)


def fields(count=30, size=(48, 64)):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, *size, 2), dtype=np.uint8)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("flow") / "clip.flow.mkv"
    write_flow(path, iter(fields()), 29.97, INFO)
    return path


def test_flow_path(tmp_path):
    assert flow_path(tmp_path / "a.b.mp4") == tmp_path / "a.b.flow.mkv"
    assert flow_path("clip.avi").name == "clip.flow.mkv"
    (tmp_path / "v_1.5x").mkdir()  # the name of a folder of frames has no ending
    assert flow_path(tmp_path / "v_1.5x") == tmp_path / "v_1.5x.flow.mkv"


@pytest.mark.parametrize("indices", [range(30), [29], [17, 3, 3, 28], [0]])
def test_every_byte_comes_back_in_any_order(stored, indices):
    """The center 48 x 48 at its own size is lossless, for all 256 levels."""
    got = read_flow_clip(stored, list(indices), Window(0, 8, 48, 48), 48)
    np.testing.assert_array_equal(got, fields()[list(indices), :, 8:56])
    assert len(np.unique(got)) == 256


def test_the_file_says_what_it_is(stored):
    with open_flow(stored) as (video, info):
        assert info == dataclasses.replace(INFO, size=48)
        assert (video.num_frames, video.height, video.width) == (30, 96, 64)
        assert len(video.keyframes) == 30
        assert video.seekable
        assert abs(video.fps - 29.97) < 0.02
    with av.open(str(stored)) as container:
        assert container.streams.video[0].codec_context.name == "ffv1"


def test_windows_are_of_the_video(tmp_path):
    """Flow is stored at half the video's height and a quarter of its width."""
    path = tmp_path / "small.flow.mkv"
    info = FlowInfo("tvl1", height=96, width=256)
    write_flow(path, fields(2), 25, info)
    got = read_flow_clip(path, [1], Window(20, 32, 64, 128), 32)
    np.testing.assert_array_equal(got[0], fields(2)[1, 10:42, 8:40])
    whole = read_flow_clip(path, [0], Window(0, 0, 96, 256), 24)[0]
    for plane in range(2):
        expected = cv2.resize(fields(2)[0, ..., plane], (24, 24), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(whole[..., plane], expected)
    corner = read_flow_clip(path, [0], Window(95, 255, 1, 1), 2)[0]
    np.testing.assert_array_equal(corner, np.broadcast_to(fields(2)[0, -1, -1], (2, 2, 2)))


@pytest.mark.parametrize(
    ("indices", "window", "message"),
    [
        ([0, 30], Window(0, 0, 48, 48), r"clip\.flow\.mkv.*0 to 29"),
        ([-1], Window(0, 0, 48, 48), r"clip\.flow\.mkv.*0 to 29"),
        ([], Window(0, 0, 48, 48), r"clip\.flow\.mkv"),
        ([0], Window(0, 17, 48, 48), r"clip\.flow\.mkv.*48 x 64"),
        ([0], Window(-1, 0, 8, 8), r"clip\.flow\.mkv.*top=-1"),
    ],
)
def test_what_is_not_there_is_named(stored, indices, window, message):
    with pytest.raises(VideoError, match=message):
        read_flow_clip(stored, indices, window, 16)


def test_flow_images_beside_frames(tmp_path):
    """The layout of mmaction2 and TSN; PNG is lossless, so the values must be equal."""
    folder = tmp_path / "run"
    folder.mkdir()
    expected = fields(3)
    for k in range(4):
        cv2.imwrite(str(folder / f"img_{k + 1:05}.jpg"), np.zeros((96, 128, 3), np.uint8))
    for k, field in enumerate(expected):
        for axis in range(2):
            cv2.imwrite(str(folder / f"flow_{'xy'[axis]}_{k + 1:05}.png"), field[..., axis])
    assert find_flow(folder) == folder
    assert stored_info(folder) == FlowInfo("flow images", 96, 128, size=48)
    # Flow of 48 x 64; the window is of the frames, twice as large.
    got = read_flow_clip(folder, [2, 0], Window(0, 16, 96, 96), 48)
    np.testing.assert_array_equal(got, expected[[2, 0], :, 8:56])
    pre = Preprocessing(
        frames=3, size=48, crop=48, modality="flow", flow="stored", mean=(0, 0), std=(1, 1)
    )
    with open_video(folder) as video:
        views = read_views(video, [View((0, 1, 2, 3), Window(0, 16, 96, 96))], pre)
    np.testing.assert_array_equal(views[0], expected[:, :, 8:56])
    assert describe_stored([str(folder)]) == "flow images, stored at short side 48"
    write_flow(flow_path(folder), expected, 25, INFO)  # takes precedence
    assert find_flow(folder) == flow_path(folder)
    flow_path(folder).unlink()
    (folder / "flow_y_00003.png").unlink()
    with pytest.raises(VideoError, match="run: has 3 images of x flow and 2 of y flow"):
        read_flow_clip(folder, [0], Window(0, 0, 96, 96), 48)


@pytest.mark.parametrize("kind", ["missing", "text", "a plain video", "a folder", "another tag"])
def test_a_file_without_flow_is_named(tmp_path, kind, stored):
    path = tmp_path / "bad.flow.mkv"
    if kind == "text":
        path.write_text("no flow\n" * 99)
    elif kind == "a plain video":
        write_video(path)
    elif kind == "a folder":
        path.mkdir()
        cv2.imwrite(str(path / "1.png"), np.zeros((8, 8, 3), np.uint8))
    elif kind == "another tag":
        data = stored.read_bytes()
        assert b'{"method"' in data
        path.write_bytes(data.replace(b'{"method"', b'["method"'))
    with pytest.raises(VideoError, match=r"bad\.flow\.mkv"):
        read_flow_clip(path, [0], Window(0, 0, 8, 8), 8)


def test_a_file_cut_short_has_the_fields_before_the_cut(tmp_path, stored):
    path = tmp_path / "cut.flow.mkv"
    path.write_bytes(stored.read_bytes()[: stored.stat().st_size // 2])
    got = read_flow_clip(path, [9], Window(0, 8, 48, 48), 48)
    np.testing.assert_array_equal(got[0], fields()[9, :, 8:56])
    with pytest.raises(VideoError, match=r"cut\.flow\.mkv"):
        read_flow_clip(path, [29], Window(0, 8, 48, 48), 48)


def breaks():
    yield fields()[0]
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ([], DataError, "no field"),
        ([fields()[0], fields(1, (48, 62))[0]], DataError, r"field 1 is \(48, 62, 2\)"),
        ([fields()[0].astype(np.float32)], DataError, "float32"),
        ([fields()[0][..., 0]], DataError, r"\(48, 64\)"),
        (breaks(), KeyboardInterrupt, None),
    ],
)
def test_a_file_appears_whole_or_not_at_all(tmp_path, bad, error, message):
    path = tmp_path / "x.flow.mkv"
    with pytest.raises(error, match=message):
        write_flow(path, bad, 25, INFO)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.x\.flow\.mkv"):
        write_flow(tmp_path / "nowhere/x.flow.mkv", fields(1), 25, INFO)


def test_host_side_needs_no_jax():
    import subprocess

    program = "import sys, jaxvideo.data.flow; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


# --- Pictures -------------------------------------------------------------------------------


def test_colors_of_the_middlebury_wheel():
    """Values of `torchvision.utils.flow_to_image`; 55 hues from red over yellow and so on."""
    wheel = color_wheel()
    assert wheel.shape == (55, 3)
    pure = [[255, 0, 0], [255, 255, 0], [0, 255, 0], [0, 255, 255], [0, 0, 255], [255, 0, 255]]
    assert wheel[[0, 15, 21, 25, 36, 49]].tolist() == pure
    right_down_left_up = np.float32([[[1, 0], [0, 1], [-1, 0], [0, -1]]])
    expected = [[[255, 0, 0], [255, 229, 0], [0, 209, 255], [88, 0, 255]]]
    assert flow_colors(right_down_left_up).tolist() == expected
    # Half the speed is half the saturation; no motion is white; faster motion has the same color.
    slow = flow_colors(np.float32([[[2, 0], [1, 0], [0, 0], [9, 0]]]), largest=2)
    assert slow.tolist() == [[[255, 0, 0], [255, 127, 127], [255, 255, 255], [255, 0, 0]]]
    with pytest.raises(DataError, match=r"shape \(4, 3\)"):
        flow_colors(np.zeros((4, 3)))


@pytest.mark.torch
def test_colors_as_in_torchvision():
    torch = pytest.importorskip("torch")
    from jaxvideo.weights import reference

    try:
        convert = reference.torchvision().utils.flow_to_image
    except (ImportError, AttributeError):
        pytest.skip("needs torchvision, installed with --no-deps")
    field = np.random.default_rng(0).normal(size=(20, 30, 2)).astype(np.float32) * 4
    expected = convert(torch.tensor(field).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(flow_colors(field), expected)


def test_still_frames_are_white(tmp_path, capfd):
    """Level 128 is 0.08 pixels, but stands for no motion."""
    field = np.full((2, 16, 20, 2), 128, np.uint8)
    field[1, :8, :, 0] = 255
    write_colors(tmp_path / "v", field, FlowInfo("dis", 16, 20, size=16))
    assert pictures_info(tmp_path / "v") == FlowInfo("dis", 16, 20, size=16)
    first, second = (cv2.imread(str(tmp_path / "v" / f"flow_{n:05}.png")) for n in (1, 2))
    assert first.min() == 255
    assert second[0, 0].tolist() == [0, 0, 255]  # BGR
    assert second[-1].min() == 255
    assert pictures_info(tmp_path / "none") is None
    write_jpegs(tmp_path / "w", field, FlowInfo("dis", 16, 20, size=16))
    assert capfd.readouterr() == ("", "")  # OpenCV warns about options that it ignores


def test_files_without_a_recorded_size(tmp_path):
    """Flow of older versions: the size is that of the fields."""
    fields = np.full((2, 24, 32, 2), 128, np.uint8)
    path = tmp_path / "v.flow.mkv"
    write_flow(path, fields, 25.0, FlowInfo("tvl1", 48, 64))
    assert stored_info(path) == FlowInfo("tvl1", 48, 64, size=24)
    write_flow(path, fields, 25.0, FlowInfo("tvl1", 48, 64, size=24))
    assert stored_info(path).settings == "tvl1, stored at short side 24"
    # A video of 16 rows, smaller than the size, belongs to the same settings.
    write_flow(tmp_path / "w.flow.mkv", fields[:, :16], 25.0, FlowInfo("tvl1", 16, 64))
    videos = [str(tmp_path / f"{name}.mp4") for name in "vw"]
    assert describe_stored(videos) == "tvl1, stored at short side 24"
    write_flow(tmp_path / "w.flow.mkv", fields[:, :16], 25.0, FlowInfo("tvl1", 48, 64))
    with pytest.raises(DataError, match=r"short side 16; .* has tvl1, stored at short side 24"):
        describe_stored(videos)
