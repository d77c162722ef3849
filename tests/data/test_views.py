import numpy as np
import pytest

from jaxvideo.data import views
from jaxvideo.types import ConfigError, Preprocessing, Protocol, Window

pytestmark = pytest.mark.fast

PRE = Preprocessing(frames=8, stride=2, size=64, crop=56)


def test_every_view_of_a_protocol():
    """Ten clips of 15 frames in 100, three crops along the longer side, each view spelled out."""
    rows = views.protocol_views(100, 128, 192, 25.0, PRE, Protocol(clips=10, crops=3))
    starts = [i * 85 // 9 for i in range(10)]
    assert [row[0].frames for row in rows] == [tuple(range(s, s + 16, 2)) for s in starts]
    assert starts[0] == 0
    assert rows[-1][0].frames[-1] == 99
    windows = [Window(8, left, 112, 112) for left in (0, 40, 80)]
    assert all([view.window for view in row] == windows for row in rows)


def test_one_clip_is_the_middle_one():
    ((view,),) = views.protocol_views(100, 64, 64, 25.0, PRE, Protocol(clips=1))
    assert view.frames[0] == 42
    assert view.window == Window(4, 4, 56, 56)


def test_portrait_crops_run_down():
    rows = views.protocol_views(20, 192, 128, 25.0, PRE, Protocol(clips=1, crops=3))
    assert [view.window.top for view in rows[0]] == [0, 40, 80]


def test_short_videos_loop():
    ((view,),) = views.protocol_views(5, 64, 64, 25.0, PRE, Protocol(clips=1))
    assert view.frames == (0, 2, 4, 1, 3, 0, 2, 4)


def test_fps_counts_time_not_frames():
    pre = Preprocessing(frames=4, stride=1, fps=12.5, size=64, crop=56)
    ((view,),) = views.protocol_views(7, 64, 64, 25.0, pre, Protocol(clips=1))
    assert view.frames == (0, 2, 4, 6)
    pre = Preprocessing(frames=4, stride=1, fps=25.0, size=64, crop=56)
    ((view,),) = views.protocol_views(3, 64, 64, 12.5, pre, Protocol(clips=1))
    assert view.frames == (0, 0, 1, 1)


def test_aspect_is_not_kept_for_two_sides():
    pre = Preprocessing(frames=1, size=128, width=171, crop=112)
    assert views.window_size(256, 340, pre) == (224, 223)


def test_random_views_cover_every_place_and_stay_inside():
    rng = np.random.default_rng(0)
    starts, tops, lefts, heights = set(), set(), set(), set()
    for _ in range(600):
        view = views.random_view(20, 64, 70, 25.0, PRE, rng, crop=views.RandomCrop((1.0, 1.25)))
        w = view.window
        assert 0 <= w.top <= 64 - w.height
        assert 0 <= w.left <= 70 - w.width
        assert max(view.frames) < 20
        starts.add(view.frames[0])
        heights.add(w.height)
        tops.add(w.top)
        lefts.add(w.left)
    assert starts == set(range(6))
    assert min(heights) == 45
    assert max(heights) == 56
    assert 0 in tops
    assert 0 in lefts
    assert len(lefts) > 14


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"frames": 0}, "frames=0"),
        ({"size": 40}, "size=40"),
        ({"width": 40}, "at least the crop"),
        ({"fps": -1.0}, "fps"),
        ({"std": (1.0, 0.0, 1.0)}, "positive std"),
    ],
)
def test_bad_preprocessing(change, text):
    with pytest.raises(ConfigError, match=text):
        Preprocessing(**{"frames": 8, "size": 64, "crop": 56, **change})


@pytest.mark.parametrize(
    ("change", "text"),
    [({"clips": 0}, "clips=0"), ({"crops": 2}, "1 and 3"), ({"aggregation": "max"}, "softmax")],
)
def test_bad_protocol(change, text):
    with pytest.raises(ConfigError, match=text):
        Protocol(**change)


def test_five_positions_and_five_scales():
    """3D ResNet's crops: short side times 2^(-k/4), in a corner or in the middle."""
    pre = Preprocessing(frames=1, size=112, crop=112)
    crop = views.RandomCrop((1.0, 2.0), scale_steps=5, positions="five")
    rng = np.random.default_rng(0)
    seen = {views.random_view(1, 240, 320, 25.0, pre, rng, crop=crop).window for _ in range(900)}
    sides = [round(240 * 2 ** (-k / 4)) for k in range(5)]
    expected = set()
    for side in sides:
        y, x = 240 - side, 320 - side
        places = [(0, 0), (0, x), (y, 0), (y, x), (y // 2, x // 2)]
        expected |= {Window(top, left, side, side) for top, left in places}
    assert seen == expected


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"scales": (0.5, 1.0)}, "augment.scales="),
        ({"scales": (1.0,)}, "augment.scales=.*two factors"),
        ({"scale_steps": 1}, "augment.scale_steps=1"),
        ({"positions": "ten"}, "augment.positions='ten'"),
    ],
)
def test_wrong_crops(fields, text):
    with pytest.raises(ConfigError, match=text):
        views.RandomCrop(**fields)
