"""Two-stream networks: published counts, fusion by hand, consensus."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvideo.models.inception import I3D, VARIANTS
from jaxvideo.models.inception_two_stream import FusedTwoStreamInception, TwoStreamInception
from jaxvideo.models.tsn import TSN, Consensus
from jaxvideo.models.two_stream import (
    FUSION_3D,
    Fusion,
    SpatialStream,
    TemporalStream,
    TwoStreamFusion,
    average_predictions,
)
from jaxvideo.types import ConfigError, Lowering
from jaxvideo.weights import tree
from tests.models.test_backbones2d import random_variables, shapes_of, size

BOTH = (10, 224, 224, 5)
SMALL = {"num_classes": 5, "width": 0.05, "lowering": Lowering.DIRECT}

# Parameters of CNN-M: convolutions of both streams, and fully connected layers for 101 classes.
CONV1 = {3: (49 * 3 + 1) * 96, 20: (49 * 20 + 1) * 96}
CONV2, CONV3 = (25 * 96 + 1) * 256, (9 * 256 + 1) * 512
CONV4 = CONV5 = (9 * 512 + 1) * 512
FC6, FC7, FC8 = (6 * 6 * 512 + 1) * 4096, (4096 + 1) * 2048, (2048 + 1) * 101
STREAM = CONV2 + CONV3 + CONV4 + CONV5 + FC6 + FC7 + FC8  # less conv1
STEMS = CONV1[3] + CONV1[20]
ONE_BY_ONE = (1024 + 1) * 512


def clip_of(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def run(model, variables, clip):
    """Logits and endpoints in test mode."""
    return jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, clip)


@pytest.mark.parametrize(
    ("fields", "parameters", "printed"),
    [
        ({"where": ("fc8",)}, STEMS + 2 * STREAM, 181.42),
        ({"fusion": "sum"}, STEMS + STREAM + CONV2 + CONV3 + 2 * CONV4, 97.31),
        ({"fusion": "max"}, STEMS + STREAM + CONV2 + CONV3 + 2 * CONV4, 97.31),
        (
            {"fusion": "concat"},
            STEMS + STREAM + CONV2 + CONV3 + 2 * CONV4 + 36 * 512 * 4096,
            172.81,
        ),
        ({"where": ("relu4",)}, STEMS + STREAM + CONV2 + CONV3 + CONV4 + ONE_BY_ONE, 95.48),
        # The paper's table counts 512 x 512 weights here; its equation 4 has 1024 x 512.
        (
            {"fusion": "conv"},
            STEMS + STREAM + CONV2 + CONV3 + 2 * CONV4 + ONE_BY_ONE,
            97.58 + 0.262,
        ),
        ({"where": ("relu5", "fc8")}, STEMS + 2 * STREAM + ONE_BY_ONE, 181.68 + 0.262),
        # No counting rule is known that yields the printed numbers of these two (93.08 and 91.90).
        ({"where": ("relu3",)}, STEMS + STREAM + CONV2 + CONV3 + ONE_BY_ONE, None),
        ({"where": ("relu2",)}, STEMS + STREAM + CONV2 + (512 + 1) * 256, None),
    ],
)
def test_counts_of_fusion(fields, parameters, printed):
    """Tables 1 and 2 of arXiv 1604.06573, which count 20 input channels for both streams."""
    variables, logits, _ = shapes_of(TwoStreamFusion(**fields), BOTH)
    assert logits == (1, 101)
    assert size(variables["params"]) == parameters
    if printed:
        as_counted = parameters + CONV1[20] - CONV1[3]
        assert abs(as_counted / 1e6 - printed) < 0.01


@pytest.mark.full
@pytest.mark.parametrize(
    ("model", "shape", "parameters", "statistics"),
    [
        (SpatialStream(), (1, 224, 224, 3), 90_627_813, 0),
        (TemporalStream(), (10, 224, 224, 2), 90_707_781, 0),
        (TemporalStream(stacking="both_ways"), (10, 224, 224, 4), 90_707_781, 0),
        (TemporalStream("vgg16"), (10, 224, 224, 2), 134_684_133, 0),
        (TSN(), (3, 224, 224, 3), 10_373_765, 20_032),
        (TSN(num_classes=400), (25, 224, 224, 3), 10_680_240, 20_032),
        (TSN(snippet=5), (15, 224, 224, 2), 10_373_765 + 49 * 7 * 64, 20_032),
        (TSN(snippet=5), (35, 224, 224, 3), 10_373_765 + 49 * 12 * 64, 20_032),
        (TSN("resnet50", num_classes=400), (8, 224, 224, 3), 24_327_632, 53_120),
        (TwoStreamInception(), BOTH, 12_058_560, 2 * 14_560),
        (FusedTwoStreamInception(), (50, *BOTH[1:]), 39_755_824, 2 * 14_560 + 2 * 512),
    ],
)
def test_counts(model, shape, parameters, statistics):
    variables, logits, _ = shapes_of(model, shape)
    assert logits == (1, model.num_classes)
    assert size(variables["params"]) == parameters
    assert size(variables.get("batch_stats", {})) == statistics


# --- The streams of 2014 --------------------------------------------------------------------


@pytest.mark.parametrize("stacking", ["fields", "both_ways"])
def test_subtracting_the_mean_removes_a_moving_camera(stacking):
    channels = 4 if stacking == "both_ways" else 2
    model = TemporalStream(stacking=stacking, **SMALL)
    flow = clip_of((1, 4, 48, 48, channels))
    camera = clip_of((1, 4, 1, 1, channels), seed=1)
    variables = random_variables(model, flow.shape[1:])
    still, _ = run(model, variables, flow)
    moving, _ = run(model, variables, flow + camera)
    np.testing.assert_allclose(moving, still, rtol=1e-3, atol=1e-4)
    plain = model.clone(subtract_mean=False)
    assert np.abs(run(plain, variables, flow + camera)[0] - still).max() > 1e-3


def test_trajectories_of_flow_that_is_the_same_everywhere_lose_all_with_their_mean():
    model = TemporalStream(stacking="trajectories", **SMALL)
    flow = np.broadcast_to(clip_of((1, 4, 1, 1, 2)), (1, 4, 48, 48, 2))
    variables = random_variables(model, flow.shape[1:])
    nothing, _ = run(model, variables, np.zeros_like(flow))
    np.testing.assert_allclose(run(model, variables, flow)[0], nothing, rtol=1e-3, atol=1e-5)


def test_the_spatial_stream_sees_the_middle_frame():
    model = SpatialStream(**SMALL)
    clip = clip_of((2, 5, 48, 48, 3))
    variables = random_variables(model, clip.shape[1:])
    expected, _ = run(model, variables, clip[:, 2:3])
    np.testing.assert_allclose(run(model, variables, clip)[0], expected, rtol=1e-6)


# --- Fusion ---------------------------------------------------------------------------------


@pytest.fixture
def maps():
    return np.abs(clip_of((2, 3, 5, 4, 6))), np.abs(clip_of((2, 3, 5, 4, 6), seed=1))


def fuse(kind, *maps):
    fusion = Fusion(kind, lowering=Lowering.DIRECT)
    variables = fusion.init(jax.random.key(0), *maps, train=False)
    return np.asarray(fusion.apply(variables, *maps, train=False))


def test_fusion_without_parameters(maps):
    a, b = maps
    np.testing.assert_array_equal(fuse("sum", a, b), a + b)
    np.testing.assert_array_equal(fuse("max", a, b), np.maximum(a, b))
    concat = fuse("concat", a, b)
    np.testing.assert_array_equal(concat[..., :6], a)
    np.testing.assert_array_equal(concat[..., 6:], b)


def test_convolutional_fusion_starts_as_the_sum(maps):
    np.testing.assert_allclose(fuse("conv", *maps), sum(maps), rtol=1e-6)


def test_fusion_over_time_starts_as_a_gaussian(maps):
    a, b = maps
    mixed = np.pad(0.25 * a + 0.75 * b, [(0, 0), (1, 1), (1, 1), (1, 1), (0, 0)])
    taps = np.exp(-(np.array([-1.0, 0.0, 1.0]) ** 2) / 2)
    taps /= taps.sum()
    expected = np.zeros_like(a)
    for t in range(3):
        for h in range(3):
            for w in range(3):
                weight = taps[t] * taps[h] * taps[w]
                expected += weight * mixed[:, t : t + 3, h : h + 5, w : w + 4]
    np.testing.assert_allclose(fuse("conv3d", a, b), expected, rtol=1e-5)


def test_bilinear_fusion_by_hand():
    a, b = clip_of((2, 3, 5, 4, 3)), clip_of((2, 3, 5, 4, 2), seed=1)
    fused = fuse("bilinear", a, b)
    assert fused.shape == (2, 3, 1, 1, 6)
    for n in range(2):
        for t in range(3):
            total = np.zeros((3, 2))
            for h in range(5):
                for w in range(4):
                    total += np.outer(a[n, t, h, w], b[n, t, h, w])
            root = (np.sign(total) * np.sqrt(np.abs(total))).ravel()
            np.testing.assert_allclose(
                fused[n, t, 0, 0], root / np.linalg.norm(root), rtol=1e-4, atol=1e-6
            )


def test_bilinear_fusion_of_silent_channels_has_a_gradient(maps):
    a, b = maps
    a[..., 0] = b[..., 1] = 0
    a[0] = 0
    fusion = Fusion("bilinear")
    gradient = jax.grad(lambda a: fusion.apply({}, a, b, train=True)[..., 1 * 6 + 2].sum())(a)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[1]).max() > 0


def test_a_smaller_map_is_padded():
    """VGG-16's map is 14 x 14, CNN-M's 13 x 13."""
    big, small = clip_of((1, 1, 14, 14, 2)), clip_of((1, 1, 13, 13, 2), seed=1)
    for fused in (fuse("sum", big, small), fuse("sum", small, big)):
        np.testing.assert_array_equal(fused[:, :, :13, :13], big[:, :, :13, :13] + small)
        np.testing.assert_array_equal(fused[:, :, 13], big[:, :, 13])
        np.testing.assert_array_equal(fused[:, :, :, 13], big[:, :, :, 13])


def test_late_fusion_is_the_average_of_the_two_streams():
    """With the weights of both streams, by their names; training returns a prediction for each."""
    late = TwoStreamFusion(where=("fc8",), **SMALL)
    clip = clip_of((2, 10, 48, 48, 5))
    variables = random_variables(late, clip.shape[1:])
    spatial = SpatialStream(**SMALL)
    temporal = TemporalStream(subtract_mean=False, **SMALL)
    parts = {name: {"params": {name: variables["params"][name]}} for name in variables["params"]}
    rgb, _ = run(spatial, parts["spatial"], clip[..., :3])
    flow, _ = run(temporal, parts["temporal"], clip[..., 3:])
    logits, _ = run(late, variables, clip)
    mean = (jax.nn.softmax(rgb) + jax.nn.softmax(flow)) / 2
    np.testing.assert_allclose(jax.nn.softmax(logits), mean, atol=1e-6)

    silent = late.clone(dropout_rate=0.0)
    heads = jax.jit(lambda v, x: silent.apply(v, x, train=True)[0])(variables, clip)
    np.testing.assert_allclose(heads, np.stack((rgb, flow), axis=1), rtol=1e-4, atol=1e-5)


def test_where_towers_meet():
    conv = TwoStreamFusion(**SMALL)
    shape = (10, 48, 48, 5)
    variables, _, ends = shapes_of(conv, shape)
    assert set(variables["params"]) == {"spatial", "temporal", "fusion_relu5"}
    assert set(variables["params"]["temporal"]) == {f"conv{i}" for i in range(1, 6)}
    after = ("pool5", "fc6", "fc7", "fc8", "pre_logits")
    expected = ["temporal/conv5", "fusion_relu5", *(f"spatial/{end}" for end in after)]
    assert list(ends)[-9:] == [*expected, "pre_logits", "logits"]
    assert conv.head == "spatial/fc8"
    assert conv.clone(where=("relu5", "fc8")).head == ("spatial/fc8", "temporal/fc8")
    assert conv.clone(fusion="bilinear").head == "fc8"
    both, _, ends = shapes_of(conv.clone(where=("relu3", "relu5", "fc6")), shape)
    assert set(both["params"]) - {"spatial", "temporal"} == {
        "fusion_relu3",
        "fusion_relu5",
        "fusion_fc6",
    }
    assert "fc7" not in both["params"]["temporal"]
    assert ends["fusion_fc6"] == ends["spatial/fc6"]


@pytest.mark.parametrize("nets", [("vgg16", "vgg16"), ("vgg16", "cnn_m_temporal")])
def test_the_final_network(nets):
    fields = {**FUSION_3D, "spatial_net": nets[0], "temporal_net": nets[1]}
    variables, logits, ends = shapes_of(TwoStreamFusion(**fields), (50, 224, 224, 5))
    assert logits == (1, 101)
    assert variables["params"]["fusion_relu5"]["conv"]["kernel"].shape == (3, 3, 3, 1024, 512)
    assert ends["fusion_relu5"] == (5, 14, 14, 512)
    assert ends["spatial/pool5"] == (1, 7, 7, 512)
    assert ends["temporal/pool5"] == (1, *((7, 7) if nets[1] == "vgg16" else (6, 6)), 512)
    assert ends["spatial/fc8"] == ends["temporal/fc8"] == (1, 1, 1, 101)


def test_bilinear_network_ends_with_its_features():
    variables, _, ends = shapes_of(TwoStreamFusion("bilinear"), BOTH)
    assert ends["fusion_relu5"] == (1, 1, 1, 512 * 512)
    assert size(variables["params"]) == (
        STEMS + 2 * (CONV2 + CONV3 + CONV4 + CONV5) + (512 * 512 + 1) * 101
    )


# --- TSN ------------------------------------------------------------------------------------


@pytest.mark.full
def test_segments_are_scored_alone():
    model, clip = TSN(snippet=2, **SMALL), clip_of((2, 6, 48, 48, 2))
    variables = random_variables(model, clip.shape[1:])
    logits, ends = run(model, variables, clip)
    assert ends["fc"].shape == (2, 3, 5)
    np.testing.assert_allclose(logits, np.mean(ends["fc"], axis=1), rtol=1e-5)
    # Each segment alone as a video; x and y of a field are adjacent channels.
    alone = TSN(snippet=1, **SMALL)
    channels = np.concatenate((clip[:, 0::2], clip[:, 1::2]), axis=-1).reshape(6, 1, 48, 48, 4)
    scores, _ = run(alone, variables, channels)
    np.testing.assert_allclose(ends["fc"].reshape(6, 5), scores, rtol=1e-3, atol=1e-4)


def test_consensus_by_hand():
    scores = clip_of((2, 3, 5))
    weights = np.array([0.5, 0.2, 0.3], np.float32)

    def joined(consensus, variables):
        return Consensus(consensus).apply(variables, scores)

    np.testing.assert_allclose(joined("average", {}), scores.mean(1), rtol=1e-5)
    np.testing.assert_array_equal(joined("max", {}), scores.max(1))
    weighted = joined("weighted", {"params": {"weights": weights}})
    by_hand = 0.5 * scores[:, 0] + 0.2 * scores[:, 1] + 0.3 * scores[:, 2]
    np.testing.assert_allclose(weighted, by_hand, rtol=1e-5)
    with pytest.raises(ConfigError, match="clip has 3 segments, the parameters are for 2"):
        joined("weighted", {"params": {"weights": weights[:2]}})


def test_weights_of_segments_start_equal():
    variables = Consensus("weighted").init(jax.random.key(0), clip_of((2, 4, 5)))
    np.testing.assert_array_equal(variables["params"]["weights"], [0.25] * 4)


# --- Inception-v1 ---------------------------------------------------------------------------


def test_average_predictions():
    a, b, c = clip_of((3, 4, 5)) * 20
    logits = average_predictions(a, b, c)
    mean = (jax.nn.softmax(a) + jax.nn.softmax(b) + jax.nn.softmax(c)) / 3
    np.testing.assert_allclose(jax.nn.softmax(logits), mean, atol=1e-6)


@pytest.mark.full
def test_two_stream_inception_is_two_inceptions():
    variables, _, ends = shapes_of(TwoStreamInception(), BOTH)
    alone, _, _ = shapes_of(I3D(**VARIANTS["inception_v1"]), (1, 224, 224, 3))
    spatial = {c: values["spatial"] for c, values in variables.items()}
    assert {n: v.shape for n, v in tree.flatten(spatial).items()} == {
        n: v.shape for n, v in tree.flatten(alone).items()
    }
    stem = variables["params"]["temporal"]["conv_1a"]["kernel"]
    assert stem.shape == (1, 7, 7, 20, 64)
    assert ends["temporal/mixed_5c"] == (1, 7, 7, 1024)


def test_shapes_of_fused_inception():
    _, _, ends = shapes_of(FusedTwoStreamInception(), (50, 224, 224, 5))
    assert ends["spatial/mixed_5c"] == ends["temporal/mixed_5c"] == (5, 7, 7, 1024)
    assert ends["fusion"] == (5, 7, 7, 512)
    assert ends["pool"] == (3, 4, 4, 512)


@pytest.mark.full
def test_two_stream_inception_averages_probabilities():
    model = TwoStreamInception(**SMALL)
    clip = clip_of((1, 10, 32, 32, 5))
    variables = random_variables(model, clip.shape[1:])
    logits, ends = run(model, variables, clip)
    mean = (jax.nn.softmax(ends["spatial/logits"]) + jax.nn.softmax(ends["temporal/logits"])) / 2
    np.testing.assert_allclose(jax.nn.softmax(logits), mean, atol=1e-6)


# --- All ------------------------------------------------------------------------------------

MODELS = [
    (SpatialStream(**SMALL), (1, 48, 48, 3), ()),
    (TemporalStream(**SMALL), (10, 48, 48, 2), ()),
    (TemporalStream(stacking="trajectories", **SMALL), (10, 48, 48, 2), ()),
    (TwoStreamFusion(**SMALL), (10, 48, 48, 5), ()),
    (TwoStreamFusion("bilinear", **SMALL), (10, 48, 48, 5), ()),
    (TwoStreamFusion(**FUSION_3D, **SMALL), (30, 48, 48, 5), (2,)),
    (TSN(**SMALL), (3, 48, 48, 3), ()),
    (TSN("resnet50", **SMALL), (3, 48, 48, 3), ()),
    (TSN(consensus="weighted", snippet=5, **SMALL), (15, 48, 48, 2), ()),
    (TwoStreamInception(**SMALL), (10, 48, 48, 5), ()),
    (FusedTwoStreamInception(**SMALL), (50, 48, 48, 5), ()),
]


@pytest.mark.full
@pytest.mark.parametrize(("model", "shape", "heads"), MODELS)
def test_small_in_bfloat16(model, shape, heads):
    model = model.clone(dtype=jnp.bfloat16)
    variables, logits, _ = shapes_of(model, shape)
    assert logits == (1, 5)
    clip = jax.ShapeDtypeStruct((2, *shape), jnp.bfloat16)

    def step(variables, clip):
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(variables, clip, train=True, mutable=["batch_stats"], rngs=rngs)

    (logits, _), changed = jax.eval_shape(step, variables, clip)
    assert logits.shape == (2, *heads, 5)
    assert logits.dtype == jnp.float32
    assert jax.tree.structure(changed.get("batch_stats", {})) == jax.tree.structure(
        variables.get("batch_stats", {})
    )


@pytest.mark.parametrize(
    ("model", "shape", "text"),
    [
        (TwoStreamFusion("product", **SMALL), (10, 48, 48, 5), "fusion='product': allowed are"),
        (TwoStreamFusion(where=("relu9",), **SMALL), (10, 48, 48, 5), "allowed are"),
        (TwoStreamFusion(where=("fc8", "relu5"), **SMALL), (10, 48, 48, 5), "in this order"),
        (TwoStreamFusion(where=(), **SMALL), (10, 48, 48, 5), "allowed are"),
        (TwoStreamFusion(**SMALL), (12, 48, 48, 5), "12 frames: snippets of 10"),
        (TwoStreamFusion(**SMALL), (10, 48, 48, 3), "C = 3; the network takes .* C = 5"),
        (
            TwoStreamFusion("bilinear", ("relu5", "fc8"), **SMALL),
            (10, 48, 48, 5),
            "no layers after it",
        ),
        (SpatialStream("alexnet", **SMALL), (1, 48, 48, 3), "net 'alexnet': allowed are"),
        (TemporalStream(stacking="x", **SMALL), (10, 48, 48, 2), "stacking='x': allowed are"),
        (TSN("vgg", **SMALL), (3, 48, 48, 3), "backbone='vgg': allowed are"),
        (TSN(consensus="sum", **SMALL), (3, 48, 48, 3), "consensus='sum': allowed are"),
        (TSN(snippet=5, **SMALL), (8, 48, 48, 2), "8 frames: snippets of 5"),
    ],
)
def test_errors(model, shape, text):
    with pytest.raises(ConfigError, match=text):
        shapes_of(model, shape)
