"""Names of CSN and C3D in VMZ's files, as functions of our names; see `from_torch`.

The other networks of VMZ are in `from_torch`.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from jaxvideo.weights import from_torch
from jaxvideo.weights.from_torch import replaced


def csn(scope: str, names: Collection[str]) -> str:
    """`pt/vmz`: the bottlenecks of torchvision; conv2 of ip-CSN is a sequence."""
    preserved = any(name.endswith("/conv_i") for name in names)
    scope = re.sub(r"^res(\d)/", r"conv\1_x/", scope)
    rules = {
        r"/(conv|bn)_a$": r"/\1_1",
        r"/(conv|bn)_b$": r"/\1_2",
        r"/(conv|bn)_c$": r"/\1_3",
    }
    if preserved:
        rules = {r"/conv_i$": ".conv2.0.0", r"/bn_i$": ".conv2.0.1", **rules}
    theirs = from_torch.torchvision(replaced(scope, rules), ())
    return re.sub(r"\.conv2\.0$", ".conv2.0.2", theirs) if preserved else theirs


def csn_caffe2(scope: str, names: Collection[str]) -> str:
    """Caffe2 pickles; the number of the depthwise convolution counts twice in ir-CSN."""
    preserved = any(name.endswith("/conv_i") for name in names)
    b, c = ("2", "3") if preserved else ("3", "4")
    rules = {
        r"^res(\d)/": r"conv\1_x/",
        r"/(conv|bn)_a$": r"/\1_1",
        r"/(conv|bn)_b$": rf"/\1_{b}",
        r"/(conv|bn)_c$": rf"/\1_{c}",
        r"/conv_i$": "/conv_2/spatial",
        r"/bn_i$": "/conv_2/bn",
    }
    return from_torch.vmz_caffe2(replaced(scope, rules), [replaced(n, rules) for n in names])


def c3d_caffe2(scope: str, names: Collection[str]) -> str:
    """Caffe2 pickles of C3D with BatchNorm."""
    del names
    return replaced(scope, {r"^bn(\d[ab])$": r"conv\1_bn", "^fc8$": "last_out_L*"})
