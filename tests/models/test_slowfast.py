"""SlowFast, the ResNets of one pathway, CSN: by hand, by names, and against pytorchvideo."""

import re
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
from jaxvideo.models.slowfast import (
    NonLocal,
    SlowFast,
    Stage,
    joint_answer,
    slow_frames,
    window_means,
)
from jaxvideo.pretrained import SOURCES, find_source, read_weights
from jaxvideo.types import CheckpointError, ConfigError, Lowering
from jaxvideo.weights import from_torch, tree


def shapes_of(name, **arguments):
    """Flat names of a registry model's variables to their shapes."""
    model, clip = create_model(name, **arguments), MODELS[name].preprocessing.shape
    clip, key = jax.ShapeDtypeStruct((1, *clip), jnp.float32), jax.random.key(0)
    return tree.flatten(jax.eval_shape(partial(model.init, train=False), key, clip))


def torch_names(name, naming, leaves=from_torch.TORCH_LEAVES, **arguments):
    """The names that a naming gives to a model's variables, to shapes in torch's order."""
    shapes = shapes_of(name, **arguments)
    places = {ours: ours.split("/", 1)[1].rsplit("/", 1) for ours in shapes}
    scopes = {scope for scope, _ in places.values()}
    order = {5: (4, 3, 0, 1, 2), 2: (1, 0), 1: (0,)}
    return {
        leaves[leaf].format(naming(scope, scopes)): tuple(
            shapes[ours].shape[axis] for axis in order[len(shapes[ours].shape)]
        )
        for ours, (scope, leaf) in places.items()
    }


def entries(names):
    """With a BN's count of batches, as torch lists them."""
    return len(names) + sum(name.endswith("running_mean") for name in names)


def clip_of(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def plain(features, kernel, strides=(1, 1, 1), groups=1, *, name, use_bias=False):
    """The convolution that the networks hand to their blocks."""
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
    """Slow channels first; then frame after frame, each with all its channels."""
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
    logits = np.array([[[[[0.0, 2.0], [3.0, 1.0]]]]])  # two places of two classes
    e = np.exp
    mean = (e(2.0) / (1 + e(2.0)) + e(1.0) / (e(3.0) + e(1.0))) / 2
    answer = jax.nn.softmax(joint_answer(jnp.asarray(logits), "softmax"))
    np.testing.assert_allclose(answer, [[1 - mean, mean]], rtol=1e-6)
    np.testing.assert_allclose(joint_answer(jnp.asarray(logits), "logits"), [[1.5, 1.5]])


def test_joint_answer_of_labels_that_do_not_exclude_each_other():
    """The logit of the mean probability: two positions of .9933 give .9933."""
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
    # A map that is smaller than the window is one place.
    np.testing.assert_allclose(window_means(jnp.asarray(x), 9).ravel(), x.mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "crop", "places"),
    [("slowfast_r50", 256, (2, 2)), ("slowfast_r50", 224, (1, 1)), ("slow_r50", 256, (2, 2))],
)
def test_the_heads_positions(name, crop, places):
    model, frames = create_model(name), MODELS[name].preprocessing.frames
    clip = jax.ShapeDtypeStruct((1, frames, crop, crop, 3), jnp.float32)
    key = jax.random.key(0)
    (logits, ends), _ = jax.eval_shape(partial(model.init_with_output, train=False), key, clip)
    assert ends["fc"].shape == (1, 1, *places, 400)
    assert logits.shape == (1, 400)


@pytest.mark.parametrize("kind", ["softmax", "dot_product"])
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

    queries = dense("theta", x.reshape(-1, c))
    # Keys and values of the maxima of 2 x 2 places of a frame.
    small = [
        x[0, t, i : i + 2, j : j + 2].max((0, 1)) for t in range(2) for i in (0, 2) for j in (0, 2)
    ]
    keys, values = dense("phi", np.stack(small)), dense("g", np.stack(small))
    y = np.zeros((len(queries), inner))
    for q, query in enumerate(queries):
        affinity = np.array([query @ key for key in keys])
        if kind == "softmax":
            weights = np.exp(affinity / inner**0.5)
            weights = weights / weights.sum()
        else:
            weights = affinity / len(keys)
        y[q] = weights @ values
    y = dense("out", y)
    y = (y - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["bn"]["scale"] + p["bn"]["bias"]
    found = block.apply(variables, x, train=False)
    np.testing.assert_allclose(found, x + y.reshape(x.shape), rtol=1e-4, atol=1e-5)


def started(module, x):
    """What a module with fresh parameters gives, and the parameters."""
    key = jax.random.key(0, impl="rbg")  # compiles soonest
    return jax.jit(partial(module.init_with_output, train=False))(key, x)


@pytest.mark.full
def test_blocks_start_as_their_shortcuts():
    x = np.abs(clip_of((1, 2, 4, 4, 16)))
    blocks = {
        "slowfast": Stage(4, 16, (3, 1), 1, (0, 1), "softmax", plain, BatchNorm),
        "csn": SeparatedBlock(4, (1, 1, 1), True, plain, BatchNorm),
    }
    for name, block in blocks.items():
        found, _ = started(block, x)
        np.testing.assert_array_equal(found, x, err_msg=name)
    # And a stage that changes the map is its first block's projection.
    stage = Stage(4, 24, (3, 1), 2, (), "softmax", plain, BatchNorm)
    found, variables = started(stage, x)
    kernel = variables["params"]["block_1"]["projection"]["kernel"][0, 0, 0]
    expected = np.maximum(x[:, :, ::2, ::2] @ kernel / np.sqrt(1 + 1e-5), 0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# --- Names of other libraries -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "naming", "count"),
    [
        ("slow_r50", "pytorchvideo", 320),
        ("slowfast_r50", "pytorchvideo", 662),
        ("i3d_r50", "pytorchvideo_pooled", 320),
        ("c2d_r50", "pytorchvideo_pooled", 320),
        ("csn_r101", "pytorchvideo", 626),
        ("slow_r50", "pyslowfast", 320),
        ("slowfast_r50", "pyslowfast", 662),
        ("i3d_r50_nl", "pyslowfast", 385),
    ],
)
def test_counts_of_names(name, naming, count):
    assert entries(torch_names(name, getattr(from_torch, naming))) == count


def test_names_of_pytorchvideo():
    names = torch_names("slowfast_r50", from_torch.pytorchvideo)
    slow, fast = (f"blocks.4.multipathway_blocks.{p}.res_blocks.0." for p in (0, 1))
    expected = {
        "blocks.0.multipathway_blocks.0.conv.weight": (64, 3, 1, 7, 7),
        "blocks.0.multipathway_blocks.1.conv.weight": (8, 3, 5, 7, 7),
        "blocks.0.multipathway_blocks.1.norm.running_var": (8,),
        "blocks.0.multipathway_fusion.conv_fast_to_slow.weight": (16, 8, 7, 1, 1),
        "blocks.1.multipathway_fusion.conv_fast_to_slow.weight": (64, 32, 7, 1, 1),
        "blocks.2.multipathway_fusion.conv_fast_to_slow.weight": (128, 64, 7, 1, 1),
        "blocks.3.multipathway_fusion.conv_fast_to_slow.weight": (256, 128, 7, 1, 1),
        "blocks.3.multipathway_fusion.norm.bias": (256,),
        f"{slow}branch1_conv.weight": (2048, 1280, 1, 1, 1),
        f"{slow}branch2.conv_a.weight": (512, 1280, 3, 1, 1),
        f"{fast}branch2.conv_a.weight": (64, 128, 3, 1, 1),
        "blocks.6.proj.weight": (400, 2304),
    }
    assert {name: names[name] for name in expected} == expected
    slow = torch_names("slow_r50", from_torch.pytorchvideo)
    assert slow["blocks.3.res_blocks.5.branch2.conv_a.weight"] == (256, 1024, 3, 1, 1)
    assert slow["blocks.5.proj.weight"] == (400, 2048)
    i3d = torch_names("i3d_r50", from_torch.pytorchvideo_pooled)
    assert i3d["blocks.0.conv.weight"] == (64, 3, 5, 7, 7)
    assert i3d["blocks.6.proj.weight"] == (400, 2048)
    assert {int(name.split(".")[1]) for name in i3d} == {0, 1, 3, 4, 5, 6}
    csn = torch_names("csn_r101", from_torch.pytorchvideo)
    assert csn["blocks.1.res_blocks.0.branch2.conv_b.weight"] == (64, 1, 3, 3, 3)
    assert csn["blocks.5.proj.bias"] == (400,)


# Rules between the libraries' own names; a pathway is `pathway0` in nets of one, too.
SLOWFAST_TO_PYTORCHVIDEO = {
    r"^s1\.pathway0_stem\.conv_xy": "blocks.0.conv.conv_t",
    r"^s1\.pathway(\d)_stem\.conv\b": r"blocks.0.multipathway_blocks.\1.conv",
    r"^s1\.pathway(\d)_stem\.bn": r"blocks.0.multipathway_blocks.\1.norm",
    r"^s(\d)_fuse\.conv_f2s": r"blocks.s\1.multipathway_fusion.conv_fast_to_slow",
    r"^s(\d)_fuse\.bn": r"blocks.s\1.multipathway_fusion.norm",
    r"^s(\d)\.pathway(\d)_res(\d+)\.": r"blocks.s\1.multipathway_blocks.\2.res_blocks.\3.",
    r"\.branch1\.": ".branch1_conv.",
    r"\.branch1_bn\.": ".branch1_norm.",
    r"\.branch2\.([abc])\.": r".branch2.conv_\1.",
    r"\.branch2\.([abc])_bn\.": r".branch2.norm_\1.",
    r"\.branch2\.se\.fc1": ".branch2.norm_b.1.block.0",
    r"\.branch2\.se\.fc2": ".branch2.norm_b.1.block.2",
    r"^head\.conv_5\.": "blocks.5.pool.pre_conv.",
    r"^head\.conv_5_bn": "blocks.5.pool.pre_norm",
    r"^head\.lin_5": "blocks.5.pool.post_conv",
}


def renamed(names, rules, two=False, pooled=False, x3d=False):
    """Names of PySlowFast as pytorchvideo has them."""

    def rename(name):
        name = from_torch.replaced(name, rules)
        # Stage k is block k - 1, unless a pool without weights is block 2.
        name = re.sub(
            r"^blocks\.s(\d)", lambda m: f"blocks.{int(m[1]) - (not pooled or m[1] < '3')}", name
        )
        name = name.replace("head.projection", f"blocks.{6 if two or pooled else 5}.proj")
        if x3d:
            name = re.sub(r"\.norm_b\.(?!1)", ".norm_b.0.", name)
            name = re.sub(r"^(blocks\.0\.multipathway_blocks\.0\.conv)\b", r"\1.conv_xy", name)
        return name if two else name.replace(".multipathway_blocks.0", "")

    return {rename(name): shape for name, shape in names.items()}


@pytest.mark.full
@pytest.mark.parametrize("name", ["slowfast_r50", "slowfast_r101", "slow_r50", "i3d_r50"])
def test_pyslowfasts_names_become_pytorchvideos(name):
    two, pooled = name.startswith("slowfast"), name == "i3d_r50"
    theirs = from_torch.pytorchvideo_pooled if pooled else from_torch.pytorchvideo
    names = torch_names(name, from_torch.pyslowfast)
    assert renamed(names, SLOWFAST_TO_PYTORCHVIDEO, two, pooled) == torch_names(name, theirs)


def test_names_of_non_local_blocks():
    """After the 2nd and 4th block of res3, the 2nd, 4th and 6th of res4."""
    names = torch_names("i3d_r50_nl", from_torch.pyslowfast)
    assert names["s4.pathway0_nonlocal1.conv_theta.weight"] == (512, 1024, 1, 1, 1)
    assert names["s4.pathway0_nonlocal5.conv_out.weight"] == (1024, 512, 1, 1, 1)
    assert names["s3.pathway0_nonlocal3.bn.running_mean"] == (512,)
    places = {n.split(".conv")[0] for n in names if "nonlocal" in n and ".conv" in n}
    assert places == {f"s{k}.pathway0_nonlocal{i}" for k, i in ("31", "33", "41", "43", "45")}


# The rules by which PySlowFast reads its Caffe2 pickles.
CAFFE2_TO_PYSLOWFAST = {
    r"^nonlocal_conv(\d)_(\d+)_bn_": r"s\1.pathway0_nonlocal\2.bn_",
    r"^nonlocal_conv(\d)_(\d+)_(theta|phi|g|out)_": r"s\1.pathway0_nonlocal\2.conv_\3_",
    r"^t_pool1_subsample_bn_": "s1_fuse.bn_",
    r"^t_pool1_subsample_": "s1_fuse.conv_f2s_",
    r"^t_res(\d)_(\d+)_branch2c_bn_subsample_bn_": r"s\1_fuse.bn_",
    r"^t_res(\d)_(\d+)_branch2c_bn_subsample_": r"s\1_fuse.conv_f2s_",
    r"^t_res_conv1_bn_": "s1.pathway1_stem.bn_",
    r"^t_conv1_": "s1.pathway1_stem.conv_",
    r"^res_conv1_bn_": "s1.pathway0_stem.bn_",
    r"^conv1_xy_": "s1.pathway0_stem.conv_xy_",
    r"^conv1_": "s1.pathway0_stem.conv_",
    r"^t_res(\d)_(\d+)_": r"s\1.pathway1_res\2.",
    r"^res(\d)_(\d+)_": r"s\1.pathway0_res\2.",
    r"\.branch2b_bn_(fc\d)_": r".branch2.se.\1_",
    r"\.branch2([abc])_": r".branch2.\1_",
    r"^(conv_5|lin_5)": r"head.\1",
    r"^pred_": "head.projection_",
    r"_rm$": ".running_mean",
    r"_riv$": ".running_var",
    r"_[ws]$": ".weight",
    r"_b$": ".bias",
}


@pytest.mark.parametrize("source", ["pyslowfast", "pyslowfast-caffe2"])
def test_affinities_of_pyslowfasts_networks(source):
    """SLOW_NLN_*.yaml set NONLOCAL.INSTANTIATION to dot_product; the others keep softmax."""
    kinds = {
        name: create_model(name, **find_source(source, name).arguments).non_local_kind
        for name in ("slow_r50_nl", "i3d_r50_nl")
    }
    assert kinds == {"slow_r50_nl": "dot_product", "i3d_r50_nl": "softmax"}


@pytest.mark.full
@pytest.mark.parametrize("name", ["slowfast_r50", "slow_r50", "slowfast_16x8_r101_nl"])
def test_caffe2s_names_become_pyslowfasts(name):
    caffe2 = torch_names(name, from_torch.pyslowfast_caffe2, from_torch.CAFFE2_LEAVES)
    found = {from_torch.replaced(n, CAFFE2_TO_PYSLOWFAST): s for n, s in caffe2.items()}
    assert found == torch_names(name, from_torch.pyslowfast)
    if name == "slowfast_r50":
        assert {"t_pool1_subsample_w", "t_res4_5_branch2c_bn_subsample_bn_riv"} <= caffe2.keys()


def test_a_file_without_torch(tmp_path):
    """Another number of classes, the prefix of re-hosted weights, counts nobody needs."""
    small, rng = {"width": 8, "num_classes": 174}, np.random.default_rng(0)
    names = torch_names("slowfast_r50", from_torch.pytorchvideo, **small)
    arrays = {
        f"model.{name}": rng.uniform(0.5, 1.5, shape).astype(np.float32)
        for name, shape in names.items()
    }
    path = tmp_path / "weights.npz"
    np.savez(path, **arrays, **{"model.blocks.0.norm.num_batches_tracked": np.asarray(3)})
    weights = read_weights("slowfast_r50", path, "pytorchvideo", width=8)
    assert weights.model == {
        "name": "slowfast_r50",
        "positions": "logits",
        "width": 8,
        "num_classes": 174,
    }
    assert weights.preprocessing == MODELS["slowfast_r50"].preprocessing
    kernel = weights.variables["params"]["fast_res5"]["block_2"]["conv_b"]["kernel"]
    theirs = arrays["model.blocks.4.multipathway_blocks.1.res_blocks.1.branch2.conv_b.weight"]
    np.testing.assert_array_equal(kernel, theirs.transpose(2, 3, 4, 1, 0))
    with pytest.raises(CheckpointError, match=r'another number of classes: leave_out=\("fc/\*",\)'):
        read_weights("slowfast_r50", path, "pytorchvideo", width=8, num_classes=5)
    assert SOURCES["pyslowfast"].arguments == {"positions": "softmax"}


# --- Against pytorchvideo -----------------------------------------------------------------


@pytest.fixture(scope="module")
def hub():
    """pytorchvideo's builders; it uses what its dependencies have deprecated since."""
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
    """Random weights and statistics, as a file of the hub."""
    import torch

    from tests.models import ports

    torch.save({"model_state": ports.randomize(network).state_dict()}, path)
    return network


def block_outputs(network, inputs):
    """What every block gives: a tensor, or a list of Slow and Fast."""
    import torch

    with torch.inference_mode():
        x, outputs = inputs, []
        for block in network.blocks:
            x = block(x)
            outputs.append(list(x) if isinstance(x, list) else x)
    return outputs


def differences(stages, endpoints):
    """The largest difference of each stage over its largest value."""
    seen = {}
    for name, tensor in stages.items():
        ours, theirs = np.asarray(endpoints[name]), tensor.numpy()
        theirs = theirs.transpose(0, 2, 3, 4, 1) if theirs.ndim == 5 else theirs
        assert ours.shape == theirs.shape, name
        seen[name] = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    return seen


def applied(weights, clip, **more):
    # Names and wiring are tested here; lowerings elsewhere, and this one compiles soonest.
    model = create_model(**weights.model, lowering=Lowering.DIRECT, **more)
    forward = jax.jit(lambda v, x: model.apply(v, x, train=False))
    logits, endpoints = forward(weights.variables, clip)
    return {**endpoints, "logits": logits}


@pytest.mark.torch
def test_slowfast(hub, tmp_path):
    """At 2 x 3 places of the head; Slow frames as pytorchvideo's own example takes them."""
    network = hub.slowfast_r50(
        stem_dim_outs=(16, 2),
        model_num_class=7,
        head_pool_kernel_sizes=((8, 2, 2), (32, 2, 2)),
    )
    path, clip = tmp_path / "slowfast.pyth", clip_of((1, 32, 96, 128, 3))
    saved(network, path)
    weights = read_weights("slowfast_r50", path, "pytorchvideo", width=16)
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
    """The fixed windows of slow_r50's head are too large for so small a clip."""
    narrow = {"stem_dim_out": 16, "model_num_class": 7}
    if name == "slow_r50":
        from pytorchvideo.models.resnet import create_resnet

        slow = {"stem_conv_kernel_size": (1, 7, 7), "head_pool_kernel_size": (8, 1, 1)}
        network = create_resnet(**narrow, **slow)
    else:
        network = getattr(hub, name)(**narrow, head_pool_kernel_size=(4, 1, 1))
    path, clip = tmp_path / "weights.pyth", clip_of((2, 8, 49, 64, 3))
    saved(network, path)
    weights = read_weights(name, path, "pytorchvideo", width=16)
    outputs = block_outputs(network, to_torch(clip))
    if name != "slow_r50":
        del outputs[2]  # the pool's
    stages = dict(zip(("conv1", "res2", "res3", "res4", "res5", "logits"), outputs, strict=True))
    seen = differences(stages, applied(weights, clip, pool=1))
    assert max(seen.values()) < 1e-4, seen


@pytest.mark.torch
def test_csn(hub, tmp_path):
    """pytorchvideo's stem ends with the pool."""
    from torch import nn

    network = hub.csn_r101(stem_dim_out=16, model_num_class=7, head_pool=nn.AdaptiveAvgPool3d)
    path, clip = tmp_path / "csn.pyth", clip_of((1, 16, 49, 64, 3))
    saved(network, path)
    weights = read_weights("csn_r101", path, "pytorchvideo", width=16)
    outputs = block_outputs(network, to_torch(clip))
    stages = dict(zip(("pool1", "res2", "res3", "res4", "res5", "logits"), outputs, strict=True))
    seen = differences(stages, applied(weights, clip))
    assert max(seen.values()) < 1e-4, seen


def same_training_step(network, name, form, clip, inputs, folder):
    """Loss, gradients and running statistics of one step.

    BNs' biases of three scales leave next to no unit near a ReLU's corner, where rounding would
    decide. Where no padding lies between a BN and the next, the next takes away what the bias of
    the first adds: such a gradient is rounding alone, and a floor is under all norms.
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
    # Their gradients and statistics, brought to our names by the import itself.
    torch.save({"model_state": {**network.state_dict(), **gradients}}, path)
    expected = read_weights(name, path, "pytorchvideo", **form).variables
    model = create_model(**weights.model, lowering=Lowering.DIRECT)

    # These compile soonest.
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
    """With a block per stage, which pytorchvideo calls a depth of 18."""
    from pytorchvideo.models.slowfast import create_slowfast

    network = create_slowfast(
        slowfast_fusion_conv_kernel_size=(7, 1, 1),
        model_depth=18,
        model_num_class=5,
        dropout_rate=0.0,
        stem_dim_outs=(16, 2),
        head_pool_kernel_sizes=((2, 2, 2), (8, 2, 2)),
    )
    form = {"blocks": (1, 1, 1, 1), "width": 16, "dropout_rate": 0.0}
    clip = clip_of((4, 8, 64, 64, 3))

    def inputs(clip):
        x = to_torch(clip)
        return [x[:, :, [0, 7]], x]

    same_training_step(network, "slowfast_r50", form, clip, inputs, tmp_path)
