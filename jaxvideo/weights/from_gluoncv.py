"""Names in GluonCV's files for torch, as functions of our names; see `from_torch`."""

from __future__ import annotations

import re
from collections.abc import Collection

from jaxvideo.weights.from_torch import replaced

_BLOCK = r"^(?:res|conv)(\d)(?:_x)?/\w+_(\d+)/(.*)$"
_UNITS = {
    r"^projection$": "downsample.0",
    r"^bn_projection$": "downsample.1",
    r"^(conv|bn)_a$": r"\g<1>1",
    r"^(conv|bn)_b$": r"\g<1>2",
    r"^(conv|bn)_c$": r"\g<1>3",
    r"^(conv|bn)_(\d)": r"\1\2",
    r"/spatial$": ".conv1",
    r"/bn$": ".bn1",
    r"/temporal$": ".conv2",
}


def _block(scope: str) -> tuple[int, int, str]:
    """Numbers of stage and block from 0, and the rest of the scope."""
    stage, block, unit = re.findall(_BLOCK, scope)[0]
    return int(stage) - 2, int(block) - 1, unit


def resnet(scope: str, names: Collection[str]) -> str:
    """Names of torchvision's 2-D ResNets: `resnet*_v1b` (TSN) and `i3d_slow_resnet*`."""
    del names
    scope = scope.removeprefix("net/")
    if scope in ("conv1", "bn1", "fc"):
        return scope
    stage, block, unit = _block(scope)
    return f"layer{stage + 1}.{block}.{replaced(unit, _UNITS)}"


def i3d(scope: str, names: Collection[str]) -> str:
    """`i3d_resnet*_v1`, also with non-local blocks."""
    del names
    stem = {"conv1": "first_stage.0", "bn1": "first_stage.1", "fc": "fc"}
    if scope in stem:
        return stem[scope]
    stage, block, unit = _block(scope)
    if "/non_local_" in scope:
        return f"res_layers.{stage}.{block}.nonlocal_block.{unit.replace('out', 'W')}"
    return f"res_layers.{stage}.{block}.{replaced(unit, _UNITS)}"


#: Second names of parameters of `i3d_resnet*_v1`, whose modules are parts of two others.
I3D_TWICE = r"^head\.1\.|\.nonlocal_block\.W_bn\."


def slowfast(scope: str, names: Collection[str]) -> str:
    """`slowfast_*`; the lateral connection after the stem is `lateral_p1`."""
    if lateral := re.match(r"lateral_(bn_)?(\w+)$", scope):
        return f"lateral_{lateral[2].replace('conv1', 'p1')}.{1 if lateral[1] else 0}"
    path, _, rest = scope.partition("_")
    if scope == "fc" or rest in ("conv1", "bn1"):
        return scope
    stage, block, unit = _block(rest)
    return f"{path}_res{stage + 2}.{block}.{replaced(unit, _UNITS)}"


def r2plus1d_v1(scope: str, names: Collection[str]) -> str:
    """`r2plus1d_v1_resnet*`, torchvision's networks under other names."""
    stem = {"conv1/spatial": "conv1", "conv1/bn": "bn1", "conv1/temporal": "conv2", "bn1": "bn2"}
    return stem[scope] if scope in stem else resnet(scope, names)


def r2plus1d_v2(scope: str, names: Collection[str]) -> str:
    """`r2plus1d_v2_resnet152`, VMZ's network."""
    del names
    stem = {
        "conv1/spatial": "conv1_middle",
        "conv1/bn": "bn1_middle",
        "conv1/temporal": "conv1",
        "bn1": "bn1",
        "fc": "out_fc",
    }
    if scope in stem:
        return stem[scope]
    stage, block, unit = _block(scope)
    rules = {
        r"^conv_(\d)/spatial$": r"conv\1_middle",
        r"^conv_(\d)/bn$": r"bn\1_middle",
        r"^conv_(\d)/temporal$": r"conv\1",
    }
    return f"layer{stage + 1}.{block}.{_sampled(replaced(unit, {**rules, **_UNITS}))}"


def ircsn_v2(scope: str, names: Collection[str]) -> str:
    """`ircsn_v2_resnet152`, VMZ's network; its depthwise convolution is the third."""
    del names
    if scope in ("conv1", "bn1", "fc"):
        return scope.replace("fc", "out_fc")
    stage, block, unit = _block(scope)
    rules = {r"^(conv|bn)_b$": r"\g<1>3", r"^(conv|bn)_c$": r"\g<1>4"}
    return f"layer{stage + 1}.{block}.{_sampled(replaced(unit, {**_UNITS, **rules}))}"


def _sampled(unit: str) -> str:
    return unit.replace("downsample", "down_sample")
