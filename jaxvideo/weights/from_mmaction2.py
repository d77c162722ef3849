"""Names in mmaction2's files, as functions of our names; see `from_torch`.

Every convolution is a module with its BatchNorm, such as `backbone.layer1.0.conv1.{conv,bn}`.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np

from jaxvideo.weights.from_torch import replaced

_HEADS = {
    "fc": "cls_head.fc_cls",
    "fc1": "cls_head.fc1",
    "fc2": "cls_head.fc2",
    "conv1_spatial": "backbone.conv1_s.conv",
    "conv1_temporal": "backbone.conv1_t.conv",
}
_UNITS = {
    r"^projection": "downsample.conv",
    r"^bn_projection$": "downsample.bn",
    r"^(conv|bn)_a$": r"conv1.\1",
    r"^(conv|bn)_b$": r"conv2.\1",
    r"^(conv|bn)_c$": r"conv3.\1",
    r"^se/": "se_module.",
    r"^conv_(\d)": r"conv\1.conv",
    r"^bn_(\d)$": r"conv\1.bn",
    r"/spatial$": ".conv_s",
    r"/bn$": ".bn_s",
    r"/temporal$": ".conv_t",
}


def mmaction2(scope: str, names: Collection[str]) -> str:
    """TSN, SlowOnly, SlowFast, I3D and C2D of ResNets, X3D, R(2+1)D."""
    scope = scope.removeprefix("net/")
    if scope in _HEADS:
        return _HEADS[scope]
    if scope == "bn1" and "conv1_temporal" in names:
        return "backbone.conv1_t.bn"
    if lateral := re.match(r"lateral_(bn_)?(conv1|res\d)$", scope):
        return f"backbone.slow_path.{_layer(lateral[2])}_lateral.{'bn' if lateral[1] else 'conv'}"
    path = re.match(r"(slow|fast)_", scope)
    backbone = f"backbone.{path[1]}_path." if path else "backbone."
    scope = scope[path.end() :] if path else scope
    if stem := re.match(r"(conv|bn)([15])(/.*)?$", scope):
        return backbone + replaced(f"conv{stem[2]}.{stem[1]}{stem[3] or ''}", _UNITS)
    layer, block, unit = re.findall(r"^(res\d|conv\d_x)/\w+_(\d+)/(.*)$", scope)[0]
    block = f"{backbone}{_layer(layer)}.{int(block) - 1}."
    if "/non_local_" in scope:
        rules = {r"^(g|phi)$": r"\1.0.conv", r"^(theta)$": r"\1.conv", r"^out$": "conv_out.conv"}
        return f"{block}non_local_block." + replaced(unit, {**rules, "^bn$": "conv_out.bn"})
    return block + replaced(unit, _UNITS)


def csn(scope: str, names: Collection[str]) -> str:
    """CSN; conv2 is a sequence, whose first part in ip-CSN is the 1 x 1 x 1."""
    first, preserved = scope.endswith("_i"), any(name.endswith("/conv_i") for name in names)
    theirs = mmaction2(scope[:-1] + "b" if first else scope, names)
    return theirs.replace(".conv2.", f".conv2.{int(preserved and not first)}.")


def c3d(scope: str, names: Collection[str]) -> str:
    """C3D: fc8 is the head, all other layers are the backbone."""
    del names
    rules = {r"^(conv.*)$": r"backbone.\1.conv", r"^(fc[67])$": r"backbone.\1"}
    return replaced(scope, {**rules, r"^fc8$": "cls_head.fc_cls"})


def lateral_norm(names: Collection[str]) -> dict[str, bool]:
    """Returns the arguments of SlowFast that a file determines.

    The lateral connections have BN and ReLU in some configs only.
    """
    return {"lateral_norm": any(name.endswith("_lateral.bn.weight") for name in names)}


def fast_first(name: str, array: np.ndarray) -> np.ndarray:
    """Reorders the classifier of SlowFast, whose inputs are there the Fast and then the Slow ones.

    The Slow pathway has eight times the channels of the Fast one.
    """
    if name != "params/fc/kernel":
        return array
    return np.roll(array, -(len(array) // 9), axis=0)


def inner_epsilon(name: str, array: np.ndarray) -> np.ndarray:
    """Shifts variances of R(2+1)D's BatchNorms between two convolutions.

    Their epsilon is 1e-5, that of all others 1e-3, the epsilon of the source.
    """
    inner = re.search(r"(conv1|conv_\d|projection)/bn/var$", name)
    return array - np.float32(1e-3 - 1e-5) if inner else array


def _layer(stage: str) -> str:
    """`res2` and `conv2_x` to `layer1`; `conv1` stays."""
    number = int(re.findall(r"\d", stage)[0])
    return f"layer{number - 1}" if number > 1 else "conv1"
