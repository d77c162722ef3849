"""Parts of the table of sources: fields that differ for some networks of a library.

The keys are names of our networks, the values are fields of `sources.Source`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxvideo.weights import from_gluoncv, from_mmaction2, from_vmz
from jaxvideo.weights.from_torch import Naming

#: The whole map is averaged, also for crops that are larger than those of the training.
GLOBAL = {"positions": "global"}

IMAGENET = {
    "range": (0.0, 1.0),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "order": "RGB",
}
# Frames are not resampled to a rate, and lie `stride` apart. `width` is that of
# KEEP_ASPECT_RATIO: False, with which most networks were trained and tested.
IMAGENET_GLUONCV = {**IMAGENET, "fps": None, "short": "hold", "spacing": "stride", "width": 340}
IMAGENET_255 = {
    "range": (0.0, 255.0),
    "mean": (123.675, 116.28, 103.53),
    "std": (58.395, 57.12, 57.375),
    "order": "RGB",
    "fps": None,
    "short": "loop",
    "spacing": "stride",
}
VMZ_255 = {
    **IMAGENET_255,
    "mean": (110.2008, 100.63983, 95.99475),
    "std": (58.14765, 56.46975, 55.332195),
}
NON_LOCAL = {
    **IMAGENET_255,
    "mean": (114.75,) * 3,
    "std": (57.375,) * 3,
    "frames": 32,
    "stride": 2,
}
# The mean and the standard deviation of the training videos, which are not in the files of
# echonet, replace those here.
ECHONET = {
    "frames": 32,
    "stride": 2,
    "size": 112,
    "width": 112,
    "range": (0.0, 255.0),
    "mean": (0.0,) * 3,
    "std": (1.0,) * 3,
}


def csn(naming: Naming) -> dict[str, Mapping[str, Any]]:
    """Returns the fields of CSN from VMZ, whose other networks have other arguments."""
    fields = {"naming": naming, "arguments": GLOBAL, "preprocessing": VMZ_255}
    return dict.fromkeys(("csn_r50", "csn_r152", "ip_csn_r152"), fields)


#: C3D with BatchNorm in VMZ's Caffe2 pickles, whose convolutions need no bias.
C3D_VMZ: dict[str, Any] = {
    "naming": from_vmz.c3d_caffe2,
    "arguments": {},
    "preprocessing": VMZ_255,
    "zeros": r"^params/conv\d[ab]/bias$",
}

_C3D: dict[str, Any] = {
    "naming": from_mmaction2.c3d,
    "arguments": {"pools": "symmetric"},
    "preprocessing": {"order": "RGB"},
    "classes": "",
}
_I3D = {
    "arguments": {**GLOBAL, "stem_stride": 2},
    "preprocessing": {**IMAGENET_255, "frames": 32, "stride": 2},
}
# Of the last convolution of a non-local block, which a BatchNorm follows.
NO_BIAS = r"/non_local_\d/out/bias$"
_CSN = {"naming": from_mmaction2.csn, "epsilon": 1e-3}
_SLOWFAST: dict[str, Any] = {
    "arguments": {**GLOBAL, "sampling": "stride"},
    "detect": from_mmaction2.lateral_norm,
    "adjust": from_mmaction2.fast_first,
}
# Frames are scaled to a short side; ours are to 340 x 256, as TSN's.
_TSN = {"arguments": {}, "preprocessing": {**IMAGENET_255, "width": 0}}
# Those of PySlowFast, with its frames.
_X3D = {
    "arguments": {**GLOBAL, "res2_shortcut_bn": True},
    "preprocessing": {
        **IMAGENET_255,
        "mean": (114.75,) * 3,
        "std": (57.38,) * 3,
        "fps": 30.0,
        "spacing": "linspace",
    },
}
# The non-local blocks follow other blocks than in PySlowFast.
_SLOW_NL = {
    "arguments": {
        **GLOBAL,
        "non_local": (("res3", (0, 2)), ("res4", (0, 2, 4))),
        "non_local_pool": "last",
    },
    "zeros": NO_BIAS,
}

#: mmaction2; the fields of the other networks are those of the source.
MMACTION2: dict[str, Mapping[str, Any]] = {
    "c3d": _C3D,
    "c3d_sports1m": _C3D,
    "tsn_resnet50_rgb": _TSN,
    "tsn_resnet101_rgb": _TSN,
    "tsn_resnet50_flow": {"arguments": {}, "preprocessing": {}},
    "slowfast_4x16_r50": _SLOWFAST,
    "slowfast_r50": _SLOWFAST,
    "slowfast_r101": {**_SLOWFAST, "arguments": {**_SLOWFAST["arguments"], "lateral_taps": 7}},
    "i3d_r50": _I3D,
    "i3d_r50_nl": {
        **_I3D,
        "arguments": {
            **_I3D["arguments"],
            "non_local_pool": "last",
            "non_local_scaled": False,
        },
        "zeros": NO_BIAS,
    },
    "slow_r50_nl": _SLOW_NL,
    "c2d_r50": {
        "arguments": {**GLOBAL, "stem_padding": 0},
        "preprocessing": {**IMAGENET_255, "size": 224},
    },
    "r2plus1d_34_mmaction2": {
        "epsilon": 1e-3,
        "arguments": {},
        "preprocessing": {},
        "adjust": from_mmaction2.inner_epsilon,
    },
    "csn_r50": _CSN,
    "csn_r152": _CSN,
    "ip_csn_r152": _CSN,
    "x3d_s": _X3D,
    "x3d_m": _X3D,
}

_SLOWFAST_GLUONCV = {
    "naming": from_gluoncv.slowfast,
    "arguments": {**GLOBAL, "sampling": "stride"},
}
_I3D_GLUONCV: dict[str, Any] = {
    "naming": from_gluoncv.i3d,
    "arguments": {**GLOBAL, "stem_stride": 2},
    "preprocessing": {**IMAGENET_GLUONCV, "frames": 32, "stride": 2},
    "ignored": from_gluoncv.I3D_TWICE,
}
_R2PLUS1D_GLUONCV = {
    "naming": from_gluoncv.r2plus1d_v1,
    "arguments": {"mid_channels": "per_block"},
    "preprocessing": {**IMAGENET_GLUONCV, "width": 171, "stride": 2},
}
# KEEP_ASPECT_RATIO: True.
_ASPECT_GLUONCV = {**IMAGENET_GLUONCV, "width": 0}

#: GluonCV in torch; the fields of the other networks are those of the source.
GLUONCV: dict[str, Mapping[str, Any]] = {
    "slowfast_4x16_r50": _SLOWFAST_GLUONCV,
    "slowfast_r50": _SLOWFAST_GLUONCV,
    "slowfast_r101": _SLOWFAST_GLUONCV,
    "tsn_resnet50_rgb": {},
    "tsn_resnet101_rgb": {},
    "slow_r50": {"arguments": GLOBAL},
    "slow_r101": {"arguments": GLOBAL},
    "i3d_r50": _I3D_GLUONCV,
    "i3d_r50_nl": {
        **_I3D_GLUONCV,
        "arguments": {**_I3D_GLUONCV["arguments"], "non_local_pool": "none"},
    },
    "r2plus1d_18": _R2PLUS1D_GLUONCV,
    "r2plus1d_34": _R2PLUS1D_GLUONCV,
    "r2plus1d_50": _R2PLUS1D_GLUONCV,
    "r2plus1d_152": {
        "naming": from_gluoncv.r2plus1d_v2,
        "epsilon": 1e-3,
        "arguments": {"mid_channels": "per_conv"},
        "preprocessing": {**_ASPECT_GLUONCV, "stride": 2},
    },
    "csn_r152": {
        "naming": from_gluoncv.ircsn_v2,
        "epsilon": 1e-3,
        "arguments": GLOBAL,
        "preprocessing": _ASPECT_GLUONCV,
    },
}
