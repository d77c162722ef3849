"""DenseNet3D and T3D: published counts and shapes, parity with NumPy and torch, short clips."""

import functools

import jax
import numpy as np
import pytest

from jaxvideo.models.densenet3d import BLOCKS, VARIANTS, DenseNet3D
from jaxvideo.models.summary import trace_of_clip
from jaxvideo.types import ConfigError
from tests.models.test_backbones2d import random_variables, relative_error, shapes_of, size

TINY = functools.partial(DenseNet3D, width=1 / 8, num_classes=5)


def densenet_parameters(blocks, width, classes=400):
    """Parameters of DenseNet-BC in 3-D by definition: kernels, and two per channel of each BN."""
    growth = width // 2
    total, c = 3 * 7 * 7 * 3 * width + 2 * width, width
    for index, layers in enumerate(blocks):
        for _ in range(layers):
            inner = 4 * growth
            total += 2 * c + c * inner + 2 * inner + 27 * inner * growth
            c += growth
        if index < len(blocks) - 1:
            total += 2 * c + c * (c // 2)
            c //= 2
    return total + 2 * c + (c + 1) * classes


# Counted on torch ports. ttl="instead" lacks BN and 1 x 1 x 1 of the transition, 384 -> 384.
COUNTS = [
    ("densenet3d_121", {}, 11_658_896, 34.11),
    ("densenet3d_169", {}, 19_214_992, 35.26),
    ("densenet3d_161", {}, densenet_parameters((6, 12, 36, 24), 96), None),
    ("densenet3d_201", {}, densenet_parameters((6, 12, 48, 32), 64), None),
    ("t3d_121", {}, 29_731_728, 114.3),
    ("t3d_169", {}, 38_374_032, 116.2),
    ("t3d_121", {"ttl_depths": (6, 4, 4)}, 30_321_552, 129.1),
    ("t3d_169", {"ttl_depths": (6, 4, 4)}, 38_963_856, 131.0),
    ("t3d_121", {"ttl": "instead"}, 29_731_728 - 3 * (2 * 384 + 384 * 384), None),
]

# After the dense blocks and the transitions, for 32 x 224 x 224.
STAGES = ("conv0", "pool0", "dense_1", "ttl_1", "transition_1", "dense_2", "ttl_2")
STAGES += ("transition_2", "dense_3", "ttl_3", "transition_3", "dense_4", "pool", "fc")
SIZES = (16, 8, 8, 8, 4, 4, 4, 2, 2, 2, 1, 1)
CHANNELS = {
    "densenet3d_121": (64, 64, 256, None, 128, 512, None, 256, 1024, None, 512, 1024),
    "densenet3d_169": (64, 64, 256, None, 128, 512, None, 256, 1280, None, 640, 1664),
    "t3d_121": (64, 64, 256, 384, 384, 768, 384, 384, 1152, 384, 384, 896),
    "t3d_169": (64, 64, 256, 384, 384, 768, 384, 384, 1408, 384, 384, 1408),
}


@pytest.mark.parametrize(
    ("name", "arguments", "parameters", "gmacs"),
    [
        pytest.param(*row, marks=() if row[0].endswith("_121") else pytest.mark.full)
        for row in COUNTS
    ],
)
def test_counts_and_shapes(name, arguments, parameters, gmacs):
    model = DenseNet3D(**{**VARIANTS[name], **arguments})
    traced = trace_of_clip(model, (32, 224, 224, 3))
    seen = {name: end.shape[1:] for name, end in traced.endpoints.items()}
    assert size(traced.variables["params"]) == parameters
    if gmacs is not None:
        assert traced.macs / 1e9 == pytest.approx(gmacs, rel=5e-4)
    if name in CHANNELS:
        *stages, pool, fc = STAGES
        expected = {
            stage: (t, 7 * t, 7 * t, channels)
            for stage, t, channels in zip(stages, SIZES, CHANNELS[name], strict=True)
            if channels
        }
        expected |= {pool: (CHANNELS[name][-1],), fc: (400,)}
        expected |= {"pre_logits": expected[pool], "logits": expected[fc]}
        assert seen == expected
        assert list(seen) == list(expected)


def test_closed_form_matches_the_counts():
    assert densenet_parameters(BLOCKS[121], 64) == 11_658_896
    assert densenet_parameters(BLOCKS[169], 64) == 19_214_992


@pytest.mark.parametrize(
    ("frames", "temporal"),
    [
        (64, [32, 16, 16, 8, 8, 4, 4, 2, 2]),
        (29, [15, 8, 8, 4, 4, 2, 2, 1, 1]),
        (28, [14, 7, 7, 3, 3, 1, 1, 1, 1]),
        (16, [8, 4, 4, 2, 2, 1, 1, 1, 1]),
        (1, [1] * 9),
    ],
)
def test_short_clips_are_not_pooled_to_nothing(frames, temporal):
    *_, ends = shapes_of(TINY((1, 1, 1, 1)), (frames, 48, 48, 3))
    assert [end[0] for end in ends.values() if len(end) == 4] == temporal


def test_small_frames_are_not_pooled_to_nothing():
    *_, ends = shapes_of(TINY((1, 1, 1, 1), ttl_depths=(4, 4, 4)), (16, 8, 20, 3))
    assert ends["dense_4"][:3] == (1, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ttl": "after"}, r"ttl='after': allowed are \('before', 'instead'\)"),
        ({"ttl_depths": (4, 4)}, r"ttl_depths=\(4, 4\): must be \(\) or 3 positive"),
        ({"ttl_depths": (4, 4, 0)}, r"ttl_depths=\(4, 4, 0\)"),
        ({"width": 0}, "width=0 is not a factor"),
        ({"width": 64}, "width=64 is not a factor"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        shapes_of(TINY(**{"blocks": (1, 1, 1, 1), **arguments}), (16, 32, 32, 3))


def taps(x, kernel, pads, value=0.0):
    """Yields (tap, shifted input) for stride 1: output i uses input i + tap - before."""
    padded = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=value)
    _, t, h, w, _ = x.shape
    for i, j, k in np.ndindex(*kernel):
        yield (i, j, k), padded[:, i : i + t, j : j + h, k : k + w]


def numpy_conv(x, kernel, pads):
    return sum(seen @ kernel[tap] for tap, seen in taps(x, kernel.shape[:3], pads))


def numpy_net(variables, x, blocks, ttl_pads, ttl):
    """Endpoints of DenseNet3D in test mode, in NumPy.

    A stride of 2 keeps every second output. `ttl_pads` are the frames of padding before and after
    for the longest kernels.
    """
    params, statistics = variables["params"], variables["batch_stats"]
    around = {1: (0, 0), 3: (1, 1), 7: (3, 3)}

    def bn_relu(x, *path):
        p, s = params, statistics
        for name in path:
            p, s = p[name], s[name]
        y = (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]
        return np.maximum(y, 0)

    def unit(x, *scope, index, time_pad=None):
        p = params
        for name in scope:
            p = p[name]
        kernel = p[f"conv_{index}"]["kernel"]
        pads = [around.get(k) for k in kernel.shape[:3]]
        pads[0] = time_pad or pads[0]
        return numpy_conv(bn_relu(x, *scope, f"bn_{index}"), kernel, pads)

    def halved(x):
        n, t, h, w, c = x.shape
        even = x[:, : t // 2 * 2, : h // 2 * 2, : w // 2 * 2]
        return even.reshape(n, t // 2, 2, h // 2, 2, w // 2, 2, c).mean((2, 4, 6))

    ends = {}
    x = numpy_conv(x, params["conv0"]["kernel"], ((1, 1), (3, 3), (3, 3)))[:, ::2, ::2, ::2]
    ends["conv0"] = x = bn_relu(x, "bn0")
    windows = (seen for _, seen in taps(x, (3, 3, 3), ((1, 1),) * 3, -np.inf))
    ends["pool0"] = x = functools.reduce(np.maximum, windows)[:, ::2, ::2, ::2]
    for b, layers in enumerate(blocks, 1):
        for layer in range(1, layers + 1):
            scope = (f"dense_{b}", f"layer_{layer}")
            new = unit(unit(x, *scope, index=1), *scope, index=2)
            x = np.concatenate([x, new], -1)
        ends[f"dense_{b}"] = x
        if b == len(blocks):
            break
        if ttl_pads:
            pads = {1: None, 2: None, 3: ttl_pads[b - 1]}
            branches = [unit(x, f"ttl_{b}", index=i, time_pad=pad) for i, pad in pads.items()]
            ends[f"ttl_{b}"] = x = np.concatenate(branches, -1)
        if not ttl_pads or ttl == "before":
            x = unit(x, f"transition_{b}", index=1)
        ends[f"transition_{b}"] = x = halved(x)
    ends["pool"] = x = bn_relu(x, "bn_last").mean((1, 2, 3))
    ends["pre_logits"] = x
    ends["fc"] = ends["logits"] = x @ params["fc"]["kernel"] + params["fc"]["bias"]
    return ends


@pytest.mark.parametrize(
    ("arguments", "pads"),
    [
        ({}, ()),
        ({"ttl_depths": (4, 6)}, ((1, 2), (2, 3))),
        ({"ttl_depths": (5, 4), "ttl": "instead"}, ((2, 2), (1, 2))),
    ],
    ids=["densenet3d", "t3d", "t3d as in the paper"],
)
def test_every_endpoint_is_numpys(arguments, pads):
    """Even kernels have their extra frame of padding at the end.

    Branches of a TTL are concatenated by length, new channels of a layer after the old ones.
    """
    model = TINY((1, 2, 1), width=1 / 16, **arguments)
    x = np.random.default_rng(1).standard_normal((2, 18, 36, 34, 3), np.float32)
    variables = random_variables(model, x.shape[1:])
    _, ours = jax.jit(functools.partial(model.apply, train=False))(variables, x)
    expected = numpy_net(variables, x, model.blocks, pads, model.ttl)
    assert set(ours) == set(expected)
    assert max(relative_error(ours[name], expected[name]) for name in expected) < 1e-5


def test_training_drops_new_channels_only():
    model = TINY((1,), dropout_rate=0.5)
    x = np.random.default_rng(2).standard_normal((2, 16, 48, 48, 3), np.float32)
    variables = random_variables(model, x.shape[1:])
    (logits, ends), changed = jax.jit(
        functools.partial(model.apply, train=True, mutable=["batch_stats"])
    )(variables, x, rngs={"dropout": jax.random.key(0)})
    old, new = np.split(np.asarray(ends["dense_1"]), [8], axis=-1)
    np.testing.assert_array_equal(old, ends["pool0"])
    assert new.shape[-1] == 4
    assert 0.4 < (new == 0).mean() < 0.6
    assert np.isfinite(logits).all()
    jax.tree.map(
        lambda old, new: np.testing.assert_array_less(0, np.abs(old - new)),
        variables["batch_stats"],
        changed["batch_stats"],
    )
