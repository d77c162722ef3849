"""Compares each augmentation with an independent reference: Pillow, colorsys or NumPy."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from skimage import data

from jaxvideo.training import augment
from jaxvideo.training.augment import OPERATIONS, color_jitter, partner, turn_hue
from jaxvideo.training.schema import Augment, StepAugment
from jaxvideo.types import ConfigError

apply_operation = jax.jit(augment.apply_operation, static_argnums=2)
change_colors = jax.jit(augment.change_colors, static_argnums=2)
erase = jax.jit(augment.erase)
mix = jax.jit(augment.mix, static_argnames=("mixup", "cutmix"))


@pytest.fixture(scope="module")
def clip():
    """A clip of three parts of a photograph, with values in a part of 0 to 255."""
    photo = data.astronaut()
    frames = np.stack([photo[60 * t : 60 * t + 40, 150:200] for t in range(3)])
    return (30 + 0.7 * frames).astype(np.uint8)


def with_pillow(frames, change):
    """Applies Pillow to all frames as one tall picture, so its statistics are the clip's."""
    tall = Image.fromarray(frames.reshape(-1, *frames.shape[2:]))
    return np.asarray(change(tall)).reshape(frames.shape)


def per_frame(frames, change):
    return np.stack([np.asarray(change(Image.fromarray(frame))) for frame in frames])


# Magnitude 5: factors 0.55 and 1.45, threshold 128, 6 bits. Pillow truncates where a table or a
# blend falls between two bytes, and rounds the gray in between.
REFERENCES = {
    "identity": (lambda frames, factor: frames, 0),
    "autocontrast": (lambda frames, factor: with_pillow(frames, ImageOps.autocontrast), 1),
    "equalize": (lambda frames, factor: with_pillow(frames, ImageOps.equalize), 0),
    "solarize": (
        lambda frames, factor: with_pillow(frames, lambda i: ImageOps.solarize(i, 128)),
        0,
    ),
    "posterize": (
        lambda frames, factor: with_pillow(frames, lambda i: ImageOps.posterize(i, 6)),
        0,
    ),
    "contrast": (
        lambda frames, f: with_pillow(frames, lambda i: ImageEnhance.Contrast(i).enhance(f)),
        1,
    ),
    "brightness": (
        lambda frames, f: with_pillow(frames, lambda i: ImageEnhance.Brightness(i).enhance(f)),
        1,
    ),
    "color": (
        lambda frames, f: with_pillow(frames, lambda i: ImageEnhance.Color(i).enhance(f)),
        1,
    ),
    "sharpness": (
        lambda frames, f: per_frame(frames, lambda i: ImageEnhance.Sharpness(i).enhance(f)),
        1,
    ),
}


def test_every_operation_has_a_reference():
    assert tuple(REFERENCES) == OPERATIONS


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("up", [False, True])
def test_an_operation_is_pillows(clip, name, up):
    reference, tolerance = REFERENCES[name]
    expected = reference(clip, 1.45 if up else 0.55).astype(int)
    found = np.asarray(apply_operation(clip, OPERATIONS.index(name), 5.0, up)).astype(int)
    assert np.abs(found - expected).max() <= tolerance
    if name != "identity":
        assert np.abs(found - clip).mean() > 0.5


@pytest.mark.full
def test_a_flat_clip_stays_whole():
    """A constant clip has no range to stretch, one histogram bin and no chroma."""
    flat = np.full((2, 5, 5, 3), 77, np.uint8)
    for name in ("autocontrast", "equalize"):
        found = apply_operation(flat, OPERATIONS.index(name), 5.0, True)
        np.testing.assert_array_equal(found, flat)
    np.testing.assert_allclose(turn_hue(jnp.asarray(flat, jnp.float32), 0.3), 77)


def test_magnitude_nought_changes_nothing(clip):
    for name in ("solarize", "posterize", "contrast", "brightness", "color", "sharpness"):
        found = apply_operation(clip, OPERATIONS.index(name), 0.0, True)
        np.testing.assert_array_equal(found, clip, err_msg=name)


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.0, 0.25])
def test_hue_is_colorsyss(clip, turns):
    pixels = clip[0, ::7, ::7].reshape(-1, 3)
    pixels = np.concatenate([pixels, np.eye(3, dtype=np.uint8) * 255, [[0, 0, 0], [9, 9, 9]]])
    expected = []
    for pixel in pixels:
        h, s, v = colorsys.rgb_to_hsv(*(pixel / 255))
        expected.append(np.array(colorsys.hsv_to_rgb((h + turns) % 1, s, v)) * 255)
    found = turn_hue(jnp.asarray(pixels, jnp.float32), turns)
    np.testing.assert_allclose(found, expected, atol=2e-3)


GRAY = np.array([0.299, 0.587, 0.114])


def jitter_by_hand(frames, name, factor):
    frames = frames.astype(float)
    gray = (frames * GRAY).sum(-1, keepdims=True)
    other = {"brightness": 0.0, "contrast": gray.mean(), "saturation": gray}[name]
    return np.clip(other + (frames - other) * factor, 0, 255)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_jitter_is_some_factor_of_its_range(clip, name):
    jitter = StepAugment(**{name: 0.4})
    keys = jax.random.split(jax.random.key(0), 40)
    frames = jnp.asarray(clip, jnp.float32)
    # Where no blend is clipped, so that the factor can be computed.
    gray = (clip * GRAY).sum(-1, keepdims=True)
    other = {"brightness": 0, "contrast": gray.mean(), "saturation": gray}[name]
    inside = np.abs(clip.astype(float) - other) * (np.abs(clip + 0.4 * (clip - other) - 127) < 120)
    place = np.unravel_index(inside.argmax(), clip.shape)
    change = jax.jit(jax.vmap(lambda key: color_jitter(frames, key, jitter)))
    factors = []
    for found in np.asarray(change(keys)):
        base = np.broadcast_to(other, clip.shape)[place]
        factor = (found[place] - base) / (clip[place] - base)
        np.testing.assert_allclose(found, jitter_by_hand(clip, name, factor), atol=0.05)
        factors.append(factor)
    assert 0.6 <= min(factors) < 0.7
    assert 1.3 < max(factors) <= 1.4


ALL = StepAugment(0.4, 0.4, 0.4, 0.1, randaugment=2)


def test_colors_depend_on_the_sample_and_not_on_its_place(clip):
    videos = np.stack([clip, clip[::-1], clip[:, ::-1], clip[:, :, ::-1]] * 4)
    keys = jax.random.split(jax.random.key(3), 16)
    found = np.asarray(change_colors(videos, keys, ALL))
    assert found.dtype == np.uint8
    assert len({frames.tobytes() for frames in found}) == 16
    order = np.random.default_rng(0).permutation(16)
    np.testing.assert_array_equal(change_colors(videos[order], keys[order], ALL), found[order])


def test_all_frames_are_changed_alike(clip):
    """A clip that repeats one frame keeps equal frames."""
    still = np.stack([np.stack([clip[0]] * 3)] * 16)
    keys = jax.random.split(jax.random.key(5), 16)
    found = np.asarray(change_colors(still, keys, ALL))
    assert (found == found[:, :1]).all()


def test_flow_beside_rgb_keeps_its_values(clip):
    five = np.concatenate([clip, clip[..., :2]], -1)[None]
    found = np.asarray(
        change_colors(five, jax.random.split(jax.random.key(0), 1), StepAugment(1.0))
    )
    np.testing.assert_array_equal(found[..., 3:], five[..., 3:])
    assert (found[..., :3] != five[..., :3]).any()


@pytest.mark.full
def test_randaugment_draws_every_operation_evenly(clip):
    """One operation for each of 900 keys; each result is that of one of the operations."""
    small = clip[:1, :30, :30]
    results = {}
    for index, name in enumerate(OPERATIONS):
        for up in (False, True):
            results[np.asarray(apply_operation(small, index, 5.0, up)).tobytes()] = name
    keys = jax.random.split(jax.random.key(1), 900)
    one = StepAugment(randaugment=1, magnitude=5.0)
    found = np.asarray(change_colors(np.stack([small] * 900), keys, one))
    counts = dict.fromkeys(OPERATIONS, 0)
    for frames in found:
        counts[results[frames.tobytes()]] += 1
    # Each is drawn 100 times on average, with a standard deviation of 9.4.
    assert all(60 < count < 140 for count in counts.values()), counts


@pytest.mark.full
def test_erasing():
    clip = jnp.ones((400, 2, 30, 40, 1))
    keys = jax.random.split(jax.random.key(0), 400)
    found = np.asarray(erase(clip, keys, 0.5))[..., 0]
    assert (found[:, 0] == found[:, 1]).all()
    erased = 0
    for picture in found[:, 0]:
        rows, columns = np.flatnonzero((picture == 0).any(1)), np.flatnonzero((picture == 0).any(0))
        if not len(rows):
            continue
        erased += 1
        h, w = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert (picture == 0).sum() == h * w  # one complete rectangle, and nothing else
        assert h < 30  # rectangles that do not fit are drawn again
        assert w < 40
        # Sides are rounded by up to half a pixel.
        assert (h - 0.5) * (w - 0.5) <= 1200 / 3
        assert (h + 0.5) * (w + 0.5) >= 1200 * 0.02
        assert (h + 0.5) / (w - 0.5) >= 0.3
        assert (h - 0.5) / (w + 0.5) <= 1 / 0.3
    assert 160 < erased < 240
    order = np.random.default_rng(0).permutation(400)
    again = np.asarray(erase(clip, keys[order], 0.5))[..., 0]
    np.testing.assert_array_equal(again, found[order])
    np.testing.assert_array_equal(erase(clip, keys, 0.0), clip)


N = 400
KEYS = jax.random.split(jax.random.key(0), N)


def batch():
    return np.random.default_rng(0).normal(size=(N, 2, 10, 14, 3)).astype(np.float32)


def test_mixup():
    clip = batch()
    found, share = mix(clip, np.ones(N), KEYS, mixup=0.2, cutmix=0.0)
    other = clip[[*range(200, 400), *range(200)]]
    wide = np.asarray(share)[:, None, None, None, None]
    np.testing.assert_allclose(found, wide * clip + (1 - wide) * other, atol=1e-6)
    np.testing.assert_array_equal(partner(clip), other)


def test_shares_are_of_a_beta_distribution():
    """Mean 1/2, variance 1 / (4 (2 alpha + 1))."""
    shares = []
    for seed in range(10):
        keys = jax.random.split(jax.random.key(seed), N)
        shares.append(mix(batch(), np.ones(N), keys, mixup=0.2, cutmix=0.0)[1])
    assert np.mean(shares) == pytest.approx(0.5, abs=0.025)
    assert np.var(shares) == pytest.approx(1 / (4 * 1.4), rel=0.04)


def test_cutmix():
    clip = batch()
    found, share = map(np.asarray, mix(clip, np.ones(N), KEYS, mixup=0.0, cutmix=1.0))
    foreign = (found == np.roll(clip, N // 2, 0)).all(-1)
    assert ((found == clip).all(-1) | foreign).all()
    assert (foreign == foreign[:, :1]).all()
    np.testing.assert_allclose(share, 1 - foreign[:, 0].mean((1, 2)), atol=1e-6)
    for mask in foreign[:, 0]:
        assert mask.sum() == mask.any(1).sum() * mask.any(0).sum()  # a rectangle
    # Beta(1, 1) is uniform; boxes are cut off at the border, so more than half remains.
    assert 0.5 < share.mean() < 0.75
    assert share.min() < 0.4


@pytest.mark.full
def test_mixup_and_cutmix_share_the_clips():
    clip = batch()
    found, _ = map(np.asarray, mix(clip, np.ones(N), KEYS, mixup=1.0, cutmix=1.0))
    own, other = (found == clip).all(-1), (found == np.roll(clip, N // 2, 0)).all(-1)
    cut = (own | other).all((1, 2, 3))
    assert 150 < cut.sum() < 250
    order = np.roll(np.arange(N), 7)  # pairs remain adjacent
    again, _ = mix(clip[order], np.ones(N), KEYS[order], mixup=1.0, cutmix=1.0)
    np.testing.assert_array_equal(again, found[order])


@pytest.mark.parametrize("alphas", [(0.2, 0.0), (0.0, 1.0)])
def test_a_video_that_could_not_be_read_is_mixed_into_nothing(alphas):
    clip, weight = batch(), np.ones(N)
    weight[207] = 0
    found, share = mix(clip, weight, KEYS, mixup=alphas[0], cutmix=alphas[1])
    np.testing.assert_array_equal(found[7], clip[7])
    assert share[7] == 1
    assert (np.asarray(share)[[5, 6, 8, 9]] < 1).any()


def test_low_precision_stays():
    clip = jax.ShapeDtypeStruct((4, 2, 10, 14, 3), jnp.bfloat16)
    both = functools.partial(augment.mix, mixup=1.0, cutmix=1.0)
    assert jax.eval_shape(both, clip, np.ones(4), KEYS[:4])[0].dtype == jnp.bfloat16
    assert jax.eval_shape(augment.erase, clip, KEYS[:4], 1.0).dtype == jnp.bfloat16


def test_sharpness_leaves_the_border_as_pillow_does(clip):
    smooth = np.asarray(Image.fromarray(clip[0]).filter(ImageFilter.SMOOTH))
    np.testing.assert_array_equal(smooth[0], clip[0, 0])
    found = np.asarray(apply_operation(clip, OPERATIONS.index("sharpness"), 9.0, True))
    np.testing.assert_array_equal(found[:, [0, -1]], clip[:, [0, -1]])
    np.testing.assert_array_equal(found[:, :, [0, -1]], clip[:, :, [0, -1]])


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"brightness": 1.5}, "augment.brightness=1.5: must be from 0 to 1"),
        ({"contrast": -0.1}, "augment.contrast=-0.1"),
        ({"hue": 0.6}, "augment.hue=0.6: must be from 0 to 0.5"),
        ({"magnitude": 11.0}, "augment.magnitude=11.0: must be from 0 to 10"),
        ({"randaugment": -1}, "augment.randaugment=-1"),
        ({"erasing": 2.0}, "augment.erasing=2.0"),
        ({"mixup": -0.2}, "augment.mixup=-0.2"),
        ({"cutmix": float("nan")}, "augment.cutmix=nan"),
        ({"areas": (0.5, 2.0)}, "augment.areas="),
        ({"views_per_video": 3, "repeated": 2}, "repeated must divide views_per_video"),
        ({"views_per_video": 0}, "both must be at least 1"),
    ],
)
def test_wrong_values_are_named(fields, text):
    with pytest.raises(ConfigError, match=text):
        Augment(**fields)


def test_a_config_reaches_its_parts():
    given = Augment(areas=[0.25, 1.0], hue=0.1, mixup=0.8, views_per_video=4, repeated=2)
    assert given.areas == (0.25, 1.0)
    assert (given.hue, given.mixup) == (0.1, 0.8)
    assert not Augment().colors
    assert not Augment().mixes
