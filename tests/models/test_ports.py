"""Compares our networks with other libraries' in torch, with equal random weights."""

import json
import pickle
from collections import OrderedDict
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvideo import create_model, load_weights
from jaxvideo.cli import main
from jaxvideo.models import MODELS
from jaxvideo.models.resnet3d import BLOCKS
from jaxvideo.pretrained import compare_with_reference, read_weights
from jaxvideo.types import Lowering
from jaxvideo.weights import files, reference, tree

torch = pytest.importorskip("torch", reason="needs the extra [torch]")
from tests.models import ports  # noqa: E402

pytestmark = pytest.mark.torch


def clip_of(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def to_torch(clip):
    return torch.from_numpy(clip.transpose(0, 4, 1, 2, 3).copy())


def from_torch(tensor):
    array = tensor.detach().numpy()
    return array.transpose(0, 2, 3, 4, 1) if array.ndim == 5 else array


def error(ours, theirs):
    assert ours.shape == theirs.shape
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def differing(ours, theirs, limit=1e-4):
    """Returns the tensors that differ by more than a limit, relative to their norm."""
    assert ours.keys() == theirs.keys()

    def distance(name):
        ours_, theirs_ = np.asarray(ours[name]), np.asarray(theirs[name])
        return float(np.linalg.norm(ours_ - theirs_) / np.linalg.norm(theirs_))

    return {name: d for name in ours if not (d := distance(name)) < limit}


def same_stages(name, variables, clip, stages, limit=1e-4, **arguments):
    # DIRECT compiles fastest; other tests compare the lowerings.
    model = create_model(name, **arguments, lowering=Lowering.DIRECT)
    _, endpoints = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, clip)
    seen = {}
    with torch.inference_mode():
        for stage, theirs in stages:
            seen[stage] = error(endpoints[stage], from_torch(theirs))
    assert max(seen.values()) < limit, seen
    return seen


@pytest.fixture(scope="module")
def torchvision():
    try:
        return reference.torchvision()
    except ImportError:
        pytest.skip("needs torchvision, installed with --no-deps")


@pytest.fixture
def f64():
    with jax.enable_x64(True):
        yield


FULL_SIZE = [(1, 16, 112, 112, 3), (1, 13, 97, 113, 3)]
SHORT = [(1, frames, 32, 32, 3) for frames in (3, 5, 6, 7)]


@pytest.mark.parametrize(
    "shape", [pytest.param(s, marks=pytest.mark.full) for s in FULL_SIZE] + SHORT, ids=str
)
@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18"])
def test_torchvision(torchvision, tmp_path, name, shape):
    network = ports.randomize(getattr(torchvision.models.video, name)(num_classes=400))
    path, clip = tmp_path / "weights.pt", clip_of(shape)
    torch.save(network.state_dict(), path)
    variables = load_weights(name, path, source="torchvision", num_classes=400)
    stages, _ = reference.torchvision_stages(name, files.read_arrays(path), 400, clip)
    # As in user code: only the name and the number of classes.
    model = create_model(name, num_classes=400)
    logits, endpoints = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, clip)
    ours = {**endpoints, "logits": logits}
    assert {stage: e for stage in stages if (e := error(ours[stage], stages[stage])) > 1e-4} == {}


@pytest.mark.full
@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18", "s3d"])
def test_a_training_step_of_torchvision(torchvision, f64, tmp_path, name):
    """Loss, gradients, running statistics and the weights after SGD with momentum and decay.

    In f64: in f32 rounding decides the sign of some units in front of a ReLU and the maximum of
    some pooling windows, so that torch's own f32 gradient is 2 % away from its f64 gradient.
    """
    network = ports.randomize(getattr(torchvision.models.video, name)(num_classes=7))
    network.double().train()
    shape, arguments = (4, 8, 16, 16, 3), {}
    if name == "s3d":
        shape, arguments = (4, 14, 17, 17, 3), {"dropout_rate": 0.0}
        # The average pool is for 7 x 7 positions.
        network.classifier[0].p, network.avgpool = 0.0, torch.nn.AvgPool3d((2, 1, 1))
    rate, decay, momentum = 0.01, 1e-3, 0.9
    path, labels = tmp_path / "weights.pt", np.array([3, 0, 6, 3])
    torch.save(network.state_dict(), path)
    variables = load_weights(name, path, source="torchvision")
    variables = jax.tree.map(np.float64, variables)
    # Other networks compute in f32 inside.
    arguments |= {"lowering": Lowering.DIRECT, "dtype": jnp.float64}
    model = create_model(name, num_classes=7, **arguments)
    optimizer = optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, momentum=momentum))
    theirs = torch.optim.SGD(network.parameters(), rate, momentum, weight_decay=decay)

    # f64 convolutions are loops that are fast only with LLVM's optimization.
    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})
    def step(params, stats, moments, clip):
        def loss_of(params):
            (logits, _), changed = model.apply(
                {"params": params, "batch_stats": stats}, clip, train=True, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), changed["batch_stats"]

        (loss, stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, moments = optimizer.update(gradient, moments, params)
        return loss, gradient, optax.apply_updates(params, updates), stats, moments

    params, stats = variables["params"], variables["batch_stats"]
    moments = optimizer.init(params)
    for seed in (1, 2):  # the second step has a momentum
        clip = np.float64(clip_of(shape, seed))
        theirs.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(to_torch(clip)), torch.from_numpy(labels))
        loss.backward()
        gradients = {k: p.grad.clone() for k, p in network.named_parameters()}
        theirs.step()
        ours, gradient, params, stats, moments = step(params, stats, moments, clip)
        assert abs(float(ours) - loss.item()) < 1e-5 * abs(loss.item())
        # The gradients and state of torch, converted by the importer.
        torch.save({**network.state_dict(), **gradients}, path)
        expected = load_weights(name, path, source="torchvision")["params"]
        assert differing(tree.flatten(gradient), tree.flatten(expected)) == {}, seed
        torch.save(network.state_dict(), path)
        expected = load_weights(name, path, source="torchvision")
        found = {"params": params, "batch_stats": stats}
        assert differing(tree.flatten(found), tree.flatten(expected)) == {}, seed


HARA = {
    "resnet10_3d_a": {"shortcut": "A"},
    "resnet18_3d_b": {},
    "resnet50_3d_a": {"shortcut": "A", "expansion": 4},
    "resnet50_3d_b": {"expansion": 4},
    "preact_resnet18_3d": {"preactivation": True},
    "preact_resnet50_3d": {"preactivation": True, "expansion": 4},
    "wide_resnet50_3d": {"widen": 2, "expansion": 2},
    "resnext50_3d": {"widen": 2, "expansion": 2, "groups": 32, "width": 32},
    "r2plus1d_18_hara": {"factorized": True},
    "r2plus1d_50_hara": {"factorized": True, "expansion": 4},
}


@pytest.mark.parametrize("name", HARA)
def test_hara(tmp_path, name):
    depth = int("".join(c for c in name.split("_3d")[0].removeprefix("r2plus1d") if c.isdigit()))
    form = {"width": 8, **HARA[name]}
    network = ports.randomize(ports.HaraNet(BLOCKS[depth], **form))
    # Files of the old branch are training states with DataParallel's prefix.
    state = OrderedDict((f"module.{k}", v) for k, v in network.state_dict().items())
    path, width = tmp_path / "resnet.pth", form["width"]
    torch.save({"epoch": 200, "arch": name, "state_dict": state, "optimizer": {"a": [1]}}, path)
    variables = load_weights(name, path, source="hara", width=width / 64)
    clip = clip_of((2, 16, 49, 64, 3))
    stages = network.stages(to_torch(clip))
    same_stages(name, variables, clip, stages, width=width / 64, num_classes=5)


def test_p3d(tmp_path):
    network = ports.randomize(ports.P3DNet((3, 4, 6, 3)))
    path = tmp_path / "p3d.pth.tar"
    torch.save({"state_dict": network.state_dict()}, path)
    variables = read_weights("p3d_63", path, source="p3d-pytorch", width=1 / 8).variables
    clip = clip_of((2, 16, 64, 96, 3))
    arguments = {"width": 1 / 8, "num_classes": 5, "form": "port"}
    same_stages("p3d_63", variables, clip, network.stages(to_torch(clip)), **arguments)


@pytest.mark.parametrize(
    ("source", "name", "channels"),
    [("pytorch-i3d", "i3d_rgb", 3), ("kinetics-i3d-pytorch", "i3d_flow", 2)],
)
def test_i3d(tmp_path, source, name, channels):
    """Odd sizes, where TF's SAME pads differently; BN with a scale, which TF's net lacks."""
    network = ports.randomize(ports.I3DNet(source == "kinetics-i3d-pytorch", channels))
    path, clip = tmp_path / "i3d.pt", clip_of((2, 18, 65, 72, channels))
    torch.save(network.state_dict(), path)
    variables = read_weights(name, path, source=source, width=1 / 8).variables
    arguments = {"width": 1 / 8, "num_classes": 5, "bn_scale": True}
    same_stages(name, variables, clip, network.stages(to_torch(clip)), **arguments)


def test_s3d_of_min(tmp_path):
    network = ports.randomize(ports.MinNet())
    path, clip = tmp_path / "s3d.pt", clip_of((2, 18, 65, 72, 3))
    torch.save({f"module.{k}": v for k, v in network.state_dict().items()}, path)
    weights = read_weights("s3d", path, source="s3d-pytorch", width=1 / 8)
    stages = network.stages(to_torch(clip))
    same_stages("s3d", weights.variables, clip, stages, width=1 / 8, num_classes=5)
    # The pixels in its example are (2 x - 255) / 255.
    p = weights.preprocessing
    assert (p.range, p.mean, p.std) == ((-1.0, 1.0), (0.0,) * 3, (1.0,) * 3)


def test_s3d_of_torchvision(torchvision, tmp_path):
    """The network requires at least 14 frames of 224 x 224."""
    network = ports.randomize(torchvision.models.video.s3d(num_classes=400))
    path = tmp_path / "s3d.pth"
    torch.save(network.state_dict(), path)
    weights = read_weights("s3d", path, source="torchvision", frames=14)
    assert (weights.model, weights.preprocessing.fps) == ({"name": "s3d", "num_classes": 400}, 15.0)
    compared = compare_with_reference(weights, path)
    assert compared["clip"] == [1, 14, 224, 224, 3]
    assert list(compared["stages"]) == [*ports.INCEPTION_TRUNK, "logits"]
    assert max(compared["stages"].values()) < 1e-4, compared


_LETTERS = ("1a", "2a", "3a", "3b", "4a", "4b", "5a", "5b")
C3D_NAMES = {
    "c3d-caffe": [*(f"conv{x}" for x in _LETTERS), "fc6-1", "fc7-1", "fc8-1"],
    "c3d-pytorch": ["conv1", "conv2", *(f"conv{x}" for x in _LETTERS[2:]), "fc6", "fc7", "fc8"],
    "mmaction2": [
        *(f"backbone.conv{x}.conv" for x in _LETTERS),
        "backbone.fc6",
        "backbone.fc7",
        "cls_head.fc_cls",
    ],
}


@pytest.mark.parametrize("source", C3D_NAMES)
def test_c3d(tmp_path, source):
    """The flattened input of fc6 has another axis order than in the ports."""
    widths = [max(round(w / 8), 1) for w in (64, 128, 256, 256, 512, 512, 512, 512)]
    network = ports.randomize(ports.C3DNet(C3D_NAMES[source], widths, hidden=512))
    path, clip = tmp_path / "c3d.pickle", clip_of((2, 16, 112, 112, 3))
    torch.save(network.named_weights(), path)
    variables = read_weights("c3d_sports1m", path, source=source, width=1 / 8).variables
    pools = "ceil" if source == "c3d-caffe" else "symmetric"
    stages = network.stages(to_torch(clip), symmetric=pools == "symmetric")
    arguments = {"width": 1 / 8, "num_classes": 5, "pools": pools}
    same_stages("c3d_sports1m", variables, clip, stages, **arguments)


def vmz_network(torchvision, blocks):
    """Builds the network like ig65m-pytorch, with one mid width per convolution."""
    video = torchvision.models.video.resnet
    network = video.VideoResNet(
        video.BasicBlock, [video.Conv2Plus1D] * 4, blocks, video.R2Plus1dStem, num_classes=359
    )
    for layer, planes, mid in ((2, 128, 288), (3, 256, 576), (4, 512, 1152)):
        block = getattr(network, f"layer{layer}")[0]
        block.conv2[0] = video.Conv2Plus1D(planes, planes, mid)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.eps = 1e-3
    return ports.randomize(network)


def caffe2_blobs(state, blocks):
    """Renames weights to VMZ's names, which number the blocks across stages."""
    blobs = {"last_out_L359_w": state["fc.weight"], "last_out_L359_b": state["fc.bias"]}

    def bn(ours, theirs):
        for leaf, suffix in (
            ("weight", "s"),
            ("bias", "b"),
            ("running_mean", "rm"),
            ("running_var", "riv"),
        ):
            blobs[f"{ours}_{suffix}"] = state[f"{theirs}.{leaf}"]

    blobs["conv1_middle_w"] = state["stem.0.weight"]
    bn("conv1_middle_spatbn_relu", "stem.1")
    blobs["conv1_w"] = state["stem.3.weight"]
    bn("conv1_spatbn_relu", "stem.4")
    number = 0
    for layer, count in enumerate(blocks, start=1):
        for b in range(count):
            theirs = f"layer{layer}.{b}"
            for j in (1, 2):
                unit = f"{theirs}.conv{j}"
                blobs[f"comp_{number}_conv_{j}_middle_w"] = state[f"{unit}.0.0.weight"]
                bn(f"comp_{number}_spatbn_{j}_middle", f"{unit}.0.1")
                blobs[f"comp_{number}_conv_{j}_w"] = state[f"{unit}.0.3.weight"]
                bn(f"comp_{number}_spatbn_{j}", f"{unit}.1")
            if f"{theirs}.downsample.0.weight" in state:
                blobs[f"shortcut_projection_{number}_w"] = state[f"{theirs}.downsample.0.weight"]
                bn(f"shortcut_projection_{number}_spatbn", f"{theirs}.downsample.1")
            number += 1
    return {"blobs": {name: value.numpy() for name, value in blobs.items()}}


def test_vmz(torchvision, tmp_path):
    """IG-65M's R(2+1)D-34 has epsilon 1e-3; the import shifts the running variances."""
    network = vmz_network(torchvision, BLOCKS[34])
    path, clip = tmp_path / "r2plus1d_34.pth", clip_of((1, 8, 40, 56, 3))
    torch.save(network.state_dict(), path)
    variables = load_weights("r2plus1d_34", path, source="vmz")

    def stages(x):
        x = network.stem(x)
        yield "conv1", x
        for n in range(1, 5):
            x = getattr(network, f"layer{n}")(x)
            yield f"conv{n + 1}_x", x
        yield "fc", network.fc(x.mean((2, 3, 4)))

    same_stages("r2plus1d_34", variables, clip, stages(to_torch(clip)), num_classes=359)
    # With the same epsilon nothing is shifted.
    own = load_weights("r2plus1d_34", path, source="vmz", bn_epsilon=1e-3)
    np.testing.assert_array_equal(
        own["batch_stats"]["bn1"]["var"], network.stem[4].running_var.numpy()
    )
    pickled = tmp_path / "r2plus1d_34.pkl"
    pickled.write_bytes(pickle.dumps(caffe2_blobs(network.state_dict(), BLOCKS[34]), protocol=2))
    again = read_weights("r2plus1d_34", pickled, source="vmz-caffe2").variables
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_convert_compares_with_torchvision(torchvision, tmp_path, capsys):
    network = ports.randomize(torchvision.models.video.mc3_18(num_classes=400))
    path, out = tmp_path / "mc3_18.pth", tmp_path / "W.safetensors"
    torch.save({"epoch": 3, "state_dict": network.state_dict()}, path)
    command = ["convert", str(path), "--from", "torchvision", "--model", "mc3_18"]
    assert main([*command, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"from torchvision {torchvision.__version__}" in said
    manifest = json.loads(out.with_suffix(".json").read_text())
    stages = manifest["reference"]["stages"]
    assert list(stages) == ["conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x", "logits"]
    assert max(stages.values()) < 1e-4
    assert manifest["origin"]["source"] == "torchvision"
    assert manifest["preprocessing"]["fps"] == 15.0
    variables = load_weights("mc3_18", out)
    jax.tree.map(
        np.testing.assert_array_equal, variables, load_weights("mc3_18", path, "torchvision")
    )


def test_every_model_with_weights_has_a_source():
    from jaxvideo.pretrained import SOURCES, sources_of

    for source, entry in SOURCES.items():
        assert [n for n in MODELS if source in sources_of(n)], entry.models


def test_shortcut_a_by_hand():
    """With zero convolutions, the output is every second pixel, with zeros in new channels."""
    model = create_model("resnet10_3d_a", width=1 / 16, num_classes=2)
    clip = jnp.asarray(clip_of((1, 16, 32, 32, 3)))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), clip, train=False))

    def fill(path, leaf):
        stage, name = path[1].key, path[-1].key
        ones = name in ("var", "scale")
        if stage == "conv1":
            return 0.1 * clip_of(leaf.shape)
        return np.ones(leaf.shape, np.float32) * ones

    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    _, ends = model.apply(variables, clip, train=False)
    pool, second = np.asarray(ends["pool1"]), np.asarray(ends["conv3_x"])
    np.testing.assert_allclose(second[..., :4], pool[:, ::2, ::2, ::2], rtol=1e-6)
    assert not second[..., 4:].any()
    last = np.asarray(ends["conv5_x"])
    np.testing.assert_allclose(last[..., :4], pool[:, ::8, ::8, ::8], rtol=1e-6)
    assert not last[..., 4:].any()
