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
        ({"modality": "depth"}, "modality='depth': allowed are rgb, rgb_diff"),
        ({"modality": "flow"}, "2 numbers each for 'flow'"),
        ({"flow": "brox"}, "flow='brox': allowed are tvl1"),
        ({"segments": 3}, "segments=3 must divide frames=8"),
    ],
)
def test_bad_preprocessing(change, text):
    with pytest.raises(ConfigError, match=text):
        Preprocessing(**{"frames": 8, "size": 64, "crop": 56, **change})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"clips": 0}, "clips=0"),
        ({"crops": 2}, "1, 3, 5 and 10"),
        ({"starts": "begin"}, "ends, centres, parts"),
        ({"segments": -1}, "segments=-1"),
        ({"aggregation": "max"}, "softmax"),
    ],
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


def test_tsn_crops():
    """Height and width out of {256, 224, 192, 168}, at most a step apart, at 13 places."""
    pre = Preprocessing(frames=1, size=256, crop=224)
    crop = views.RandomCrop(ratios=(1.0, 0.875, 0.75, 0.65625), positions="thirteen")
    rng = np.random.default_rng(0)
    seen = {views.random_view(1, 256, 340, 25.0, pre, rng, crop=crop).window for _ in range(4000)}
    sides = [256, 224, 192, 168]
    pairs = {(a, b) for i, a in enumerate(sides) for b in sides[max(i - 1, 0) : i + 2]}
    assert {(w.height, w.width) for w in seen} == pairs
    places = {(w.top, w.left) for w in seen if (w.height, w.width) == (192, 192)}
    grid = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (0, 2), (4, 2), (2, 0), (2, 4)]
    grid += [(1, 1), (1, 3), (3, 1), (3, 3)]
    assert places == {(16 * down, 37 * across) for down, across in grid}


def test_segments_of_training():
    """TSN: a snippet of 2 frames out of each third of 20 frames, one random start in each."""
    pre = Preprocessing(frames=6, segments=3, size=64, crop=56)
    rng = np.random.default_rng(0)
    starts = [set(), set(), set()]
    for _ in range(300):
        frames = views.random_view(20, 64, 64, 25.0, pre, rng).frames
        assert frames[1::2] == tuple(f + 1 for f in frames[::2])
        for seen, start in zip(starts, frames[::2], strict=True):
            seen.add(start)
    # 19 possible starts are 3 parts of 6.
    assert starts == [set(range(6)), set(range(6, 12)), set(range(12, 18))]
    few = views.random_view(3, 64, 64, 25.0, pre, rng).frames
    assert list(few[::2]) == sorted(few[::2])
    assert max(few) < 3


def test_segments_and_centres_at_test():
    pre = Preprocessing(frames=3, segments=3, size=64, crop=56)
    ((view,),) = views.protocol_views(30, 64, 64, 25.0, pre, Protocol(clips=1))
    assert view.frames == (5, 15, 25)
    single = Protocol(clips=3, frames=1, segments=1, starts="centres")
    rows = views.protocol_views(31, 64, 64, 25.0, single.apply(pre), single)
    assert [row[0].frames for row in rows] == [(5,), (15,), (25,)]
    assert "centres of equal parts" in single.describe(pre)


def test_parts_never_touch_the_end():
    """SlowFast's code: clip i of 10 starts at i tenths of what the clip leaves."""
    pre, ten = Preprocessing(frames=8, stride=8, size=64, crop=64), Protocol(10, 3, starts="parts")
    rows = views.protocol_views(300, 64, 80, 30.0, pre, ten)
    assert [row[0].frames[0] for row in rows] == [i * 243 // 10 for i in range(10)]
    assert [view.window.left for view in rows[0]] == [0, 8, 16]
    (one,) = views.protocol_views(300, 64, 80, 30.0, pre, Protocol(1, starts="parts"))
    assert one[0].frames[0] == 0


def test_motion_needs_one_frame_more():
    channels = {"mean": (0.0, 0.0), "std": (1.0, 1.0)}
    pre = Preprocessing(frames=4, segments=2, size=64, crop=56, modality="flow", **channels)
    assert pre.video_shape == (6, 56, 56, 3)
    assert pre.shape == (4, 56, 56, 2)
    ((view,),) = views.protocol_views(13, 64, 64, 25.0, pre, Protocol(clips=1))
    assert view.frames == (2, 3, 4, 8, 9, 10)


def test_ten_crops():
    rows = views.protocol_views(8, 64, 96, 25.0, PRE, Protocol(clips=1, crops=10))
    places = [(0, 0), (0, 40), (8, 0), (8, 40), (4, 20)]
    windows = [Window(top, left, 56, 56) for top, left in places]
    assert [view.window for view in rows[0]] == windows * 2
    assert [view.mirrored for view in rows[0]] == [False] * 5 + [True] * 5
    five = views.protocol_views(8, 64, 96, 25.0, PRE, Protocol(clips=1, crops=5))
    assert five[0] == rows[0][:5]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"ratios": (1.5,)}, "augment.ratios="),
        ({"ratios": (0.5,), "scales": (1.0, 2.0)}, "one of the two"),
        ({"scales": (0.5, 1.0)}, "augment.scales="),
        ({"scales": (1.0,)}, "augment.scales=.*two factors"),
        ({"scale_steps": 1}, "augment.scale_steps=1"),
        ({"positions": "ten"}, "augment.positions='ten'"),
    ],
)
def test_wrong_crops(fields, text):
    with pytest.raises(ConfigError, match=text):
        views.RandomCrop(**fields)
