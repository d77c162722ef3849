"""Names and layouts of other libraries' weights, as functions of our names.

A naming is a function `(scope, names) -> their scope`: `scope` is ours without its leaf
(`conv2_x/block_1/bn_1`), `names` all our scopes, because some of theirs depend on the rest of
the network. The leaves differ by format only (`TORCH_LEAVES`, `CAFFE2_LEAVES`), and so do
layouts: theirs is (out, in, t, h, w), ours (t, h, w, in, out).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

import numpy as np

Naming = Callable[[str, Collection[str]], str]

TORCH_LEAVES = {
    "kernel": ".weight",
    "bias": ".bias",
    "scale": ".weight",
    "mean": ".running_mean",
    "var": ".running_var",
}
CAFFE2_LEAVES = {"kernel": "_w", "bias": "_b", "scale": "_s", "mean": "_rm", "var": "_riv"}

# Counts of batches, which nothing here uses, and the traces of an optimiser.
IGNORED = re.compile(r"num_batches_tracked$|_momentum$")


def to_ours(array: np.ndarray, shape: tuple[int, ...], flattened: int = 0) -> np.ndarray:
    """An array of theirs in our layout, f32.

    Args:
      shape: ours. A 2-D convolution's kernel becomes one with a single tap in time.
      flattened: channels C, if the array is the kernel of a dense layer that sees a map of
        features flattened in the order (C, T, H, W); ours sees (T, H, W, C).
    """
    if array.ndim == 4 and len(shape) == 5:
        array = array[:, :, None]
    if array.ndim == 5:
        array = array.transpose(2, 3, 4, 1, 0)
    elif array.ndim == 2:
        if flattened and array.shape[1] % flattened == 0:
            out, inputs = array.shape
            array = array.reshape(out, flattened, inputs // flattened).transpose(0, 2, 1)
            array = array.reshape(out, inputs)
        array = array.T
    return np.ascontiguousarray(array, np.float32)


def _replaced(scope: str, rules: Mapping[str, str]) -> str:
    for pattern, replacement in rules.items():
        scope = re.sub(pattern, replacement, scope)
    return scope


def _block(scope: str) -> str:
    """`conv2_x/block_1/...` is `layer1.0/...` in every port of ResNet."""
    return re.sub(
        r"^conv(\d)_x/block_(\d+)", lambda m: f"layer{int(m[1]) - 1}.{int(m[2]) - 1}", scope
    )


def torchvision(scope: str, names: Collection[str]) -> str:
    """`torchvision.models.video`: r3d_18, mc3_18, r2plus1d_18; VMZ's and IG-65M's nets too."""
    return _replaced(
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


def hara(scope: str, names: Collection[str]) -> str:
    """3D-ResNets-PyTorch: ResNet, pre-activation, wide, ResNeXt, (2+1)D."""
    convolution = re.sub(r"bn_?(\d)$", r"conv_\1" if "/" in scope else r"conv\1", scope)
    last = "_t" if f"{convolution}/spatial" in names else ""
    return _replaced(
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
    """VMZ's Caffe2 pickles, which number the blocks through; `fc` is `last_out_L<classes>`."""
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
    return _replaced(
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


def c3d_mmaction2(scope: str, names: Collection[str]) -> str:
    """mmaction2: a backbone without fc8, which is the head."""
    del names
    rules = {r"^(conv.*)$": r"backbone.\1.conv", r"^(fc[67])$": r"backbone.\1"}
    return _replaced(scope, {**rules, r"^fc8$": "cls_head.fc_cls"})


def p3d(scope: str, names: Collection[str]) -> str:
    """pseudo-3d-pytorch; its last stage has 2-D layers of other names."""
    del names
    flat = scope.startswith("conv5_x")
    return _replaced(
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
