"""SlowFast, ResNets with one pathway and CSN: by hand and against pytorchvideo."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvideo import create_model
from jaxvideo.layers import BatchNorm, Conv3D
from jaxvideo.models import MODELS
from jaxvideo.models.csn import Block as SeparatedBlock
from jaxvideo.models.heads import joint_answer, window_means
from jaxvideo.models.slowfast import NonLocal, SlowFast, Stage, slow_frames
from jaxvideo.models.summary import trace_of_clip
from jaxvideo.pretrained import read_weights
from jaxvideo.types import ConfigError, Lowering
from jaxvideo.weights import tree


def clip_of(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def plain(features, kernel, strides=(1, 1, 1), groups=1, *, name, use_bias=False):
    """The convolution that the networks pass to their blocks."""
    more = {"use_bias": use_bias, "lowering": Lowering.DIRECT}
    return Conv3D(
        features, kernel, strides, tuple(k // 2 for k in kernel), groups, **more, name=name
    )


# --- By hand ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "sampling", "expected"),
    [
        (4, "linspace", [0, 4, 8, 13, 17, 22, 26, 31]),
        (8, "linspace", [0, 10, 20, 31]),
        (4, "stride", [0, 4, 8, 12, 16, 20, 24, 28]),
        (8, "stride", [0, 8, 16, 24]),
    ],
)
def test_slow_frames(alpha, sampling, expected):
    clip = jnp.arange(32.0).reshape(1, 32, 1, 1, 1)
    np.testing.assert_array_equal(slow_frames(clip, alpha, sampling).ravel(), expected)


def test_clips_that_do_not_fit():
    with pytest.raises(ConfigError, match="30 frames: alpha=4"):
        slow_frames(jnp.zeros((1, 30, 1, 1, 1)), 4, "linspace")


@pytest.mark.parametrize("lateral", ["none", "time_sample", "time_to_channel"])
def test_lateral_connections(lateral):
    """Slow channels come first, then the Fast channels frame by frame."""
    alpha, (n, t, h, w), fast_c = 2, (2, 3, 4, 5), 2
    slow, fast = clip_of((n, t, h, w, 7), 1), clip_of((n, alpha * t, h, w, fast_c), 2)
    network = SlowFast(alpha=alpha, lateral=lateral)
    found = network._joined(jnp.asarray(slow), jnp.asarray(fast), "conv1", False)
    count = {"none": 0, "time_sample": 1, "time_to_channel": alpha}[lateral]
    for i in range(t):
        np.testing.assert_array_equal(found[:, i, ..., :7], slow[:, i])
        for a in range(count):
            for c in range(fast_c):
                channel = 7 + a * fast_c + c
                np.testing.assert_array_equal(found[:, i, ..., channel], fast[:, 2 * i + a, ..., c])
    assert found.shape[-1] == 7 + count * fast_c


def test_positions_average_softmaxes_or_logits():
    logits = np.array([[[[[0.0, 2.0], [3.0, 1.0]]]]])  # two positions, two classes
    e = np.exp
    mean = (e(2.0) / (1 + e(2.0)) + e(1.0) / (e(3.0) + e(1.0))) / 2
    answer = jax.nn.softmax(joint_answer(jnp.asarray(logits), "softmax"))
    np.testing.assert_allclose(answer, [[1 - mean, mean]], rtol=1e-6)
    np.testing.assert_allclose(joint_answer(jnp.asarray(logits), "logits"), [[1.5, 1.5]])


def test_joint_answer_of_labels_that_do_not_exclude_each_other():
    """The logit of the mean probability: two positions with .9933 yield .9933."""
    logits = jnp.asarray(np.reshape([[5.0, 5.0, -90.0], [5.0, -1.0, -90.0]], (1, 1, 2, 1, 3)))
    joint = joint_answer(logits, "sigmoid")
    expected = jax.nn.sigmoid(logits).mean((1, 2, 3))
    np.testing.assert_allclose(jax.nn.sigmoid(joint), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.nn.sigmoid(joint)[0, 0], 0.99331, rtol=1e-5)
    np.testing.assert_allclose(joint[0, 2], -90, rtol=1e-5)


def test_windows_of_a_map():
    x = clip_of((1, 2, 3, 4, 1))
    expected = [[x[0, :, i : i + 2, j : j + 2].mean() for j in range(3)] for i in range(2)]
    found = window_means(jnp.asarray(x), 2)
    assert found.shape == (1, 1, 2, 3, 1)
    np.testing.assert_allclose(found[0, 0, ..., 0], expected, rtol=1e-5)
    # A map smaller than the window is one position.
    np.testing.assert_allclose(window_means(jnp.asarray(x), 9).ravel(), x.mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "crop", "places"),
    [("slowfast_r50", 256, (2, 2)), ("slowfast_r50", 224, (1, 1)), ("slow_r50", 256, (2, 2))],
)
def test_the_heads_positions(name, crop, places):
    model, frames = create_model(name), MODELS[name].preprocessing.frames
    traced = trace_of_clip(model, (frames, crop, crop, 3))
    assert traced.endpoints["fc"].shape == (1, 1, *places, 400)
    assert traced.logits.shape == (1, 400)


@pytest.mark.parametrize("kind", ["softmax", "dot_product", "gaussian"])
def test_non_local_by_hand(kind):
    c, inner = 4, 2
    x = clip_of((1, 2, 4, 4, c))
    block = NonLocal(kind, plain, BatchNorm)
    shapes = jax.eval_shape(partial(block.init, train=False), jax.random.key(0), x)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda s: rng.uniform(0.2, 1.0, s.shape).astype(np.float32), shapes)
    p, s = variables["params"], variables["batch_stats"]["bn"]

    def dense(name, rows):
        return rows @ p[name]["kernel"].reshape(rows.shape[-1], -1) + p[name]["bias"]

    queries = x.reshape(-1, c)
    # Keys and values of the 2 x 2 max pool of each frame.
    small = [
        x[0, t, i : i + 2, j : j + 2].max((0, 1)) for t in range(2) for i in (0, 2) for j in (0, 2)
    ]
    keys, values = np.stack(small), dense("g", np.stack(small))
    assert ("theta" in p, "phi" in p) == (kind != "gaussian",) * 2
    if kind != "gaussian":
        queries, keys = dense("theta", queries), dense("phi", keys)
    y = np.zeros((len(queries), inner))
    for q, query in enumerate(queries):
        affinity = np.array([query @ key for key in keys])
        if kind == "dot_product":
            weights = affinity / len(keys)
        else:
            weights = np.exp(affinity / len(query) ** 0.5)
            weights = weights / weights.sum()
        y[q] = weights @ values
    y = dense("out", y)
    y = (y - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["bn"]["scale"] + p["bn"]["bias"]
    found = block.apply(variables, x, train=False)
    np.testing.assert_allclose(found, x + y.reshape(x.shape), rtol=1e-4, atol=1e-5)


def started(module, x):
    """Output and parameters of a freshly initialized module."""
    key = jax.random.key(0, impl="rbg")  # compiles fastest
    return jax.jit(partial(module.init_with_output, train=False))(key, x)


@pytest.mark.full
def test_blocks_start_as_their_shortcuts():
    form = ("softmax", "first", True)
    x = np.abs(clip_of((1, 2, 4, 4, 16)))
    blocks = {
        "slowfast": Stage(4, 16, (3, 1), 1, (0, 1), form, plain, BatchNorm),
        "csn": SeparatedBlock(4, (1, 1, 1), True, plain, BatchNorm),
    }
    for name, block in blocks.items():
        found, _ = started(block, x)
        np.testing.assert_array_equal(found, x, err_msg=name)
    # A stage that changes the shape starts as the projection of its first block.
    stage = Stage(4, 24, (3, 1), 2, (), form, plain, BatchNorm)
    found, variables = started(stage, x)
    kernel = variables["params"]["block_1"]["projection"]["kernel"][0, 0, 0]
    expected = np.maximum(x[:, :, ::2, ::2] @ kernel / np.sqrt(1 + 1e-5), 0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# --- Against pytorchvideo -----------------------------------------------------------------


@pytest.fixture(scope="module")
def hub():
    """pytorchvideo's builders. It uses deprecated features of its dependencies."""
    pytest.importorskip("torch", reason="needs the extra [torch]")
    pytest.importorskip("pytorchvideo", reason="needs pytorchvideo, installed with --no-deps")
    from jaxvideo.weights import reference

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            reference.torchvision()
            from pytorchvideo.models import hub
        except ImportError as missing:
            pytest.skip(f"pytorchvideo needs {missing.name}")
    return hub


def to_torch(clip):
    import torch

    return torch.from_numpy(np.ascontiguousarray(clip.transpose(0, 4, 1, 2, 3)))


def saved(network, path):
    """Randomizes weights and statistics and writes them like a file of the hub."""
    import torch

    from tests.models import ports

    torch.save({"model_state": ports.randomize(network).state_dict()}, path)
    return network


def block_outputs(network, inputs):
    """Outputs of every block: a tensor, or a list of Slow and Fast."""
    import torch

    with torch.inference_mode():
        x, outputs = inputs, []
        for block in network.blocks:
            x = block(x)
            outputs.append(list(x) if isinstance(x, list) else x)
    return outputs


def differences(stages, endpoints):
    """Largest difference per stage, relative to its largest value."""
    seen = {}
    for name, tensor in stages.items():
        ours, theirs = np.asarray(endpoints[name]), tensor.numpy()
        theirs = theirs.transpose(0, 2, 3, 4, 1) if theirs.ndim == 5 else theirs
        assert ours.shape == theirs.shape, name
        seen[name] = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    return seen


def applied(weights, clip, **more):
    # DIRECT compiles fastest; other tests compare the lowerings.
    model = create_model(**weights.model, lowering=Lowering.DIRECT, **more)
    forward = jax.jit(lambda v, x: model.apply(v, x, train=False))
    logits, endpoints = forward(weights.variables, clip)
    return {**endpoints, "logits": logits}


@pytest.mark.torch
def test_slowfast(hub, tmp_path):
    """With 2 x 3 positions of the head and the Slow frames of pytorchvideo's own example."""
    network = hub.slowfast_r50(
        stem_dim_outs=(16, 2),
        model_num_class=7,
        head_pool_kernel_sizes=((8, 2, 2), (32, 2, 2)),
    )
    path, clip = tmp_path / "slowfast.pyth", clip_of((1, 32, 96, 128, 3))
    saved(network, path)
    weights = read_weights("slowfast_r50", path, "pytorchvideo", width=1 / 4)
    x = to_torch(clip)
    frames = [0, 4, 8, 13, 17, 22, 26, 31]
    outputs = block_outputs(network, [x[:, :, frames], x])
    stages = {"logits": outputs[-1]}
    for name, (slow, fast) in zip(("conv1", "res2", "res3", "res4", "res5"), outputs, strict=False):
        stages[f"fast_{name}"] = fast
        stages[f"slow_{name}"] = slow[:, : 8 * fast.shape[1]]
    seen = differences(stages, applied(weights, clip, pool=2))
    assert max(seen.values()) < 1e-4, seen


@pytest.mark.torch
@pytest.mark.parametrize("name", ["slow_r50", "c2d_r50", "i3d_r50"])
def test_one_pathway(hub, tmp_path, name):
    """The windows of slow_r50's head are fixed and too large for this clip."""
    narrow = {"stem_dim_out": 16, "model_num_class": 7}
    if name == "slow_r50":
        from pytorchvideo.models.resnet import create_resnet

        slow = {"stem_conv_kernel_size": (1, 7, 7), "head_pool_kernel_size": (8, 1, 1)}
        network = create_resnet(**narrow, **slow)
    else:
        network = getattr(hub, name)(**narrow, head_pool_kernel_size=(4, 1, 1))
    path, clip = tmp_path / "weights.pyth", clip_of((2, 8, 49, 64, 3))
    saved(network, path)
    weights = read_weights(name, path, "pytorchvideo", width=1 / 4)
    outputs = block_outputs(network, to_torch(clip))
    if name != "slow_r50":
        del outputs[2]  # the pool's
    stages = dict(zip(("conv1", "res2", "res3", "res4", "res5", "logits"), outputs, strict=True))
    seen = differences(stages, applied(weights, clip, pool=1))
    assert max(seen.values()) < 1e-4, seen


@pytest.mark.torch
def test_csn(hub, tmp_path):
    """pytorchvideo's stem includes the pool."""
    from torch import nn

    network = hub.csn_r101(stem_dim_out=16, model_num_class=7, head_pool=nn.AdaptiveAvgPool3d)
    path, clip = tmp_path / "csn.pyth", clip_of((1, 16, 49, 64, 3))
    saved(network, path)
    weights = read_weights("csn_r101", path, "pytorchvideo", width=1 / 4)
    outputs = block_outputs(network, to_torch(clip))
    stages = dict(zip(("pool1", "res2", "res3", "res4", "res5", "logits"), outputs, strict=True))
    seen = differences(stages, applied(weights, clip))
    assert max(seen.values()) < 1e-4, seen


def same_training_step(network, name, form, clip, inputs, folder):
    """Compares loss, gradients and running statistics of one step.

    Large BN biases keep almost all inputs of ReLUs away from 0, where rounding would decide the
    gradient. If no padding is between two BNs, the second one cancels the bias of the first. The
    gradient of such a bias is rounding error only, so all norms have a lower bound.
    """
    import torch

    from tests.models import ports

    ports.randomize(network).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.bias.data = 3 * module.weight.data
    path, labels = folder / "weights.pyth", np.array([3, 0, 4, 3])[: len(clip)]
    torch.save({"model_state": network.state_dict()}, path)
    weights = read_weights(name, path, "pytorchvideo", **form)
    theirs = torch.nn.functional.cross_entropy(network(inputs(clip)), torch.from_numpy(labels))
    theirs.backward()
    gradients = {n: p.grad for n, p in network.named_parameters()}
    # The gradients and statistics of torch, converted by the importer.
    torch.save({"model_state": {**network.state_dict(), **gradients}}, path)
    expected = read_weights(name, path, "pytorchvideo", **form).variables
    model = create_model(**weights.model, lowering=Lowering.DIRECT)

    # DIRECT compiles fastest.
    @partial(
        jax.jit,
        compiler_options={
            "xla_backend_optimization_level": 0,
            "xla_llvm_disable_expensive_passes": True,
        },
    )
    def step(params, statistics):
        def loss_of(params):
            variables = {"params": params, "batch_stats": statistics}
            (logits, _), changed = model.apply(variables, clip, train=True, mutable=["batch_stats"])
            rows = jnp.arange(len(labels))
            return -jax.nn.log_softmax(logits)[rows, labels].mean(), changed["batch_stats"]

        return jax.value_and_grad(loss_of, has_aux=True)(params)

    (loss, statistics), gradient = step(*(weights.variables[c] for c in ("params", "batch_stats")))
    assert abs(float(loss) - theirs.item()) < 1e-3 * abs(theirs.item())
    found = tree.flatten({"params": gradient, "batch_stats": statistics})
    far = {}
    for key, value in tree.flatten(expected).items():
        distance = np.linalg.norm(np.asarray(found[key]) - np.asarray(value))
        far[key] = float(distance / max(np.linalg.norm(value), 1e-2))
    assert {key: d for key, d in far.items() if not d < 1e-3} == {}


@pytest.mark.torch
def test_a_training_step(hub, tmp_path):
    """One block per stage, which pytorchvideo calls a depth of 18."""
    from pytorchvideo.models.slowfast import create_slowfast

    network = create_slowfast(
        slowfast_fusion_conv_kernel_size=(7, 1, 1),
        model_depth=18,
        model_num_class=5,
        dropout_rate=0.0,
        stem_dim_outs=(16, 2),
        head_pool_kernel_sizes=((2, 2, 2), (8, 2, 2)),
    )
    form = {"blocks": (1, 1, 1, 1), "width": 1 / 4, "dropout_rate": 0.0}
    clip = clip_of((4, 8, 64, 64, 3))

    def inputs(clip):
        x = to_torch(clip)
        return [x[:, :, [0, 7]], x]

    same_training_step(network, "slowfast_r50", form, clip, inputs, tmp_path)


def test_places_of_non_local_blocks_from_json():
    """Arguments of weights are JSON; modules are hashed and compared."""
    places = [["res3", [0, 2]], ["res4", [0, 2, 4]]]
    model = create_model("slow_r50_nl", non_local=places)
    same = create_model("slow_r50_nl", non_local=(("res3", (0, 2)), ("res4", (0, 2, 4))))
    assert model == same
    assert hash(model) == hash(same)
    assert model != create_model("slow_r50_nl")
