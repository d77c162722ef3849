"""TV-L1: known motions, alone, in a batch and in a video."""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxvideo.data import flow as host
from jaxvideo.layers import tvl1 as flow
from jaxvideo.layers.tvl1 import flow_of_video, to_gray, tvl1, tvl1_video
from jaxvideo.types import ConfigError

SIZE = (64, 80)
QUICK = {"levels": 1, "warps": 2, "iterations": 5}


@functools.cache
def photograph():
    from skimage import data

    return cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2GRAY).astype(np.float32)


def seen(matrix, size=SIZE, corner=(60, 190)):
    """The part of the photograph at `corner`, moved by an affine map `[2, 3]` about its center."""
    h, w = size
    middle = np.array([(w - 1) / 2, (h - 1) / 2])
    y, x = np.mgrid[:h, :w]
    places = np.stack([x, y], -1) - middle
    back = np.linalg.inv(matrix[:, :2])
    source = (places - matrix[:, 2]) @ back.T + middle + np.array(corner)[::-1]
    picture = cv2.remap(photograph(), *np.float32(np.moveaxis(source, -1, 0)), cv2.INTER_CUBIC)
    return picture, places @ (matrix[:, :2] - np.eye(2)).T + matrix[:, 2]


def moved(dx=0.0, dy=0.0, angle=0.0):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, dx], [s, c, dy]])


def error(result, truth, border=8):
    distance = np.linalg.norm(np.asarray(result) - truth, axis=-1)
    return distance[border:-border, border:-border].mean()


@functools.cache
def solved(iterations):
    """All motions in one batch, which needs one compilation."""
    motions = {
        "still": moved(),
        "right": moved(1.0),
        "up": moved(0.0, -3.0),
        "left and down": moved(-6.4, 4.8),
        "rotation": moved(angle=0.06),
    }
    first = seen(moved())[0]
    pictures, truths = zip(*map(seen, motions.values()), strict=True)
    result = tvl1(jnp.stack([first] * len(motions)), jnp.stack(pictures), iterations=iterations)
    return dict(zip(motions, zip(np.asarray(result), truths, strict=True), strict=True))


@pytest.mark.parametrize("motion", ["right", "up", "left and down", "rotation"])
def test_known_motion(motion):
    result, truth = solved(10)[motion]
    assert result.shape == (*SIZE, 2)
    assert error(result, truth) < 0.08
    assert np.linalg.norm(truth, axis=-1).mean() > 0.9, "the test moves something"


def test_equal_frames_do_not_move():
    result, _ = solved(10)["still"]
    np.testing.assert_allclose(result, 0, atol=1e-5)


def naive(i0, i1, iterations, tau=0.25, lam=0.15, theta=0.3):
    """Algorithm 1 of the IPOL article for one level and one warp from zero flow."""
    height, width = i0.shape
    i1x, i1y = np.zeros_like(i1), np.zeros_like(i1)
    edged = np.pad(i1, 2, mode="edge")
    for y, x in np.ndindex(height, width):
        row, column = edged[y + 2, x : x + 5], edged[y : y + 5, x + 2]
        i1x[y, x] = (row[0] - 8 * row[1] + 8 * row[3] - row[4]) / 12
        i1y[y, x] = (column[0] - 8 * column[1] + 8 * column[3] - column[4]) / 12
    u = np.zeros((2, height, width))
    p = np.zeros((2, 2, height, width))  # component, direction
    for _ in range(iterations):
        v = u.copy()
        for y, x in np.ndindex(height, width):
            g = np.array([i1x[y, x], i1y[y, x]])
            rho = i1[y, x] - i0[y, x] + g @ u[:, y, x]
            if rho < -lam * theta * (g @ g):
                v[:, y, x] += lam * theta * g
            elif rho > lam * theta * (g @ g):
                v[:, y, x] -= lam * theta * g
            elif g @ g > 1e-6:
                v[:, y, x] -= rho * g / (g @ g)
        for k in range(2):
            for y, x in np.ndindex(height, width):
                div = p[k, 0, y, x] - (p[k, 0, y, x - 1] if x else 0)
                div += p[k, 1, y, x] - (p[k, 1, y - 1, x] if y else 0)
                u[k, y, x] = v[k, y, x] + theta * div
            for y, x in np.ndindex(height, width):
                ux = u[k, y, x + 1] - u[k, y, x] if x < width - 1 else 0
                uy = u[k, y + 1, x] - u[k, y, x] if y < height - 1 else 0
                shrink = 1 + tau / theta * np.hypot(ux, uy)
                p[k, :, y, x] = (p[k, :, y, x] + tau / theta * np.array([ux, uy])) / shrink
    return np.moveaxis(u, 0, -1)


def test_the_iterations_are_those_of_the_article():
    i0, i1 = seen(moved(), (16, 20))[0], seen(moved(0.4, 0.2), (16, 20))[0]
    result = tvl1(i0[None], i1[None], levels=1, warps=1, iterations=6)[0]
    expected = naive(i0.astype(np.float64), i1.astype(np.float64), 6)
    assert np.abs(expected).max() > 0.2
    np.testing.assert_allclose(result, expected, atol=2e-4)


def test_bicubic_and_bilinear_sampling():
    """Exact at positions inside, on images that the method reproduces; outside is flagged."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :18].astype(np.float32)
    shift = rng.uniform(-3, 3, (1, 2, 16, 18)).astype(np.float32)
    to_x, to_y = x + shift[0, 0], y + shift[0, 1]
    truly = (to_x >= 0) & (to_x <= 17) & (to_y >= 0) & (to_y <= 15)
    deep = (to_x >= 1) & (to_x <= 16) & (to_y >= 1) & (to_y <= 14)
    square, inside = jax.jit(flow._bicubic)((x * x + x * y - 2 * y)[None], shift)
    np.testing.assert_array_equal(inside[0], truly)
    expected = to_x * to_x + to_x * to_y - 2 * to_y
    np.testing.assert_allclose(square[0][deep], expected[deep], rtol=1e-4, atol=1e-3)
    planes = jax.jit(flow._bilinear)(np.stack([x * y, 3 * x - y])[None], shift)[0]
    np.testing.assert_allclose(planes[0][truly], (to_x * to_y)[truly], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(planes[1][truly], (3 * to_x - to_y)[truly], rtol=1e-4, atol=1e-3)


def test_levels_too_small_to_follow_are_left_out():
    assert flow._pyramid(256, 340, 5, 0.5) == [(256, 340), (128, 170), (64, 85), (32, 42), (16, 21)]
    assert flow._pyramid(112, 112, 5, 0.5) == [(112, 112), (56, 56), (28, 28)]
    assert flow._pyramid(16, 16, 5, 0.5) == [(16, 16)]


@pytest.mark.parametrize(("size", "new"), [((16, 21), (32, 42)), ((33, 20), (16, 10))])
def test_resizing_is_jaxs(size, new):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, *size)), jnp.float32)
    expected = jax.image.resize(images, (2, 3, *new), "linear")
    np.testing.assert_allclose(flow._resized(images, *new), expected, atol=1e-5)


def clip(frames=6, size=(32, 40)):
    return np.stack([seen(moved(0.7 * t, -0.3 * t), size)[0] for t in range(frames)])


def test_batch_equals_single():
    video = clip()
    batch = tvl1(video[:-1], video[1:], **QUICK)
    alone = tvl1(video[3:4], video[4:5], **QUICK)[0]
    np.testing.assert_allclose(batch[3], alone, atol=1e-4)


@pytest.mark.parametrize("chunk", [2, 9])
def test_video_equals_its_pairs(chunk):
    """Also if chunks do not divide the pairs, and for uint8 input."""
    video = np.rint(clip()).clip(0, 255).astype(np.uint8)
    pairs = tvl1(video[:-1], video[1:], **QUICK)
    fields = tvl1_video(jnp.asarray(video), chunk=chunk, **QUICK)
    assert fields.shape == (5, 32, 40, 2)
    np.testing.assert_allclose(fields, pairs, atol=1e-4)


def color(videos=8, frames=3, size=(32, 32)):
    rng = np.random.default_rng(0)
    tint = rng.uniform(0.3, 1, (videos, 1, 1, 1, 3))
    return (clip(frames, size)[None, ..., None] * tint).clip(0, 255).astype(np.uint8)


def test_gray_is_opencvs():
    picture = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    np.testing.assert_allclose(to_gray(jnp.asarray(picture)), gray, atol=0.51)


def test_flow_of_videos_is_quantized_like_the_hosts():
    video = color(videos=2)
    fields = flow_of_video(jnp.asarray(video), bound=4.0, **QUICK)
    assert (fields.shape, fields.dtype) == ((2, 2, 32, 32, 2), np.uint8)
    gray = to_gray(jnp.asarray(video))
    for t in range(2):
        exact = host.quantize(np.asarray(tvl1(gray[:, t], gray[:, t + 1], **QUICK)), 4.0)
        assert np.abs(exact.astype(int) - fields[:, t]).max() <= 1
        assert (exact != fields[:, t]).mean() < 0.01


def test_each_device_solves_its_own_videos():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    video = jax.device_put(color(), sharding)
    step = jax.jit(lambda video: flow_of_video(video, **QUICK)).lower(video).compile()
    program = step.as_text()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in program
    alone = flow_of_video(jnp.asarray(color()[:1]), **QUICK)
    assert np.abs(np.asarray(step(video)[:1], int) - alone).max() <= 1


def test_quantize_is_the_hosts():
    values = np.linspace(-25, 25, 2001, dtype=np.float32)
    np.testing.assert_array_equal(flow.quantize(jnp.asarray(values)), host.quantize(values))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: tvl1(z(2, 32, 32), z(2, 32, 40)), r"\(2, 32, 32\) and \(2, 32, 40\)"),
        (lambda z: tvl1(z(32, 32), z(32, 32)), r"\[N, H, W\]"),
        (lambda z: tvl1(z(1, 15, 32), z(1, 15, 32)), "16 pixels"),
        (lambda z: tvl1(z(1, 32, 32), z(1, 32, 32), scale=1.0), "scale=1.0"),
        (lambda z: tvl1(z(1, 32, 32), z(1, 32, 32), warps=0), "warps=0"),
        (lambda z: tvl1_video(z(1, 32, 32)), r"\[T, H, W\], gray, with T >= 2"),
        (lambda z: tvl1_video(z(3, 32, 32), chunk=0), "chunk=0"),
        (
            lambda z: flow_of_video(z(2, 3, 32, 32)),
            r"video has shape \(2, 3, 32, 32\)",
        ),
        (lambda z: flow_of_video(z(2, 1, 32, 32, 3)), "with T >= 1"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(lambda: call(lambda *shape: jnp.zeros(shape)))
