"""Names of variables of SlowFast, one-pathway ResNets and CSN in other libraries."""

import re

import numpy as np
import pytest

from jaxvideo import create_model
from jaxvideo.models import MODELS
from jaxvideo.pretrained import SOURCES, find_source, read_weights
from jaxvideo.types import CheckpointError
from jaxvideo.weights import from_torch, tree
from tests.models.test_zoo import facts


def shapes_of(name, **arguments):
    """Maps flat names of a network's variables to their shapes."""
    return tree.flatten(facts(name, **arguments).trace.variables)


def torch_names(name, naming, leaves=from_torch.TORCH_LEAVES, **arguments):
    """Maps the names of another library to shapes in torch's axis order."""
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
    """Number of entries in a state dict: BN also has a batch counter."""
    return len(names) + sum(name.endswith("running_mean") for name in names)


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


# Rules between the names of both libraries. A single pathway is `pathway0` too.
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
    """Renames PySlowFast's names to pytorchvideo's."""

    def rename(name):
        name = from_torch.replaced(name, rules)
        # Stage k is block k - 1, or block k after a pool, which is block 2.
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
    """After the 2nd and 4th block of res3 and the 2nd, 4th and 6th of res4."""
    names = torch_names("i3d_r50_nl", from_torch.pyslowfast)
    assert names["s4.pathway0_nonlocal1.conv_theta.weight"] == (512, 1024, 1, 1, 1)
    assert names["s4.pathway0_nonlocal5.conv_out.weight"] == (1024, 512, 1, 1, 1)
    assert names["s3.pathway0_nonlocal3.bn.running_mean"] == (512,)
    places = {n.split(".conv")[0] for n in names if "nonlocal" in n and ".conv" in n}
    assert places == {f"s{k}.pathway0_nonlocal{i}" for k, i in ("31", "33", "41", "43", "45")}


# PySlowFast's own rules for its Caffe2 pickles.
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
    """SLOW_NLN_*.yaml set NONLOCAL.INSTANTIATION to dot_product; the others use softmax."""
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
    """Another number of classes, a common prefix of all names, and batch counters."""
    small, rng = {"width": 1 / 8, "num_classes": 174}, np.random.default_rng(0)
    names = torch_names("slowfast_r50", from_torch.pytorchvideo, **small)
    arrays = {
        f"model.{name}": rng.uniform(0.5, 1.5, shape).astype(np.float32)
        for name, shape in names.items()
    }
    path = tmp_path / "weights.npz"
    np.savez(path, **arrays, **{"model.blocks.0.norm.num_batches_tracked": np.asarray(3)})
    weights = read_weights("slowfast_r50", path, "pytorchvideo", width=1 / 8)
    assert weights.model == {
        "name": "slowfast_r50",
        "positions": "logits",
        "width": 1 / 8,
        "num_classes": 174,
    }
    assert weights.preprocessing == MODELS["slowfast_r50"].preprocessing
    kernel = weights.variables["params"]["fast_res5"]["block_2"]["conv_b"]["kernel"]
    theirs = arrays["model.blocks.4.multipathway_blocks.1.res_blocks.1.branch2.conv_b.weight"]
    np.testing.assert_array_equal(kernel, theirs.transpose(2, 3, 4, 1, 0))
    with pytest.raises(CheckpointError, match=r'another number of classes: leave_out=\("fc/\*",\)'):
        read_weights("slowfast_r50", path, "pytorchvideo", width=1 / 8, num_classes=5)
    assert SOURCES["pyslowfast"].arguments == {"positions": "softmax"}
