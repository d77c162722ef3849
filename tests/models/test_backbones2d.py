"""Image networks of video models: published counts, sizes, parity with torch."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvideo.layers.conv import multiply_adds
from jaxvideo.layers.parameters import shapes_only
from jaxvideo.models.backbones2d import (
    BACKBONES,
    CONVNETS,
    INCEPTION,
    PARTIAL_BN,
    BNInception,
    ConvNet,
    ResNet2D,
    layers_up_to,
    local_response_norm,
)
from jaxvideo.models.summary import trace_of_clip
from jaxvideo.types import Lowering
from jaxvideo.weights import tree


def shapes_of(model, shape):
    """Shapes of variables and endpoints; nothing is run."""
    clip = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    seen = {}

    def forward(x):
        out, variables = model.init_with_output(jax.random.key(0), x, train=False)
        features, ends = out if isinstance(out, tuple) else (out, {})
        seen.update({name: end.shape[1:] for name, end in ends.items()})
        return variables, features

    with shapes_only():
        variables, features = jax.eval_shape(forward, clip)
    return variables, features.shape, seen


def size(variables):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(variables))


def random_variables(model, shape, seed=0):
    """Random variables for which every layer matters: BN statistics and offsets are not trivial."""
    rng = np.random.default_rng(seed)
    variables, _, _ = shapes_of(model, shape)

    def value(name, leaf):
        kind = name.split("/")[-1].split("_")[0]
        if kind == "kernel":
            return rng.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape)
        if kind in ("var", "scale"):
            return rng.uniform(0.5, 1.5, leaf.shape)
        return rng.normal(0, 0.1, leaf.shape)

    flat = {n: value(n, v).astype(np.float32) for n, v in tree.flatten(variables).items()}
    return tree.unflatten(flat)


def relative_error(ours, theirs):
    assert ours.shape == theirs.shape
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


# CNN-M and VGG-16 with 101 classes, on RGB and on 10 fields of flow.
@pytest.mark.parametrize(
    ("net", "channels", "parameters"),
    [
        ("cnn_m", 3, 90_627_813),
        ("cnn_m", 20, 90_707_781),
        ("cnn_m_temporal", 20, 90_707_781),
        ("vgg16", 20, 134_684_133),
    ],
)
def test_counts_of_convnets(net, channels, parameters):
    variables, _, _ = shapes_of(ConvNet(CONVNETS[net], 101), (1, 224, 224, channels))
    assert size(variables["params"]) == parameters


@pytest.mark.parametrize(("channels", "gigamacs"), [(3, 1.664), (20, 2.614)])
def test_multiply_adds_of_cnn_m(channels, gigamacs):
    net = ConvNet(CONVNETS["cnn_m"], 101)
    total = 18432 * 4096 + 4096 * 2048 + 2048 * 101
    for _, kernel, geometry in trace_of_clip(net, (1, 224, 224, channels)).convolutions:
        total += multiply_adds((*geometry.out_size, kernel[-1]), kernel)
    assert round(total / 1e9, 3) == gigamacs


def test_counts_of_batch_normalized_ones():
    """Without the classifiers: 101 classes for BN-Inception, 400 for ResNet-50 (mmaction2)."""
    inception, _, _ = shapes_of(BNInception(), (1, 224, 224, 3))
    assert size(inception["params"]) == 10_373_765 - (1024 + 1) * 101
    assert size(inception["batch_stats"]) == 20_032
    resnet, _, _ = shapes_of(ResNet2D(), (1, 224, 224, 3))
    assert round((size(resnet["params"]) + (2048 + 1) * 400) / 1e6, 2) == 24.33


@pytest.mark.parametrize(
    ("net", "crop", "sizes"),
    [
        ("cnn_m", 224, {"conv1": 109, "pool1": 54, "conv2": 26, "pool2": 13, "pool5": 6}),
        ("caffenet_hybrid", 227, {"conv1": 111, "pool1": 55, "conv2": 26, "pool2": 13, "pool5": 6}),
        ("vgg16", 224, {"pool1": 112, "pool2": 56, "pool3": 28, "pool4": 14, "pool5": 7}),
    ],
)
def test_sizes_of_convnets(net, crop, sizes):
    _, features, ends = shapes_of(ConvNet(CONVNETS[net]), (3, crop, crop, 3))
    assert {name: ends[name][1] for name in sizes} == sizes
    assert {end[0] for end in ends.values()} == {3}
    assert features[:4] == (1, 3, 1, 1)


@pytest.mark.parametrize("net", ["bn_inception", "resnet50"])
def test_sizes_of_batch_normalized_ones(net):
    _, features, ends = shapes_of(BACKBONES[net](), (2, 224, 224, 3))
    assert features == (1, 2, 7, 7, 1024 if net == "bn_inception" else 2048)
    if net == "bn_inception":
        channels = (256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024)
        assert [ends[f"inception_{row}"][-1] for row in INCEPTION] == list(channels)


@pytest.mark.parametrize("crop", [48, 57])
@pytest.mark.parametrize("net", [*CONVNETS, "bn_inception", "resnet50"])
def test_small_frames_and_widths(net, crop):
    make = BACKBONES[net] if net in BACKBONES else lambda **f: ConvNet(CONVNETS[net], 5, **f)
    variables, features, _ = shapes_of(make(width=0.25), (2, crop, crop, 3))
    assert features[:2] == (1, 2)
    stem = variables["params"]["conv1" if net != "vgg16" else "conv1_1"]["kernel"]
    assert stem.shape[-1] == (24 if net in ("cnn_m", "cnn_m_temporal", "caffenet_hybrid") else 16)


def test_points_of_a_net():
    vgg, cnn_m = CONVNETS["vgg16"], CONVNETS["cnn_m"]
    assert vgg[layers_up_to(vgg, "relu5") - 1].name == "conv5_3"
    assert cnn_m[layers_up_to(cnn_m, "relu2") - 1].name == "conv2"
    assert cnn_m[layers_up_to(cnn_m, "fc6") - 1].name == "fc6"


def test_a_net_in_parts_is_the_net():
    net = ConvNet(CONVNETS["cnn_m"], 5, 0.05)
    variables = random_variables(net, (2, 48, 48, 3))
    clip = np.random.default_rng(1).standard_normal((1, 2, 48, 48, 3), np.float32)
    names = {}

    @jax.jit
    def both(variables, clip):
        whole, ends = net.apply(variables, clip, train=False)
        half, first = net.apply(variables, clip, train=False, stop=6)
        rest, second = net.apply(variables, half, train=False, start=6)
        names.update(whole=list(ends), first=list(first), second=list(second))
        return whole, rest

    np.testing.assert_allclose(*both(variables, clip), rtol=1e-6)
    assert names["first"] + names["second"] == names["whole"]
    assert names["first"][-1] == "pool2"


def test_time_pool_is_the_maximum_over_frames():
    layers = CONVNETS["cnn_m"][:10]
    clip = np.random.default_rng(0).standard_normal((1, 3, 48, 48, 3), np.float32)
    variables = random_variables(ConvNet(layers, width=0.05), (3, 48, 48, 3))

    @functools.partial(jax.jit, static_argnames="time_pool")
    def features(time_pool):
        net = ConvNet(layers, width=0.05, time_pool=time_pool, lowering=Lowering.DIRECT)
        return net.apply(variables, clip, train=False)[0]

    each, pooled = features(time_pool=False), features(time_pool=True)
    assert pooled.shape[1] == 1
    np.testing.assert_array_equal(pooled, np.max(each, axis=1, keepdims=True))


def test_partial_bn_keeps_all_but_the_first():
    net = BNInception(width=0.05, partial_bn=True, lowering=Lowering.DIRECT)
    variables = random_variables(net, (1, 32, 32, 3))
    clip = np.random.default_rng(0).standard_normal((2, 1, 32, 32, 3), np.float32)

    def step(variables, clip):
        return net.apply(variables, clip, train=True, mutable=["batch_stats"])[1]["batch_stats"]

    before = tree.flatten(variables["batch_stats"])
    after = tree.flatten(jax.jit(step)(variables, clip))
    changed = {n for n in before if not np.array_equal(before[n], after[n])}
    assert changed == {"bn1/mean", "bn1/var"}


@pytest.mark.parametrize("net", ["bn_inception", "resnet50"])
def test_what_partial_bn_freezes(net):
    variables, _, _ = shapes_of(BACKBONES[net](), (1, 64, 64, 3))
    names = [f"net/{name}" for name in tree.flatten(variables["params"])]
    expected = {n for n in names if re.search(r"/bn[^/]*/(scale|bias)$", n) and "/bn1/" not in n}
    assert tree.matching(names, PARTIAL_BN, "frozen") == expected
    stats = tree.flatten(variables["batch_stats"])
    assert len(expected) == len(stats) - 2  # scale and offset of each BN except the first


def test_local_response_norm_by_hand():
    x = np.random.default_rng(0).standard_normal((2, 3, 7)).astype(np.float32) * 50
    expected = np.empty_like(x)
    for c in range(7):
        total = (x[..., max(c - 2, 0) : c + 3] ** 2).sum(-1)
        expected[..., c] = x[..., c] / (2 + 1e-4 * total) ** 0.75
    np.testing.assert_allclose(local_response_norm(x), expected, rtol=1e-5)


# --- The same weights in torch --------------------------------------------------------------


def to_torch(torch, array):
    """Transposes the kernel of a convolution, of a dense layer, or frames `[N, T, H, W, C]`."""
    return torch.from_numpy(np.array(array, np.float32))


def conv_weight(torch, kernel):
    return to_torch(torch, np.transpose(kernel[0], (3, 2, 0, 1)))


@pytest.mark.torch
def test_cnn_m_in_torch():
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    f = torch.nn.functional
    net = ConvNet(CONVNETS["cnn_m"], 7, 0.1, lowering=Lowering.DIRECT)
    variables = random_variables(net, (1, 112, 112, 3))
    clip = 40 * np.random.default_rng(1).standard_normal((2, 1, 112, 112, 3), np.float32)
    p = variables["params"]

    def conv(x, name, stride=1, padding=0):
        w, b = conv_weight(torch, p[name]["kernel"]), to_torch(torch, p[name]["bias"])
        return f.relu(f.conv2d(x, w, b, stride, padding))

    def pool(x):
        return f.max_pool2d(x, 3, 2, ceil_mode=True)

    def norm(x):  # torch divides alpha by the size
        return f.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0)

    def dense(x, name):
        return x @ to_torch(torch, p[name]["kernel"]) + to_torch(torch, p[name]["bias"])

    x = to_torch(torch, clip[:, 0].transpose(0, 3, 1, 2))
    x = pool(norm(conv(x, "conv1", 2)))
    x = pool(norm(conv(x, "conv2", 2, 1)))
    x = conv(conv(conv(x, "conv3", 1, 1), "conv4", 1, 1), "conv5", 1, 1)
    x = pool(x).permute(0, 2, 3, 1).flatten(1)
    x = dense(f.relu(dense(f.relu(dense(x, "fc6")), "fc7")), "fc8")
    ours, _ = jax.jit(lambda v, c: net.apply(v, c, train=False))(variables, clip)
    assert relative_error(ours[:, 0, 0, 0], x.numpy()) < 1e-4


# Rows of the paper's table: 1x1; reduce -> 3x3; reduce -> a,
# b; pool, projection.
ROWS = """
3a 64 64 64 64 96 ave 32
3b 64 64 96 64 96 ave 64
3c - 128 160 64 96 max -
4a 224 64 96 96 128 ave 128
4b 192 96 128 96 128 ave 128
4c 160 128 160 128 160 ave 128
4d 96 128 192 160 192 ave 128
4e - 128 192 192 256 max -
5a 352 192 320 160 224 ave 128
5b 352 192 320 192 224 max 128
"""


@pytest.mark.torch
def test_bn_inception_in_torch():
    """Caffe's pools round up, and its average pools count the padding."""
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    f = torch.nn.functional
    width = 0.125
    net = BNInception(width, lowering=Lowering.DIRECT)
    variables = random_variables(net, (1, 64, 64, 3))
    clip = np.random.default_rng(1).standard_normal((2, 1, 64, 64, 3), np.float32)

    def unit(x, scope, suffix, features, k, stride=1):
        p, s = variables["params"], variables["batch_stats"]
        for name in scope:
            p, s = p[name], s[name]
        conv, bn = ("conv1", "bn1") if suffix == "1" else (f"conv_{suffix}", f"bn_{suffix}")
        w = conv_weight(torch, p[conv]["kernel"])
        assert w.shape[0] == round(features * width)
        assert w.shape[2:] == (k, k)
        x = f.conv2d(x, w, to_torch(torch, p[conv]["bias"]), stride, k // 2)
        values = (s[bn]["mean"], s[bn]["var"], p[bn]["scale"], p[bn]["bias"])
        return f.relu(f.batch_norm(x, *(to_torch(torch, v) for v in values), eps=1e-5))

    def pool(x):
        return f.max_pool2d(x, 3, 2, ceil_mode=True)

    x = to_torch(torch, clip[:, 0].transpose(0, 3, 1, 2))
    x = pool(unit(x, (), "1", 64, 7, 2))
    x = pool(unit(unit(x, (), "2_reduce", 64, 1), (), "2", 192, 3))
    for row in ROWS.split("\n")[1:-1]:
        name, *numbers, kind, projection = row.split()
        one, r3, c3, rd, cd = (0 if n == "-" else int(n) for n in numbers)
        scope, stride = (f"inception_{name}",), 1 if one else 2
        branches = [unit(x, scope, "1x1", one, 1)] if one else []
        y = unit(x, scope, "3x3_reduce", r3, 1)
        branches.append(unit(y, scope, "3x3", c3, 3, stride))
        y = unit(unit(x, scope, "double_3x3_reduce", rd, 1), scope, "double_3x3_1", cd, 3)
        branches.append(unit(y, scope, "double_3x3_2", cd, 3, stride))
        if kind == "ave":
            y = f.avg_pool2d(x, 3, 1, 1, count_include_pad=True)
        elif stride == 2:
            y = pool(x)
        else:
            y = f.max_pool2d(x, 3, 1, 1)
        branches.append(y if projection == "-" else unit(y, scope, "pool_proj", int(projection), 1))
        x = torch.cat(branches, 1)
    ours, _ = jax.jit(lambda v, c: net.apply(v, c, train=False))(variables, clip)
    assert relative_error(ours[:, 0], x.permute(0, 2, 3, 1).numpy()) < 1e-4


@pytest.mark.torch
def test_resnet_in_torchvision():
    pytest.importorskip("torch", reason="needs the extra [torch]")
    import torch

    from jaxvideo.weights import reference

    try:
        torchvision = reference.torchvision()
    except ImportError:
        pytest.skip("needs torchvision, installed with --no-deps")
    resnet = torchvision.models.resnet
    theirs = resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 2]).eval()
    net = ResNet2D((1, 1, 1, 2), lowering=Lowering.DIRECT)
    variables = random_variables(net, (1, 64, 64, 3))
    leaves = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    state = {}
    for name, value in tree.flatten({**variables["params"]}).items():
        state[name] = value
    for name, value in tree.flatten({**variables["batch_stats"]}).items():
        state[name] = value

    def torch_name(name):
        name = re.sub(
            r"conv(\d)_x/block_(\d)/",
            lambda m: f"layer{int(m[1]) - 1}/{int(m[2]) - 1}/",
            name,
        )
        name = name.replace("bn_projection", "downsample/1").replace("projection", "downsample/0")
        name = re.sub(r"(conv|bn)_(\d)", r"\1\2", name)
        *scope, leaf = name.split("/")
        return ".".join((*scope, leaves.get(leaf, "weight")))

    def torch_value(value):
        return conv_weight(torch, value) if value.ndim == 5 else to_torch(torch, value)

    missing, unknown = theirs.load_state_dict(
        {torch_name(n): torch_value(v) for n, v in state.items()}, strict=False
    )
    assert not unknown
    assert all(name.startswith("fc.") or name.endswith("num_batches_tracked") for name in missing)
    clip = np.random.default_rng(1).standard_normal((2, 1, 64, 64, 3), np.float32)
    with torch.inference_mode():
        x = to_torch(torch, clip[:, 0].transpose(0, 3, 1, 2))
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        x = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(x))))
    ours, _ = jax.jit(lambda v, c: net.apply(v, c, train=False))(variables, clip)
    assert relative_error(ours[:, 0], x.permute(0, 2, 3, 1).numpy()) < 1e-4
