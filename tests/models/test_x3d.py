"""X3D: its rules by hand, its names in other libraries, and pytorchvideo's network."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvideo import create_model
from jaxvideo.layers import BatchNorm
from jaxvideo.models import MODELS
from jaxvideo.models.heads import joint_answer
from jaxvideo.models.summary import trace_of_clip
from jaxvideo.models.x3d import X3D, Block, SqueezeExcite, round_width
from jaxvideo.pretrained import read_weights
from jaxvideo.types import Lowering
from jaxvideo.weights import from_torch, tree
from tests.models.test_slowfast import (
    applied,
    block_outputs,
    clip_of,
    differences,
    hub,  # noqa: F401  (a fixture)
    plain,
    same_training_step,
    saved,
    started,
    to_torch,
)
from tests.models.test_slowfast_names import (
    SLOWFAST_TO_PYTORCHVIDEO,
    entries,
    renamed,
    shapes_of,
    torch_names,
)


@pytest.mark.parametrize(
    ("width", "expected"),
    [(1.0, (16, 24, 48, 96)), (2.0, (24, 48, 96, 192)), (2.9, (32, 72, 136, 280))],
)
def test_round_width(width, expected):
    """12 is rounded up to 16: 8 would be less than nine tenths of it."""
    assert tuple(round_width(c, width) for c in (12, 24, 48, 96)) == expected


@pytest.mark.parametrize(
    ("name", "blocks", "inner", "hidden"),
    [
        ("x3d_m", (3, 5, 11, 7), (54, 108, 216, 432), (8, 8, 16, 32)),
        ("x3d_l", (5, 10, 25, 15), (54, 108, 216, 432), (8, 8, 16, 32)),
        ("x3d_xl", (5, 10, 25, 15), (72, 162, 306, 630), (8, 16, 24, 40)),
    ],
)
def test_stages(name, blocks, inner, hidden):
    """Blocks, inner channels, and squeeze-and-excitation channels in every other block."""
    shapes = {n: leaf.shape for n, leaf in shapes_of(name).items()}
    for stage, (count, c, h) in enumerate(zip(blocks, inner, hidden, strict=True), start=2):
        where = f"params/res{stage}/block_"
        assert {
            int(n.removeprefix(where).split("/")[0]) for n in shapes if n.startswith(where)
        } == set(range(1, count + 1))
        for block in range(1, count + 1):
            assert shapes[f"{where}{block}/conv_b/kernel"] == (3, 3, 3, 1, c)
            excited = shapes.get(f"{where}{block}/se/fc1/kernel")
            assert excited == ((1, 1, 1, c, h) if block % 2 else None)


@pytest.mark.parametrize(
    ("name", "crop", "places"),
    [
        ("x3d_l", 356, 3),
        ("x3d_l", 312, 1),
        ("x3d_m", 256, 2),
        ("x3d_xs", 182, 2),
        ("x3d_xs", 160, 1),
    ],
)
def test_the_heads_positions(name, crop, places):
    model, frames = create_model(name), MODELS[name].preprocessing.frames
    traced = trace_of_clip(model, (frames, crop, crop, 3))
    assert traced.endpoints["fc2"].shape == (1, 1, places, places, 400)
    assert traced.logits.shape == (1, 400)


def test_squeeze_and_excitation_by_hand():
    x = clip_of((2, 3, 4, 5, 6))
    rng = np.random.default_rng(1)
    w1, b1, w2, b2 = (rng.standard_normal(s) for s in ((6, 8), (8,), (8, 6), (6,)))
    fc1, fc2 = ({"kernel": w[None, None, None], "bias": b} for w, b in ((w1, b1), (w2, b2)))
    variables = {"params": {"fc1": fc1, "fc2": fc2}}
    found = SqueezeExcite(8, plain).apply(variables, jnp.asarray(x), train=False)
    for n in range(2):
        gate = 1 / (1 + np.exp(-(np.maximum(x[n].mean((0, 1, 2)) @ w1 + b1, 0) @ w2 + b2)))
        np.testing.assert_allclose(found[n], x[n] * gate, rtol=1e-4, atol=1e-5)


def test_a_block_starts_as_its_shortcut():
    x = np.abs(clip_of((1, 2, 4, 4, 8)))
    found, _ = started(Block(18, 8, 1, True, True, plain, BatchNorm), x)
    np.testing.assert_array_equal(found, x)


def test_fresh_parameters():
    """He's standard deviation with fan-out; for a depthwise kernel fan-out is C times 27."""
    model = X3D(depth=0.2, lowering=Lowering.DIRECT)  # a block per stage
    deviations = {
        "res2/block_1/conv_b/kernel": 0.03704,
        "res5/block_1/conv_b/kernel": math.sqrt(2 / (432 * 27)),
        "res5/block_1/conv_a/kernel": math.sqrt(2 / 432),
        "conv1_temporal/kernel": math.sqrt(2 / (24 * 5)),
        "fc1/kernel": math.sqrt(2 / 2048),
        "fc2/kernel": 0.01,
    }

    @jax.jit
    def fresh(key):
        params = model.init(key, jnp.zeros((1, 1, 32, 32, 3)), train=False)["params"]
        flat = tree.flatten(params).items()
        return {n: p for n, p in flat if n in deviations or n.endswith("/scale")}

    params = {name: np.asarray(value) for name, value in fresh(jax.random.key(0)).items()}
    for name, std in deviations.items():
        # Five standard errors of a sample of this size.
        assert abs(params[name].std() / std - 1) < 5 / math.sqrt(2 * params[name].size), name
    for name, value in params.items():
        if name not in deviations:
            assert (value == (0.0 if "/bn_c/" in name else 1.0)).all(), name


# --- Names of other libraries -------------------------------------------------------------


def test_names_of_pytorchvideo():
    names = torch_names("x3d_m", from_torch.pytorchvideo)
    assert entries(names) == 563
    block = "blocks.1.res_blocks.0.branch2."
    expected = {
        "blocks.0.conv.conv_t.weight": (24, 3, 1, 3, 3),
        "blocks.0.conv.conv_xy.weight": (24, 1, 5, 1, 1),
        "blocks.0.norm.running_mean": (24,),
        f"{block}conv_a.weight": (54, 24, 1, 1, 1),
        f"{block}conv_b.weight": (54, 1, 3, 3, 3),
        f"{block}norm_b.0.weight": (54,),
        f"{block}norm_b.1.block.0.weight": (8, 54, 1, 1, 1),
        f"{block}norm_b.1.block.0.bias": (8,),
        f"{block}norm_b.1.block.2.weight": (54, 8, 1, 1, 1),
        f"{block}conv_c.weight": (24, 54, 1, 1, 1),
        "blocks.1.res_blocks.1.branch2.norm_b.0.running_var": (54,),
        "blocks.5.pool.pre_conv.weight": (432, 192, 1, 1, 1),
        "blocks.5.pool.pre_norm.bias": (432,),
        "blocks.5.proj.weight": (400, 2048),
        "blocks.5.proj.bias": (400,),
    }
    assert {name: names[name] for name in expected} == expected
    assert "blocks.1.res_blocks.0.branch1_norm.weight" not in names
    assert "blocks.2.res_blocks.0.branch1_norm.weight" in names


def test_names_of_pyslowfast():
    """PySlowFast has BN in the shortcut of res2, and other names in the stem."""
    names = torch_names("x3d_m", from_torch.pyslowfast, res2_shortcut_bn=True)
    assert entries(names) == 568
    assert names["s1.pathway0_stem.conv_xy.weight"] == (24, 3, 1, 3, 3)
    assert names["s1.pathway0_stem.conv.weight"] == (24, 1, 5, 1, 1)
    assert names["s2.pathway0_res0.branch2.se.fc1.weight"] == (8, 54, 1, 1, 1)
    rest = {n: s for n, s in names.items() if not n.startswith("s2.pathway0_res0.branch1_bn.")}
    assert len(names) - len(rest) == 4
    found = renamed(rest, SLOWFAST_TO_PYTORCHVIDEO, x3d=True)
    assert found == torch_names("x3d_m", from_torch.pytorchvideo)


@pytest.mark.parametrize("source", ["pytorchvideo", "pyslowfast"])
def test_a_file_without_torch(tmp_path, source):
    """There fc1 is a 1 x 1 x 1 convolution; X3D with seven classes."""
    form = {"res2_shortcut_bn": True} if source == "pyslowfast" else {}
    naming = getattr(from_torch, source)
    names = torch_names("x3d_xs", naming, num_classes=7, **form)
    rng = np.random.default_rng(0)
    arrays = {n: rng.uniform(0.5, 1.5, shape).astype(np.float32) for n, shape in names.items()}
    fc1 = "blocks.5.pool.post_conv.weight" if source == "pytorchvideo" else "head.lin_5.weight"
    assert arrays[fc1].shape == (2048, 432)
    arrays[fc1] = arrays[fc1][:, :, None, None, None]
    path = tmp_path / "x3d.npz"
    np.savez(path, **arrays)
    weights = read_weights("x3d_xs", path, source)
    positions = "logits" if source == "pytorchvideo" else "softmax"
    expected = {"name": "x3d_xs", "positions": positions, "num_classes": 7, **form}
    assert weights.model == expected
    kernel = weights.variables["params"]["fc1"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays[fc1][:, :, 0, 0, 0].T)


# --- Against pytorchvideo -----------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "shape"), [("x3d_xs", (4, 160, 192)), ("x3d_m", (16, 224, 224))], ids=["xs", "m"]
)
def test_x3d(hub, tmp_path, name, shape):  # noqa: F811
    """At 1 x 2 places of the head, whose softmaxes release 0.1.5 averages, and later ones the
    logits."""
    import torch

    network = getattr(hub, name)(model_num_class=7, head_activation=None)
    path, clip = tmp_path / "x3d.pyth", clip_of((1, *shape, 3))
    saved(network, path)
    weights = read_weights(name, path, "pytorchvideo")
    outputs = block_outputs(network, to_torch(clip))
    stages = dict(zip(("conv1", "res2", "res3", "res4", "res5", "logits"), outputs, strict=True))
    ours = applied(weights, clip)
    network.blocks[-1].activation = torch.nn.Softmax(dim=1)
    with torch.inference_mode():
        stages["probabilities"] = network.blocks[-1](outputs[-2])
    ours["probabilities"] = jax.nn.softmax(joint_answer(ours["fc2"], "softmax"))
    seen = differences(stages, ours)
    assert max(seen.values()) < 1e-4, seen


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:'saved_variables' is deprecated")
def test_a_training_step(hub, tmp_path):  # noqa: F811
    from pytorchvideo.models.x3d import create_x3d

    network = create_x3d(
        input_clip_length=4,
        input_crop_size=64,
        depth_factor=0.4,
        model_num_class=5,
        dropout_rate=0.0,
        head_activation=None,
    )
    form = {"depth": 0.4, "dropout_rate": 0.0}
    same_training_step(network, "x3d_xs", form, clip_of((4, 4, 64, 64, 3)), to_torch, tmp_path)
