"""Random crops cover the windows that their papers draw, and scaling is antialiased."""

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from jaxvideo.data import crops, views
from jaxvideo.data.decode import read_clip
from jaxvideo.data.video import open_video
from jaxvideo.types import ConfigError, Preprocessing, View, Window


def test_aspect_is_not_kept_for_two_sides():
    pre = Preprocessing(frames=1, size=128, width=171, crop=112)
    assert crops.window_size(256, 340, pre) == (224, 223)


def test_five_positions_and_five_scales():
    """3D ResNet: short side times 2^(-k/4), in a corner or in the center."""
    pre = Preprocessing(frames=1, size=112, crop=112)
    crop = crops.RandomCrop((1.0, 2.0), scale_steps=5, positions="five")
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
    """Height and width from {256, 224, 192, 168}, at most one step apart, at 13 positions."""
    pre = Preprocessing(frames=1, size=256, crop=224)
    crop = crops.RandomCrop(ratios=(1.0, 0.875, 0.75, 0.65625), positions="thirteen")
    rng = np.random.default_rng(0)
    seen = {views.random_view(1, 256, 340, 25.0, pre, rng, crop=crop).window for _ in range(4000)}
    sides = [256, 224, 192, 168]
    pairs = {(a, b) for i, a in enumerate(sides) for b in sides[max(i - 1, 0) : i + 2]}
    assert {(w.height, w.width) for w in seen} == pairs
    places = {(w.top, w.left) for w in seen if (w.height, w.width) == (192, 192)}
    grid = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (0, 2), (4, 2), (2, 0), (2, 4)]
    grid += [(1, 1), (1, 3), (3, 1), (3, 3)]
    assert places == {(16 * down, 37 * across) for down, across in grid}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"ratios": (1.5,)}, "augment.ratios="),
        ({"ratios": (0.5,), "scales": (1.0, 2.0)}, "mutually exclusive"),
        ({"scales": (0.5, 1.0)}, "augment.scales="),
        ({"scales": (1.0,)}, "augment.scales=.*low, high"),
        ({"scale_steps": 1}, "augment.scale_steps=1"),
        ({"positions": "ten"}, "augment.positions='ten'"),
        ({"areas": (0.0, 1.0)}, "augment.areas=.*0 < low"),
        ({"areas": (0.5,)}, "augment.areas=.*low, high"),
        ({"aspects": (2.0, 1.0)}, "augment.aspects="),
        ({"areas": (0.5, 1.0), "ratios": (0.5,)}, "mutually exclusive"),
        ({"areas": (0.5, 1.0), "scales": (1.0, 2.0)}, "mutually exclusive"),
    ],
)
def test_wrong_crops(fields, text):
    with pytest.raises(ConfigError, match=text):
        crops.RandomCrop(**fields)


def test_random_resized_crops():
    """A quarter to all of the frame's area, aspect 3:4 to 4:3, anywhere (as torchvision)."""
    pre = Preprocessing(frames=1, size=112, crop=112)
    crop = crops.RandomCrop(areas=(0.25, 1.0))
    rng = np.random.default_rng(0)
    drawn = [views.random_view(1, 240, 320, 25.0, pre, rng, crop=crop).window for _ in range(2000)]
    assert all(0 <= w.top <= 240 - w.height and 0 <= w.left <= 320 - w.width for w in drawn)
    areas = np.array([w.height * w.width for w in drawn]) / (240 * 320)
    aspects = np.log([w.width / w.height for w in drawn])
    assert 0.245 < areas.min() < 0.26
    assert areas.max() > 0.95
    assert np.abs(aspects).max() < np.log(4 / 3) + 0.01
    small = areas < 0.5  # every aspect fits, so areas are uniform
    assert abs(np.median(areas[small]) - 0.375) < 0.015
    assert abs(np.median(aspects[small])) < 0.03
    assert {w.top for w in drawn if w.height < 200} >= set(range(60))


def test_a_frame_too_narrow_for_the_aspects():
    """No draw with 90 % of the area fits into 40 x 400: the center, as wide as `aspects` allow."""
    pre = Preprocessing(frames=1, size=32, crop=32)
    crop = crops.RandomCrop(areas=(0.9, 1.0))
    for shape, window in (
        ((40, 400), Window(0, 173, 40, 53)),
        ((400, 40), Window(173, 0, 53, 40)),
    ):
        assert crop.window(*shape, pre, np.random.default_rng(0)) == window


@pytest.mark.parametrize("factor", [1.0, 1.14, 1.25, 1.5, 1.75, 2.0, 2.2, 3.0, 4.0])
@pytest.mark.parametrize("photo", ["astronaut", "coffee", "chelsea"])
def test_resizing_is_antialiased(tmp_path, photo, factor):
    """The result is close to Pillow's triangle filter, whose support grows with the factor.

    OpenCV's bilinear interpolation reads two pixels per axis, which cover the source up to a
    factor of two: within 35 dB and 2.5 levels on average (nearest neighbor: 27 to 34 dB). Beyond a
    factor of two it would skip pixels (29 dB at three). Halved first, by a box filter narrower than
    the triangle, it is within 34 dB and 3 levels.
    """
    size = 100 if factor <= 2 else 50
    picture = np.ascontiguousarray(getattr(data, photo)()[40:280, 60:300])
    cv2.imwrite(str(tmp_path / "frame_1.png"), picture[..., ::-1])
    side = round(size * factor)
    view = View((0,), Window(20, 30, side, side))
    with open_video(tmp_path) as video:
        found = read_clip(video, [view], size)[0, 0].astype(float)
    part = Image.fromarray(picture[20 : 20 + side, 30 : 30 + side])
    expected = np.asarray(part.resize((size, size), Image.Resampling.BILINEAR), float)
    levels, decibels = (2.5, 35) if factor <= 2 else (3, 34)
    assert np.abs(found - expected).mean() <= levels
    assert 10 * np.log10(255**2 / max(np.mean((found - expected) ** 2), 1e-9)) >= decibels
