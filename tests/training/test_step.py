"""The training step: equal on 8 devices and 1, and each of its parts alone."""

import dataclasses

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxvideo.inference.predict import make_predict_step
from jaxvideo.inference.prepare import normalize, prepare
from jaxvideo.models.resnet3d import KINDS, ResNet3D
from jaxvideo.training.augment import mix, random_flip, sample_keys
from jaxvideo.training.losses import LOSSES, get_loss
from jaxvideo.training.optim import Optim, make_optimizer, make_schedule
from jaxvideo.training.schema import StepAugment
from jaxvideo.training.step import (
    TrainState,
    first_state,
    init_variables,
    make_train_step,
    weighted_mean,
)
from jaxvideo.types import ConfigError, Lowering, Preprocessing
from tests.marks import some
from tests.models.test_backbones2d import random_variables

PRE = Preprocessing(frames=4, size=16, crop=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def setup(kind="r2plus1d", **arguments):
    """Two stages of one block contain all operations and compile in seconds."""
    model = ResNet3D(KINDS[kind][:3], blocks=(1, 1), num_classes=5, width=1 / 8, **arguments)
    variables = jax.tree.map(jnp.asarray, random_variables(model, PRE.shape))
    optim = Optim(lr=0.1, schedule="constant", weight_decay=1e-3)
    schedule = make_schedule(optim, steps_per_epoch=1, epochs=1)
    optimizer = make_optimizer(optim, schedule, variables["params"])
    state = first_state(variables, optimizer)
    return model, optimizer, state


def batch(n=16):
    rng = np.random.default_rng(0)
    return {
        "video": rng.integers(0, 256, (n, *PRE.shape), dtype=np.uint8),
        "label": (np.arange(n) % 5).astype(np.int32),
        "weight": np.ones(n, np.float32),
        "sample": np.stack([np.zeros(n), np.arange(n), np.zeros(n)], 1).astype(np.int32),
    }


@pytest.mark.parametrize("groups", some([1, 4], [4]))
def test_eight_devices_equal_one(groups):
    model, optimizer, state = setup(bn_groups=groups)
    step = make_train_step(model, optimizer, PRE, flip=True)
    results = []
    for count in (1, 8):
        mesh = jax.make_mesh(
            (count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count]
        )
        whole, split = (
            NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("data"))
        )
        compiled = jax.jit(step, out_shardings=(whole, whole))
        new, metrics = compiled(
            jax.device_put(state, whole), jax.device_put(batch(), split), jax.random.key(1)
        )
        moved = jax.tree.map(
            lambda a, b: (np.asarray(b) - np.asarray(a)) / 0.1, state.params, new.params
        )
        results.append((metrics, moved, new.batch_stats))
    for one, eight in zip(*map(jax.tree.leaves, results), strict=True):
        scale = max(1.0, np.abs(one).max())
        np.testing.assert_allclose(np.asarray(eight), np.asarray(one), rtol=0, atol=1e-5 * scale)


def test_a_step_learns_and_moves_statistics():
    # DIRECT compiles fastest; the other tests of whole steps use the default lowerings.
    model, optimizer, state = setup(lowering=Lowering.DIRECT)
    step = jax.jit(make_train_step(model, optimizer, PRE, flip=False, label_smoothing=0.1))
    data, losses = batch(), []
    for _ in range(40):
        state, metrics = step(state, data, jax.random.key(0))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert int(state.step) == 40
    assert all(float(np.abs(m).max()) > 0 for m in jax.tree.leaves(state.batch_stats))


def test_samples_without_weight_do_not_count():
    model, optimizer, state = setup("f_r2d", lowering=Lowering.DIRECT)
    step = jax.jit(make_train_step(model, optimizer, PRE, flip=False))
    data = batch()
    data["weight"][8:] = 0
    other = {**data, "label": np.where(data["weight"] > 0, data["label"], 0).astype(np.int32)}
    results = [step(state, one, jax.random.key(0)) for one in (data, other)]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(a, b)


def test_prediction_is_a_distribution():
    model, _, state = setup("f_r2d")
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    video = batch(4)["video"]
    scores = make_predict_step(model, PRE, "softmax")(variables, video)
    logits = make_predict_step(model, PRE, "logits")(variables, video)
    np.testing.assert_allclose(scores.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(jax.nn.softmax(logits), scores, rtol=1e-5)
    each = make_predict_step(model, PRE, "sigmoid")(variables, video)
    np.testing.assert_allclose(each, 1 / (1 + np.exp(-np.asarray(logits))), rtol=1e-5)


def test_normalize():
    video = jnp.asarray([0, 51, 255], jnp.uint8).reshape(1, 1, 1, 1, 3)
    pre = Preprocessing(frames=1, size=1, crop=1, mean=(0.5, 0.0, 0.25), std=(0.5, 2.0, 0.25))
    np.testing.assert_allclose(normalize(video, pre, jnp.float32).ravel(), [-1, 0.1, 3], rtol=1e-5)
    pre = Preprocessing(frames=1, size=1, crop=1, range=(-1.0, 1.0))
    np.testing.assert_allclose(normalize(video, pre, "float32").ravel(), [-1, -0.6, 1], rtol=1e-5)


def test_caffe_order_leaves_flow_alone():
    video = jnp.arange(5, dtype=jnp.uint8).reshape(1, 1, 1, 1, 5)
    five = {"mean": (0.0,) * 5, "std": (1.0,) * 5, "range": (0.0, 255.0), "order": "BGR"}
    pre = Preprocessing(frames=1, size=1, crop=1, modality="rgb_flow", flow="dis", **five)
    np.testing.assert_array_equal(prepare(video, pre, "float32").ravel(), [2, 1, 0, 3, 4])
    two = {"mean": (0.0,) * 2, "std": (1.0,) * 2, "range": (0.0, 255.0), "order": "BGR"}
    pre = Preprocessing(frames=1, size=1, crop=1, modality="flow", flow="dis", **two)
    np.testing.assert_array_equal(prepare(video[..., 3:], pre, "float32").ravel(), [3, 4])


def test_differences_stay_within_their_segment():
    """Six frames are two segments of three frames, with two differences each."""
    levels = np.array([0, 10, 30, 100, 101, 103], np.uint8)
    video = jnp.asarray(levels.reshape(1, 6, 1, 1, 1) * np.ones((1, 6, 1, 1, 3), np.uint8))
    pre = Preprocessing(
        frames=4,
        segments=2,
        size=1,
        crop=1,
        modality="rgb_diff",
        range=(0.0, 255.0),
        std=(2.0,) * 3,
    )
    clip = prepare(video, pre, jnp.float32)
    assert clip.shape == (1, 4, 1, 1, 3)
    np.testing.assert_allclose(clip[0, :, 0, 0, 0], [5, 10, 0.5, 1], rtol=1e-6)


def test_flow_in_the_step():
    """A picture that moves two pixels to the right: 127.5 + 2 * 255 / 40 rounds to 140."""
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (48, 64, 3)).astype(np.float32), (0, 0), 2)
    texture = (texture - texture.min()) * 255 / np.ptp(texture)
    frames = np.stack([texture[:, 8 - 2 * t : 56 - 2 * t] for t in range(3)]).astype(np.uint8)
    two = {"mean": (0.0,) * 2, "std": (1.0,) * 2, "range": (-1.0, 1.0)}
    pre = Preprocessing(frames=2, size=48, crop=48, modality="flow", **two)
    clip = np.asarray(jax.jit(lambda v: prepare(v, pre, jnp.float32))(frames[None]))
    assert clip.shape == (1, 2, 48, 48, 2)
    inner = clip[0, :, 8:-8, 8:-8]
    assert abs(np.median(inner[..., 0]) - 2 / 20) <= 1 / 255 + 1e-6
    assert abs(np.median(inner[..., 1])) <= 1 / 255 + 1e-6
    five = {"mean": (0.0,) * 5, "std": (1.0,) * 5, "range": (-1.0, 1.0)}
    both = dataclasses.replace(pre, modality="rgb_flow", **five)
    clips = np.asarray(jax.jit(lambda v: prepare(v, both, jnp.float32))(frames[None]))
    np.testing.assert_allclose(clips[..., 3:], clip, atol=1e-6)
    np.testing.assert_allclose(clips[0, ..., :3], frames[:2] / 127.5 - 1, atol=1e-5)


def test_a_mirrored_flow_points_the_other_way():
    video = jnp.asarray(np.arange(1 * 1 * 1 * 4 * 5).reshape(1, 1, 1, 4, 5), jnp.uint8)
    keys = jax.random.split(jax.random.key(0), 40)
    for channels in (slice(3, 5), slice(0, 5)):
        part = jnp.tile(video[..., channels], (40, 1, 1, 1, 1))
        flipped = np.asarray(random_flip(part, keys))
        expected = np.asarray(part[0, :, :, ::-1]).copy()
        expected[..., -2] = 255 - expected[..., -2]
        changed = (flipped != np.asarray(part)).any((1, 2, 3, 4))
        assert 8 < changed.sum() < 32
        assert all((one == expected).all() for one in flipped[changed])


class Steps(nn.Module):
    """Predicts at every frame in training and at the last one at test, and sows a loss."""

    dtype = jnp.float32
    num_classes = 5

    @nn.compact
    def __call__(self, x, *, train):
        logits = nn.Dense(5, name="fc")(x.mean((2, 3)))
        self.sow("losses", "size", 0.25 + 0 * logits.mean())
        return (logits if train else logits[:, -1]), {}


def test_losses_of_every_step_and_of_the_network():
    model, data = Steps(), batch(4)
    variables = init_variables(model, PRE, 0)
    optimizer = optax.sgd(0.0)
    params = variables["params"]
    state = TrainState(jnp.zeros((), jnp.int32), params, {}, optimizer.init(params), None)
    step = make_train_step(model, optimizer, PRE, flip=False)
    _, metrics = step(state, data, jax.random.key(0))
    clip = normalize(data["video"], PRE, jnp.float32)
    logits, _ = model.apply({"params": params}, clip, train=True)
    own = jax.nn.log_softmax(logits)[np.arange(4), :, data["label"]]
    np.testing.assert_allclose(metrics["loss"], 0.25 - own.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["other_loss"], 0.25, rtol=1e-6)
    right = (logits[:, -1].argmax(-1) == data["label"]).mean()
    np.testing.assert_allclose(metrics["top1"], right)


def test_flip_depends_on_the_sample_and_not_on_its_place():
    video = jnp.arange(6, dtype=jnp.uint8).reshape(1, 1, 1, 6, 1) * jnp.ones(
        (64, 1, 1, 1, 1), jnp.uint8
    )
    samples = np.stack([np.zeros(64), np.arange(64), np.zeros(64)], 1).astype(np.int32)
    key = jax.random.key(0)
    flipped = random_flip(video, sample_keys(key, samples))
    mirrored = np.asarray(flipped[:, 0, 0, 0, 0] == 5)
    assert 16 < mirrored.sum() < 48
    np.testing.assert_array_equal(flipped[mirrored], video[mirrored][:, :, :, ::-1])
    np.testing.assert_array_equal(flipped[~mirrored], video[~mirrored])
    order = np.random.default_rng(0).permutation(64)
    again = random_flip(video, sample_keys(key, samples[order]))
    np.testing.assert_array_equal(again, flipped[order])
    next_epoch = random_flip(video, sample_keys(key, samples + np.asarray([1, 0, 0])))
    assert (np.asarray(next_epoch) != np.asarray(flipped)).any()


def test_weighted_mean_of_nothing_is_zero():
    assert weighted_mean(jnp.ones(3), jnp.zeros(3)) == 0


class Linear(nn.Module):
    """The smallest network: one prediction per clip."""

    dtype = jnp.float32
    num_classes = 5

    @nn.compact
    def __call__(self, x, *, train):
        del train
        return nn.Dense(5, name="fc")(x.reshape(len(x), -1)), {}


def linear(**arguments):
    """Returns the jitted step of the linear network, its state, and its prediction for a clip."""
    model = Linear()
    params = init_variables(model, PRE, 0)["params"]
    optimizer = optax.sgd(0.1)
    state = TrainState(jnp.zeros((), jnp.int32), params, {}, optimizer.init(params), None)
    step = make_train_step(model, optimizer, PRE, flip=False, **arguments)
    return (
        step,
        state,
        lambda clip: np.asarray(model.apply({"params": params}, clip, train=True)[0]),
    )


def test_the_average_of_weights():
    """keep a + (1 - keep) w after every step, with keep 1/10, 2/11, 3/12 and then at most 0.25."""
    step, state, _ = linear(ema=0.25)
    state = state.replace(ema={"params": state.params, "batch_stats": {}})
    average = np.asarray(state.params["fc"]["bias"])
    for keep in (1 / 10, 2 / 11, 1 / 4, 1 / 4):
        state, _ = jax.jit(step)(state, batch(6), jax.random.key(0))
        average = keep * average + (1 - keep) * np.asarray(state.params["fc"]["bias"])
        found = state.ema["params"]["fc"]["bias"]
        np.testing.assert_allclose(found, average, rtol=1e-5, atol=1e-7)
    assert np.abs(average - np.asarray(state.params["fc"]["bias"])).max() > 1e-5


@pytest.mark.full
def test_parts_of_a_batch_are_whole_groups():
    """Without BN, two micro-batches give the same result as the whole batch."""
    one, state, _ = linear()
    two, _, _ = linear(accumulate=2)
    data = batch(6)
    data["weight"][1] = 0
    whole, metrics = jax.jit(one)(state, data, jax.random.key(0))
    parts, others = jax.jit(two)(state, data, jax.random.key(0))
    for name in ("loss", "top1", "grad_norm"):
        np.testing.assert_allclose(others[name], metrics[name], rtol=1e-5)
    np.testing.assert_allclose(
        parts.params["fc"]["kernel"], whole.params["fc"]["kernel"], rtol=1e-5, atol=1e-7
    )
    assert np.asarray(metrics["broken"]).tolist() == [-1, 1, -1, -1, -1, -1]
    model, optimizer, _ = setup(bn_groups=3)
    with pytest.raises(ConfigError, match=r"accumulate=2: must divide config.model.bn_groups=3"):
        make_train_step(model, optimizer, PRE, flip=False, accumulate=2)


def test_the_loss_of_several_labels():
    """The mean over clips and classes of the negative log-likelihood of the sigmoid."""
    step, state, answer = linear()
    data = batch(6)
    data["label"] = (np.arange(30).reshape(6, 5) % 3 == 0).astype(np.float32)
    data["weight"][2] = 0
    _, metrics = jax.jit(step)(state, data, jax.random.key(0))
    logits = answer(normalize(data["video"], PRE, jnp.float32)).astype(float)
    right = np.where(data["label"] == 1, 1, -1) * logits
    losses = np.log1p(np.exp(-right)).mean(1)
    counted = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(metrics["loss"], losses[counted].mean(), rtol=1e-5)
    hits = [data["label"][i, logits[i].argmax()] for i in counted]
    np.testing.assert_allclose(metrics["top1"], np.mean(hits))


def focal(logits, targets):
    """A loss from outside of the package (arXiv 1708.02002)."""
    p = jax.nn.log_softmax(logits)
    return -(targets[:, None] * (1 - jnp.exp(p)) ** 2 * p).sum(-1).mean(1)


def test_a_loss_from_outside(monkeypatch):
    """As a function and as a row of the table; only clips of non-zero weight count."""
    data = batch(6)
    data["weight"][2] = 0
    step, state, answer = linear(loss=focal)
    new, metrics = jax.jit(step)(state, data, jax.random.key(0))
    logits = answer(normalize(data["video"], PRE, jnp.float32)).astype(float)
    p = np.exp(logits - np.logaddexp.reduce(logits, 1, keepdims=True))[np.arange(6), data["label"]]
    losses = -((1 - p) ** 2) * np.log(p)
    np.testing.assert_allclose(metrics["loss"], losses[[0, 1, 3, 4, 5]].mean(), rtol=1e-5)
    moved = np.asarray(new.params["fc"]["bias"] - state.params["fc"]["bias"])
    assert np.abs(moved).max() > 1e-4

    monkeypatch.setitem(LOSSES, "focal", focal)
    step, state, _ = linear(loss="focal")
    named, _ = jax.jit(step)(state, data, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, named, new)


def test_the_caller_chooses_the_loss():
    """One class per clip by the sigmoid, several by the softmax; mse by values of any size."""
    data = batch(6)
    step, state, answer = linear(loss="sigmoid")
    logits = answer(normalize(data["video"], PRE, jnp.float32)).astype(float)
    one_hot = np.eye(5)[data["label"]]
    _, metrics = jax.jit(step)(state, data, jax.random.key(0))
    losses = (np.logaddexp(0, logits) - one_hot * logits).mean(1)
    np.testing.assert_allclose(metrics["loss"], losses.mean(), rtol=1e-5)

    data["label"] = (np.arange(30).reshape(6, 5) % 3 == 0).astype(np.float32)
    step, _, _ = linear(loss="softmax")
    _, metrics = jax.jit(step)(state, data, jax.random.key(0))
    losses = -(data["label"] * (logits - np.logaddexp.reduce(logits, 1, keepdims=True))).sum(1)
    np.testing.assert_allclose(metrics["loss"], losses.mean(), rtol=1e-5)

    data["label"] = np.linspace(-3, 3, 30, dtype=np.float32).reshape(6, 5)
    step, _, _ = linear(loss="mse")
    _, metrics = jax.jit(step)(state, data, jax.random.key(0))
    np.testing.assert_allclose(metrics["loss"], ((logits - data["label"]) ** 2).mean(), rtol=1e-5)


def test_a_network_that_needs_no_labels():
    """Only the sown loss is used; labels have no effect."""
    model, data = Steps(), batch(4)
    optimizer = optax.sgd(0.1)
    state = first_state(init_variables(model, PRE, 0), optimizer)
    step = jax.jit(make_train_step(model, optimizer, PRE, flip=False, loss="none"))
    new, metrics = step(state, data, jax.random.key(0))
    assert float(metrics["loss"]) == float(metrics["other_loss"]) == 0.25
    jax.tree.map(np.testing.assert_array_equal, new.params, state.params)


def test_unknown_losses():
    text = f"loss='hinge': allowed are {', '.join(LOSSES)}, or ''"
    with pytest.raises(ConfigError, match=text):
        make_train_step(Linear(), optax.sgd(0.1), PRE, flip=False, loss="hinge")
    assert get_loss("") is LOSSES["softmax"]
    assert get_loss("", several=True) is LOSSES["sigmoid"]


@pytest.mark.parametrize("several", [False, True])
def test_mixed_clips_have_mixed_labels(several):
    augment = StepAugment(mixup=1.0, cutmix=1.0)
    smoothing = 0.0 if several else 0.1
    step, state, answer = linear(augment=augment, label_smoothing=smoothing)
    data, key = batch(8), jax.random.key(5)
    truth = np.eye(5)[data["label"]]
    if several:
        truth = (np.arange(40).reshape(8, 5) % 3 == 0).astype(float)
        data["label"] = truth.astype(np.float32)
    _, metrics = jax.jit(step)(state, data, key)
    keys = sample_keys(jax.random.fold_in(key, 4), data["sample"])
    clip = normalize(data["video"], PRE, jnp.float32)
    mixed, share = mix(clip, data["weight"], keys, mixup=1.0, cutmix=1.0)
    share = np.asarray(share, float)[:, None]
    truth = share * truth + (1 - share) * truth[[4, 5, 6, 7, 0, 1, 2, 3]]
    targets = (1 - smoothing) * truth + smoothing / 5
    logits = answer(mixed).astype(float)
    if several:
        losses = (np.logaddexp(0, logits) - targets * logits).mean(1)
    else:
        losses = np.logaddexp.reduce(logits, 1) - (targets * logits).sum(1)
    np.testing.assert_allclose(metrics["loss"], losses.mean(), rtol=1e-4)
    hits = truth[np.arange(8), logits.argmax(1)] >= 0.5
    np.testing.assert_allclose(metrics["top1"], hits.mean())


@pytest.mark.full
def test_augmentation_does_not_depend_on_devices():
    """Colors, erasing and partners half a batch away: on 8 devices as on 1."""
    augment = StepAugment(0.4, 0.4, 0.4, 0.1, 1, 9.0, erasing=0.5, mixup=0.8, cutmix=1.0)
    step, state, _ = linear(augment=augment)
    losses = []
    for count in (1, 8):
        mesh = jax.make_mesh(
            (count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count]
        )
        split = NamedSharding(mesh, PartitionSpec("data"))
        placed = jax.device_put(batch(), split)
        _, metrics = jax.jit(step)(
            jax.device_put(state, NamedSharding(mesh, PartitionSpec())), placed, jax.random.key(1)
        )
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    plain, state, _ = linear()
    _, metrics = jax.jit(plain)(state, batch(), jax.random.key(1))
    assert abs(float(metrics["loss"]) - losses[0]) > 1e-3


def test_what_cannot_be_augmented():
    two = {"mean": (0.0,) * 2, "std": (1.0,) * 2}
    stored = Preprocessing(frames=2, size=48, crop=48, modality="flow", flow="stored", **two)
    with pytest.raises(ConfigError, match="modality='flow' with flow='stored' has none"):
        make_train_step(Linear(), optax.sgd(0.1), stored, flip=True, augment=StepAugment(hue=0.1))
    step, state, _ = linear(label_smoothing=0.1)
    data = {**batch(2), "label": np.zeros((2, 5), np.float32)}
    with pytest.raises(ConfigError, match=r"label_smoothing=0\.1: must be 0 for multi-label"):
        jax.eval_shape(step, state, data, jax.random.key(0))
