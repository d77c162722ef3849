"""Frames and windows of training views and of every test protocol, enumerated by hand."""

import numpy as np
import pytest

from jaxvideo.data import crops, views
from jaxvideo.types import BLACK, ConfigError, Preprocessing, Protocol, View, Window

PRE = Preprocessing(frames=8, stride=2, size=64, crop=56)


def test_every_view_of_a_protocol():
    """Ten clips spanning 15 of 100 frames, three crops along the longer side."""
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


def test_random_views_cover_every_place_and_stay_inside():
    rng = np.random.default_rng(0)
    starts, tops, lefts, heights = set(), set(), set(), set()
    for _ in range(600):
        view = views.random_view(20, 64, 70, 25.0, PRE, rng, crop=crops.RandomCrop((1.0, 1.25)))
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
        ({"width": 40}, "must be at least crop"),
        ({"fps": -1.0}, "fps"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be positive"),
        ({"modality": "depth"}, "modality='depth': allowed are rgb, rgb_diff"),
        ({"modality": "flow"}, "2 numbers each for modality='flow'"),
        ({"flow": "brox"}, "flow='brox': allowed are tvl1"),
        ({"segments": 3}, "segments=3 must divide frames=8"),
        ({"short": "mirror"}, "short='mirror': allowed are loop, hold, pad"),
        ({"short": "pad", "modality": "rgb_diff"}, "'pad' requires modality 'rgb'"),
    ],
)
def test_bad_preprocessing(change, text):
    with pytest.raises(ConfigError, match=text):
        Preprocessing(**{"frames": 8, "size": 64, "crop": 56, **change})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"clips": 0}, "clips=0"),
        ({"crops": 2}, "1, 3, 5, 10"),
        ({"starts": "begin"}, "ends, centers, parts, dense, windows"),
        ({"starts": "windows"}, "clips=10, starts='windows': clips must be 0"),
        ({"segments": -1}, "segments=-1"),
        ({"aggregation": "max"}, "softmax, sigmoid, logits"),
    ],
)
def test_bad_protocol(change, text):
    with pytest.raises(ConfigError, match=text):
        Protocol(**change)


def test_segments_and_centers_at_test():
    pre = Preprocessing(frames=3, segments=3, size=64, crop=56)
    ((view,),) = views.protocol_views(30, 64, 64, 25.0, pre, Protocol(clips=1))
    assert view.frames == (5, 15, 25)
    single = Protocol(clips=3, frames=1, segments=1, starts="centers")
    rows = views.protocol_views(31, 64, 64, 25.0, single.apply(pre), single)
    assert [row[0].frames for row in rows] == [(5,), (15,), (25,)]
    assert "centers of equal parts" in single.describe(pre)


def test_parts_never_touch_the_end():
    """SlowFast's code: clip i of 10 starts at i / 10 of the largest start."""
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


# By hand, for 100 frames and clips of 8 frames at stride 2, which span 15 frames (and fill 16).
STARTS = {
    "ends": (4, [0, 28, 56, 85]),  # thirds of 85
    "centers": (4, [10, 32, 53, 75]),  # 1, 3, 5 and 7 eighths of 86
    "parts": (4, [0, 21, 42, 63]),  # quarters of 85
    "dense": (4, [0, 28, 56, 84]),  # thirds of 84
    "windows": (0, [0, 16, 32, 48, 64, 80, 96]),
}
# (top, left) of crops of 112 x 112 in frames of 128 x 192: 16 and 80 pixels are free.
CROPS = {
    1: [(8, 40)],
    3: [(8, 0), (8, 40), (8, 80)],
    5: [(0, 0), (0, 80), (16, 0), (16, 80), (8, 40)],
    10: [(0, 0), (0, 80), (16, 0), (16, 80), (8, 40)] * 2,
}


@pytest.mark.parametrize("crops", CROPS)
@pytest.mark.parametrize("starts", STARTS)
def test_every_protocol_enumerated(starts, crops):
    clips, first = STARTS[starts]
    protocol = Protocol(clips, crops, starts=starts)
    rows = views.protocol_views(100, 128, 192, 25.0, PRE, protocol)
    expected = [tuple(range(start, start + 16, 2)) for start in first]
    if starts == "windows":
        expected[-1] = (96, 98) * 4  # the last 4 frames, repeated
    windows = [Window(top, left, 112, 112) for top, left in CROPS[crops]]
    mirrored = [crops == 10 and i >= 5 for i in range(crops)]
    assert rows == [
        [View(frames, *crop) for crop in zip(windows, mirrored, strict=True)] for frames in expected
    ]


def test_starts_and_crops_are_all_there_are():
    from jaxvideo import types

    assert tuple(STARTS) == types.STARTS
    for starts in STARTS:
        with pytest.raises(ConfigError, match="allowed are 1, 3, 5, 10"):
            Protocol(STARTS[starts][0], 7, starts=starts)


def test_dense_is_tsms():
    """8 frames at stride 8, windows of 64: starts are linspace(0, N - 64, 10) as integers."""
    pre, ten = Preprocessing(frames=8, stride=8, size=64, crop=64), Protocol(10, starts="dense")
    rows = views.protocol_views(300, 64, 64, 25.0, pre, ten)
    assert [row[0].frames[0] for row in rows] == np.linspace(0, 236, 10, dtype=int).tolist()
    rows = views.protocol_views(20, 64, 64, 25.0, pre, ten)
    assert [row[0].frames for row in rows] == [(0, 8, 16, 4, 12, 0, 8, 16)] * 10
    assert "10 clips x center crop of windows of 64 frames" in ten.describe(pre)


def test_windows_are_as_many_as_the_video_holds():
    pre, all_of_it = Preprocessing(frames=4, size=64, crop=64), Protocol(0, starts="windows")

    def frames(num_frames, pre=pre, fps=25.0):
        rows = views.protocol_views(num_frames, 64, 64, fps, pre, all_of_it)
        return [row[0].frames for row in rows]

    assert frames(8) == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert frames(9) == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 8, 8, 8)]
    assert frames(3) == [(0, 1, 2, 0)]
    hold = Preprocessing(frames=4, size=64, crop=64, short="hold")
    assert frames(6, hold) == [(0, 1, 2, 3), (4, 5, 5, 5)]
    pad = Preprocessing(frames=4, size=64, crop=64, short="pad")
    assert frames(6, pad) == [(0, 1, 2, 3), (4, 5, BLACK, BLACK)]
    slow = Preprocessing(frames=4, fps=12.5, size=64, crop=64)
    assert frames(11, slow) == [(0, 2, 4, 6), (8, 10, 8, 10)]
    difference = Preprocessing(frames=4, size=64, crop=64, modality="rgb_diff")
    assert frames(9, difference) == [(0, 1, 2, 3, 4), (4, 5, 6, 7, 8)]
    assert frames(10, difference) == [(0, 1, 2, 3, 4), (4, 5, 6, 7, 8), (8, 9, 8, 9, 8)]
    assert frames(1, difference) == [(0, 0, 0, 0, 0)]
    assert "all windows x center crop" in all_of_it.describe(pre)


@pytest.mark.parametrize("starts", ["dense", "windows"])
def test_segments_have_starts_of_their_own(starts):
    protocol = Protocol(int(starts == "dense"), starts=starts, segments=2)
    with pytest.raises(ConfigError, match=f"starts='{starts}', segments=2"):
        protocol.apply(PRE)


def test_what_fills_a_short_video():
    def frames(short):
        pre = Preprocessing(frames=8, stride=2, size=64, crop=56, short=short)
        ((view,),) = views.protocol_views(5, 64, 64, 25.0, pre, Protocol(clips=1))
        drawn = views.random_view(5, 64, 64, 25.0, pre, np.random.default_rng(0))
        assert drawn.frames == view.frames
        return view.frames

    assert frames("loop") == (0, 2, 4, 1, 3, 0, 2, 4)
    assert frames("hold") == (0, 2, 4, 4, 4, 4, 4, 4)
    assert frames("pad") == (0, 2, 4, *[BLACK] * 5)
    hold = Preprocessing(frames=8, size=64, crop=56, short="hold")
    assert "8 frames, last frame repeated" in Protocol().describe(hold)


# Ten frames from 0 to 1 s, five of them near the middle; the average rate is 9 fps.
TIMES = np.array([0, 0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.9, 1.0])


def test_times_decide_where_a_rate_is_asked_for():
    """Positions 0.2 s apart; each selects the last frame shown. The middle start is 2/9 s."""
    pre = Preprocessing(frames=4, stride=2, fps=10.0, size=64, crop=56)
    ((view,),) = views.protocol_views(10, 64, 64, 9.0, pre, Protocol(clips=1), times=TIMES)
    # 0.22, 0.42, 0.62 and 0.82 s.
    assert view.frames == (2, 5, 7, 7)
    rows = views.protocol_views(10, 64, 64, 9.0, pre, Protocol(clips=2), times=TIMES)
    # From 0 s: 0, 0.2, 0.4, 0.6. From 4/9 s: 0.44, 0.64, 0.84, and 1.04 in the last frame.
    assert [row[0].frames for row in rows] == [(0, 2, 5, 7), (5, 7, 7, 9)]


@pytest.mark.parametrize(
    ("short", "rest"), [("loop", (0, 2)), ("hold", (9, 9)), ("pad", (BLACK, BLACK))]
)
def test_times_of_a_video_that_is_too_short(short, rest):
    """The last frame ends at 10/9 s, so in the loop 1.2 and 1.4 s are 0.09 and 0.29 s."""
    pre = Preprocessing(frames=8, stride=2, fps=10.0, size=64, crop=56, short=short)
    ((view,),) = views.protocol_views(10, 64, 64, 9.0, pre, Protocol(clips=1), times=TIMES)
    assert view.frames == (0, 2, 5, 7, 7, 9, *rest)


def test_random_views_by_times():
    pre = Preprocessing(frames=4, stride=2, fps=10.0, size=64, crop=56)
    rng = np.random.default_rng(0)
    seen = {views.random_view(10, 64, 64, 9.0, pre, rng, times=TIMES).frames for _ in range(200)}
    # Starts at multiples of 1/9 s that leave 0.6 s: 0, 0.11, 0.22, 0.33, 0.44.
    assert seen == {(0, 2, 5, 7), (1, 3, 7, 7), (2, 5, 7, 7), (3, 7, 7, 8), (5, 7, 7, 9)}


@pytest.mark.parametrize("rate", [24.0, 25.0, 29.97, 30.0, 60.0])
@pytest.mark.parametrize("digits", [3, 9])
def test_times_of_a_constant_rate_change_nothing(rate, digits):
    """Also if the container stores milliseconds."""
    times = np.round(np.arange(250) / rate, digits)
    for fps in (None, 12.5, 15.0, 30.0):
        pre = Preprocessing(frames=16, stride=2, fps=fps, size=64, crop=56)
        for protocol in (Protocol(), Protocol(0, starts="windows")):
            with_times = views.protocol_views(250, 64, 64, rate, pre, protocol, times=times)
            assert with_times == views.protocol_views(250, 64, 64, rate, pre, protocol)


def test_times_in_milliseconds_lose_no_frame():
    """At 30 fps the third frame is shown at 0.067 s, and is still selected for 2/30 s."""
    times = np.append(np.round(np.arange(9) / 30, 3), 1.0)
    pre = Preprocessing(frames=9, fps=30.0, size=64, crop=56)
    rows = views.protocol_views(10, 64, 64, 9.0, pre, Protocol(clips=2), times=times)
    assert rows[0][0].frames == tuple(range(9))


def test_without_a_rate_times_do_not_matter():
    ((view,),) = views.protocol_views(10, 64, 64, 9.0, PRE, Protocol(clips=1), times=TIMES)
    assert view.frames == (0, 2, 4, 6, 8, 0, 2, 4)
