"""Each row of the table of samplers, and one that a program adds."""

import dataclasses

import numpy as np
import pytest

from jaxvideo.data import samplers, views
from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.loading import Loading
from jaxvideo.data.pipeline import train_batches
from jaxvideo.data.samplers import SAMPLERS, find_sampler
from jaxvideo.models import list_models, model_entry
from jaxvideo.training.config import read_config
from jaxvideo.training.schema import Augment
from jaxvideo.types import ConfigError, Preprocessing, Protocol
from jaxvideo.weights.sources import find_source
from tests.conftest import write_video

ONE = Preprocessing(frames=4, stride=2, size=64, crop=56)
THREE = Preprocessing(frames=6, segments=3, size=64, crop=56)
#: TSM: 8 frames at stride 8 are a window of 64 frames.
TSM = Preprocessing(frames=8, stride=8, size=64, crop=64)


def frames(name, preprocessing, num_frames, fps=25.0, draws=400):
    """All clips that a sampler draws, sorted."""
    rng, sampler = np.random.default_rng(0), find_sampler(name, preprocessing)
    how = {"sampler": sampler}
    return sorted(
        {
            views.random_view(num_frames, 64, 64, fps, preprocessing, rng, **how).frames
            for _ in range(draws)
        }
    )


@pytest.fixture
def added():
    """The table, with the rows that a test adds removed afterwards."""
    before = dict(SAMPLERS)
    yield SAMPLERS
    SAMPLERS.clear()
    SAMPLERS.update(before)


def test_random_draws_every_start_at_which_the_clip_fits():
    """Four frames at stride 2 span 7 of 10 frames: starts 0 to 3."""
    assert frames("random", ONE, 10) == [tuple(range(s, s + 8, 2)) for s in range(4)]


def test_segments_draws_one_snippet_in_each_third():
    """Snippets of 2 frames in 10 frames: 9 starts, three in each third."""
    drawn = frames("segments", THREE, 10, draws=2000)
    starts = [(a, b, c) for a in (0, 1, 2) for b in (3, 4, 5) for c in (6, 7, 8)]
    assert drawn == [tuple(f for s in three for f in (s, s + 1)) for three in starts]


def test_dense_draws_windows_of_frames_times_stride():
    """Windows of 64 frames in 70: starts 0 to 6, those of the test protocol "dense"."""
    drawn = frames("dense", TSM, 70)
    assert drawn == [tuple(range(s, s + 64, 8)) for s in range(7)]
    protocol = Protocol(clips=7, starts="dense")
    tested = views.protocol_views(70, 64, 64, 25.0, TSM, protocol)
    assert [crops[0].frames for crops in tested] == drawn
    # "random" needs only the 57 frames from the first to the last one.
    assert [clip[0] for clip in frames("random", TSM, 70)] == list(range(14))


def test_dense_counts_in_the_frame_rate_of_the_preprocessing():
    """At 25 fps, 4 frames at stride 2 of 12.5 fps are a window of 16 frames."""
    slow = Preprocessing(frames=4, stride=2, fps=12.5, size=64, crop=56)
    assert frames("dense", slow, 18) == [tuple(range(s, s + 16, 4)) for s in range(3)]


@pytest.mark.parametrize(
    ("short", "rest"), [("loop", (4, 12, 0, 8, 16)), ("hold", (19,) * 5), ("pad", (-1,) * 5)]
)
def test_dense_pads_a_short_video(short, rest):
    """Looped, this is TSM's `(start + i * 8) % num_frames`."""
    padded = Preprocessing(frames=8, stride=8, size=64, crop=64, short=short)
    assert frames("dense", padded, 20) == [(0, 8, 16, *rest)]


@pytest.mark.parametrize(("preprocessing", "name"), [(ONE, "random"), (THREE, "segments")])
def test_the_default_follows_the_preprocessing(preprocessing, name):
    assert find_sampler("", preprocessing) is SAMPLERS[name]
    assert frames("", preprocessing, 30) == frames(name, preprocessing, 30)


def test_one_segment_is_random():
    """`segments` with one segment consumes the same random numbers as `random`."""
    assert frames("segments", ONE, 30, draws=9) == frames("random", ONE, 30, draws=9)


@pytest.mark.parametrize("name", ["random", "dense"])
def test_samplers_of_one_segment_reject_several(name):
    with pytest.raises(ConfigError, match=rf"'{name}' returned 2 positions.*segments=3.* needs 6"):
        find_sampler(name, THREE)


def test_an_unknown_name_lists_the_table():
    message = rf"augment\.sampler='tsn': allowed are '' .*, {', '.join(SAMPLERS)}"
    with pytest.raises(ConfigError, match=message):
        find_sampler("tsn", ONE)
    with pytest.raises(ConfigError, match=message):
        read_config({"model": {"name": "c3d"}, "augment": {"sampler": "tsn"}})
    assert Augment().sampler == ""


def last(num_frames, step, preprocessing, rng):
    """The last frames of a video, backwards."""
    return [num_frames - 1 - i * step for i in range(preprocessing.snippet)]


def test_a_program_adds_a_sampler(added, tmp_path):
    """It is found by name, drawn from, and used in loader threads and processes alike."""
    added["last"] = last
    assert Augment(sampler="last").sampler == "last"
    assert frames("last", ONE, 10) == [(9, 7, 5, 3)]
    data = VideoDataset((str(write_video(tmp_path / "a.mp4", frames=12)),), (0,), ("a",))
    pre = Preprocessing(frames=3, size=48, crop=48, pixels="rgb")
    for loading in (Loading(), Loading(workers=1)):
        (batch,) = train_batches(
            data, pre, batch_size=1, seed=0, last_batch=1, sampler="last", loading=loading
        )
        levels = batch["video"][0, :, 30:, 30:].mean((1, 2, 3))
        np.testing.assert_allclose(levels, [88, 80, 72], atol=2)


def test_a_sampler_that_returns_too_few_positions(added):
    added["two"] = lambda num_frames, step, preprocessing, rng: [0, 1]
    with pytest.raises(ConfigError, match=r"returned 2 positions.*frames=4.* needs 4"):
        find_sampler("two", ONE)
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="returned 2 positions"):
        views.random_view(20, 64, 64, 25.0, ONE, rng, sampler=added["two"])


def test_a_sampler_that_returns_a_negative_position(added):
    added["early"] = lambda num_frames, step, preprocessing, rng: [-1, 0, 1, 2]
    with pytest.raises(ConfigError, match=r"position -1 for a video of 1000 .* at least 0"):
        find_sampler("early", ONE)


def test_starts():
    """Computed by hand: 8 frames at distance 2 span 15 frames and fill 16."""
    assert samplers.last_start(100, 8, 2.0) == 85
    assert samplers.last_dense_start(100, 8, 2.0) == 84
    assert samplers.last_start(14, 8, 2.0) == samplers.last_dense_start(15, 8, 2.0) == 0


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


# --- Spacing of PySlowFast and pytorchvideo ------------------------------------------------


def pyslowfast(num_frames, p, fps, start):
    """`temporal_sampling` of PySlowFast's decoder, on all frames of a video."""
    torch = pytest.importorskip("torch")
    last = start + p.frames * p.stride * fps / p.fps - 1
    return tuple(torch.linspace(start, last, p.frames).clamp(0, num_frames - 1).long().tolist())


#: The networks of PySlowFast: frames, stride, and the first and the last of ten clips in 300 frames
#: at 30 fps.
PYSLOWFAST = {
    "slow_r50": ((0, 9, 18, 27, 36, 45, 54, 63), (212, 221, 230, 239, 248, 257, 266, 275)),
    "slow_4x16_r50": ((0, 21, 42, 63), (212, 233, 254, 275)),
    "x3d_xs": ((0, 15, 31, 47), (226, 242, 258, 273)),
    "x3d_s": (
        (0, 6, 12, 19, 25, 32, 38, 44, 51, 57, 64, 70, 77),
        (199, 206, 212, 219, 225, 231, 238, 244, 251, 257, 263, 270, 276),
    ),
    "x3d_m": (
        (0, 5, 10, 15, 21, 26, 31, 36, 42, 47, 52, 57, 63, 68, 73, 79),
        (198, 203, 208, 213, 219, 224, 229, 234, 240, 245, 250, 255, 261, 266, 271, 277),
    ),
}


@pytest.mark.parametrize("name", PYSLOWFAST)
def test_the_clips_of_pyslowfast(name):
    p = model_entry(name).preprocessing
    clips = views.protocol_views(300, 300, 400, 30.0, p, Protocol(10, starts="parts"))
    assert (clips[0][0].frames, clips[9][0].frames) == PYSLOWFAST[name]


@pytest.mark.parametrize("fps", [30.0, 25.0, 29.97, 15.0, 60.0])
def test_every_clip_equals_that_of_pyslowfast(fps):
    """Also for short videos, which repeat their last frame."""
    for frames, stride in ((8, 8), (4, 16), (32, 2), (4, 12), (13, 6), (16, 5), (1, 1)):
        p = Preprocessing(frames, stride, 30.0, 64, crop=64, short="hold", spacing="linspace")
        for num_frames in (5, 47, 65, 137, 250, 251, 299, 300, 301, 1000):
            for count in (1, 3, 10):
                protocol = Protocol(count, starts="parts")
                clips = views.protocol_views(num_frames, 64, 64, fps, p, protocol)
                free = max(num_frames - frames * stride * fps / 30, 0)
                for i, (view,) in enumerate(clips):
                    assert view.frames == pyslowfast(num_frames, p, fps, free * i / count)


def test_training_clips_of_pyslowfast():
    """The start is uniform and not rounded: `random.uniform(0, delta)`."""
    p = model_entry("slow_r50").preprocessing
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    for num_frames in (300, 70, 30):
        for _ in range(50):
            found = views.random_view(num_frames, 300, 400, 25.0, p, rng).frames
            start = same.uniform(0, max(num_frames - 64 * 25 / 30, 0))
            same.integers(77, size=2)  # position of the crop
            assert found == pyslowfast(num_frames, p, 25.0, start)
            rng, same = (np.random.default_rng(len(found) + num_frames) for _ in range(2))
    # Frames 9 apart, but 8 with the spacing of most libraries.
    steps = {int(np.diff(clip).max()) for clip in frames("random", p, 300, fps=30.0)}
    assert steps == {9}
    even = dataclasses.replace(p, spacing="stride")
    assert {int(np.diff(clip).max()) for clip in frames("random", even, 300, fps=30.0)} == {8}


def test_the_clips_of_pytorchvideo():
    """`uniform_temporal_subsample` of the 80 frames of a clip that begins at a frame."""
    torch = pytest.importorskip("torch")
    p = model_entry("x3d_m").preprocessing
    clips = views.protocol_views(280, 300, 400, 30.0, p, Protocol(10, starts="parts"))
    for i, (view,) in enumerate(clips):
        first = 20 * i  # (280 - 80) / 10
        inside = torch.linspace(0, 79, 16).clamp(0, 79).long()
        assert view.frames == tuple((first + inside).tolist())


def test_which_networks_have_this_spacing():
    """Those of PySlowFast and pytorchvideo. Other libraries take frames `stride` apart."""
    spaced = {name for name in list_models() if model_entry(name).preprocessing.spacing != "stride"}
    assert {name.partition("_")[0] for name in spaced} == {
        *("slow", "slowfast", "fast", "x3d", "x2d", "c2d", "i3d", "r2plus1d")
    }
    assert "i3d_rgb" not in spaced
    assert {name for name in spaced if name.startswith("r2plus1d")} == {"r2plus1d_r50"}
    expected = {"spacing": "linspace", "short": "hold"}
    assert find_source("pytorchvideo", "csn_r101").preprocessing == expected
    for source in ("mmaction2", "gluoncv"):
        assert find_source(source, "slow_r50").preprocessing["spacing"] == "stride"


def test_spacing_and_windows_exclude_each_other():
    p = model_entry("slow_r50").preprocessing
    with pytest.raises(ConfigError, match="windows require preprocessing"):
        Protocol(0, starts="windows").apply(p)
    with pytest.raises(ConfigError, match=r"spacing='even': allowed are stride, linspace"):
        Preprocessing(frames=8, spacing="even")
