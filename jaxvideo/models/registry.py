"""The table of all networks, as a literal dict, with the preprocessing of each."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn

from jaxvideo.models import (
    c3d,
    csn,
    densenet3d,
    hidden_two_stream,
    inception,
    inception_two_stream,
    p3d,
    r2plus1d,
    recurrent,
    slowfast,
    transfer,
    tsn,
    two_stream,
    x3d,
)
from jaxvideo.models.resnet3d import MMACTION2, RESNEXT, WIDE, ResNet3D, hara, tran
from jaxvideo.types import Preprocessing

# Kinetics statistics of VMZ and torchvision, for pixels in [0, 1].
_RESNET = Preprocessing(
    frames=16,
    size=128,
    width=171,
    crop=112,
    mean=(0.43216, 0.394666, 0.37645),
    std=(0.22803, 0.22145, 0.216989),
)
# The authors subtract a mean volume; this is its average per channel (mmaction2).
_C3D = Preprocessing(
    frames=16,
    size=128,
    width=171,
    crop=112,
    range=(0.0, 255.0),
    mean=(104.0, 117.0, 128.0),
    order="BGR",
)
# Pixels in [0, 255] minus ActivityNet's mean, short side scaled to the crop (branch CVPR2018).
_HARA = Preprocessing(
    frames=16,
    size=112,
    crop=112,
    range=(0.0, 255.0),
    mean=(114.7748, 107.7354, 99.4750),
)
# ImageNet's mean of blue, green and red, for pixels in [0, 255].
_P3D = Preprocessing(
    frames=16,
    size=182,
    width=242,
    crop=160,
    range=(0.0, 255.0),
    mean=(104.0, 117.0, 123.0),
    order="BGR",
)
_I3D = Preprocessing(frames=64, fps=25.0, size=256, crop=224, range=(-1.0, 1.0))
_I3D_FLOW = dataclasses.replace(_I3D, modality="flow", mean=(0.0,) * 2, std=(1.0,) * 2)
_I3D_BOTH = dataclasses.replace(_I3D, modality="rgb_flow", mean=(0.0,) * 5, std=(1.0,) * 5)
_INCEPTION = dataclasses.replace(_I3D, frames=1)
# The test clip of torchvision's weights: 128 frames at 15 fps.
_S3D = dataclasses.replace(_RESNET, frames=128, fps=15.0, size=256, width=256, crop=224)
# Caffe's mean of ImageNet's blue, green and red. Flow in [-1, 1] is [-20, 20] pixels.
_FRAME = Preprocessing(
    frames=1,
    size=256,
    crop=224,
    range=(0.0, 255.0),
    mean=(104.0, 117.0, 123.0),
    order="BGR",
)
_STACK = dataclasses.replace(
    _I3D, frames=10, fps=None, modality="flow", mean=(0.0,) * 2, std=(1.0,) * 2
)
_BOTH = dataclasses.replace(
    _FRAME,
    frames=10,
    modality="rgb_flow",
    mean=(104.0, 117.0, 123.0, 127.5, 127.5),
    std=(1.0, 1.0, 1.0, 127.5, 127.5),
)
_TSN = dataclasses.replace(_FRAME, frames=3, segments=3, width=340)
_TSN_FLOW = dataclasses.replace(
    _TSN, frames=15, modality="flow", order="RGB", mean=(128.0,) * 2, std=(1.0,) * 2
)
_TSN_DIFF = dataclasses.replace(_TSN, frames=15, modality="rgb_diff")
_TSN_RESNET = dataclasses.replace(
    _TSN,
    range=(0.0, 1.0),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    order="RGB",
)
_LRCN = Preprocessing(
    frames=16,
    size=240,
    width=320,
    crop=227,
    range=(0.0, 255.0),
    mean=(103.939, 116.779, 128.68),
    order="BGR",
)
_LRCN_FLOW = dataclasses.replace(
    _LRCN, modality="flow", order="RGB", mean=(128.0,) * 2, std=(1.0,) * 2
)
_MOTIONNET = dataclasses.replace(_FRAME, frames=11, width=340, std=(255.0,) * 3)
# PySlowFast and pytorchvideo, also how frames are spaced; `frames` are the Fast pathway's.
_SLOWFAST = Preprocessing(
    frames=32,
    stride=2,
    fps=30.0,
    size=256,
    crop=224,
    mean=(0.45,) * 3,
    std=(0.225,) * 3,
    short="hold",
    spacing="linspace",
)
_R2PLUS1D_R50 = dataclasses.replace(_SLOWFAST, frames=16, stride=4)
_R2PLUS1D_MMACTION2 = dataclasses.replace(
    _SLOWFAST,
    frames=8,
    stride=8,
    fps=None,
    range=(0.0, 255.0),
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
    short="loop",
    spacing="stride",
)
# The paper: 32 frames, best at stride 2. It does not give the mean.
_T3D = dataclasses.replace(_SLOWFAST, fps=None, short="loop", spacing="stride")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the registry.

    Attributes:
      build: the linen class, which satisfies `types.Model`.
      arguments: fields that define the network; callers cannot change them.
      preprocessing: the clips that the network expects.
      source: where it is described.
      defaults: other fields; callers may change them.
    """

    build: type[nn.Module]
    arguments: dict[str, Any]
    preprocessing: Preprocessing
    source: str
    defaults: dict[str, Any] = dataclasses.field(default_factory=dict)


def _tran(kind: str, depth: int, **clip: Any) -> Entry:
    preprocessing = dataclasses.replace(_RESNET, **clip)
    return Entry(ResNet3D, tran(kind, depth), preprocessing, "arXiv 1711.11248")


def _hara(depth: int, source: str = "arXiv 1711.09577", **form: Any) -> Entry:
    return Entry(ResNet3D, hara(depth, **form), _HARA, source)


def _p3d(depth: int) -> Entry:
    return Entry(p3d.P3D, {"blocks": p3d.BLOCKS[depth]}, _P3D, "arXiv 1711.10305")


def _c3d(name: str, crop: int = 112, source: str = "arXiv 1412.0767", classes: int = 400) -> Entry:
    # The resolution study keeps the ratio of frame size to crop.
    size, width = 128 * crop // 112, 171 * crop // 112
    preprocessing = dataclasses.replace(_C3D, size=size, width=width, crop=crop)
    return Entry(c3d.C3D, c3d.VARIANTS[name], preprocessing, source, {"num_classes": classes})


def _i3d(
    name: str,
    preprocessing: Preprocessing = _I3D,
    source: str = "arXiv 1705.07750",
    **defaults: Any,
) -> Entry:
    return Entry(inception.I3D, inception.VARIANTS[name], preprocessing, source, defaults)


def _s3d(name: str, preprocessing: Preprocessing = _I3D) -> Entry:
    return _i3d(name, preprocessing, "arXiv 1712.04851", dropout_rate=0.2)


def _streams(build: type[nn.Module], preprocessing: Preprocessing, **arguments: Any) -> Entry:
    return Entry(build, arguments, preprocessing, "arXiv 1406.2199")


def _fusion(preprocessing: Preprocessing = _BOTH, **arguments: Any) -> Entry:
    return Entry(two_stream.TwoStreamFusion, arguments, preprocessing, "arXiv 1604.06573")


def _tsn(preprocessing: Preprocessing, **defaults: Any) -> Entry:
    arguments = {key: defaults.pop(key) for key in ("backbone", "snippet") if key in defaults}
    return Entry(tsn.TSN, arguments, preprocessing, "arXiv 1608.00859", defaults)


def _i3d_rival(build: type[nn.Module], preprocessing: Preprocessing, **changes: Any) -> Entry:
    preprocessing = dataclasses.replace(preprocessing, **changes)
    return Entry(build, {}, preprocessing, "arXiv 1705.07750")


def _lrcn(preprocessing: Preprocessing, feature: str, **defaults: Any) -> Entry:
    arguments = {"feature": feature}
    return Entry(recurrent.LRCN, arguments, preprocessing, "arXiv 1411.4389", defaults)


def _hidden(name: str) -> Entry:
    arguments = hidden_two_stream.MOTIONNETS[name]
    return Entry(hidden_two_stream.HiddenTwoStream, arguments, _MOTIONNET, "arXiv 1704.00389")


def _slowfast(name: str, source: str = "1812.03982", **clip: Any) -> Entry:
    preprocessing = dataclasses.replace(_SLOWFAST, **clip)
    arguments = dict(slowfast.VARIANTS[name])
    # Libraries have their non-local blocks in different places.
    defaults = {key: arguments.pop(key) for key in ("non_local",) if key in arguments}
    return Entry(slowfast.SlowFast, arguments, preprocessing, f"arXiv {source}", defaults)


def _x3d(name: str, frames: int, stride: int, size: int, crop: int) -> Entry:
    preprocessing = dataclasses.replace(
        _SLOWFAST, frames=frames, stride=stride, size=size, crop=crop
    )
    return Entry(x3d.X3D, x3d.VARIANTS[name], preprocessing, "arXiv 2004.04730")


def _csn(depth: int, preserved: bool = False) -> Entry:
    arguments = {"blocks": csn.BLOCKS[depth], "preserved": preserved}
    preprocessing = dataclasses.replace(_SLOWFAST, short="loop", spacing="stride")
    return Entry(csn.CSN, arguments, preprocessing, "arXiv 1904.02811")


def _densenet3d(name: str, build: type[nn.Module] = densenet3d.DenseNet3D, **clip: Any) -> Entry:
    defaults = dict(densenet3d.VARIANTS[name])
    arguments = {"blocks": defaults.pop("blocks")}
    preprocessing = dataclasses.replace(_T3D, **clip)
    return Entry(build, arguments, preprocessing, "arXiv 1711.08200", defaults)


#: All networks by name.
MODELS: dict[str, Entry] = {
    "c3d": _c3d("c3d"),
    "c3d_sports1m": _c3d("c3d", classes=487),
    "c3d_bn": _c3d("c3d_bn", source="arXiv 1708.07632"),
    "c3d_bn_vmz": _c3d("c3d_bn_vmz", source="arXiv 1711.11248"),
    "c3d_bn_i3d": _c3d("c3d_bn_i3d", source="arXiv 1705.07750"),
    "c3d_depth1": _c3d("c3d_depth1"),
    "c3d_depth3": _c3d("c3d_depth3"),
    "c3d_depth5": _c3d("c3d_depth5"),
    "c3d_depth7": _c3d("c3d_depth7"),
    "c3d_increasing": _c3d("c3d_increasing"),
    "c3d_decreasing": _c3d("c3d_decreasing"),
    "c3d_net64": _c3d("c3d_depth3", crop=56),
    "c3d_net256": _c3d("c3d_depth3", crop=224),
    "i3d_rgb": _i3d("i3d"),
    "i3d_flow": _i3d("i3d", _I3D_FLOW),
    "i3d_two_stream": Entry(inception_two_stream.TwoStreamI3D, {}, _I3D_BOTH, "arXiv 1705.07750"),
    "inception_v1": _i3d("inception_v1", _INCEPTION, "arXiv 1409.4842"),
    "i2d": _s3d("i2d"),
    "i3d_top_heavy_2c": _s3d("i3d_top_heavy_2c"),
    "i3d_top_heavy_3b": _s3d("i3d_top_heavy_3b"),
    "i3d_top_heavy_4b": _s3d("i3d_top_heavy_4b"),
    "i3d_top_heavy_4e": _s3d("i3d_top_heavy_4e"),
    "i3d_top_heavy_5b": _s3d("i3d_top_heavy_5b"),
    "i3d_bottom_heavy_2c": _s3d("i3d_bottom_heavy_2c"),
    "i3d_bottom_heavy_3c": _s3d("i3d_bottom_heavy_3c"),
    "i3d_bottom_heavy_4d": _s3d("i3d_bottom_heavy_4d"),
    "i3d_bottom_heavy_4f": _s3d("i3d_bottom_heavy_4f"),
    "s3d": _s3d("s3d", _S3D),
    "s3d_paper": _s3d("s3d_paper"),
    "s3d_slim": _s3d("s3d_slim"),
    "s3d_top_heavy_3b": _s3d("s3d_top_heavy_3b"),
    "s3d_top_heavy_4b": _s3d("s3d_top_heavy_4b"),
    "s3d_top_heavy_5b": _s3d("s3d_top_heavy_5b"),
    "s3dg": _s3d("s3dg"),
    "s3dg_paper": _s3d("s3dg_paper"),
    "convnet_lstm": _i3d_rival(recurrent.ConvNetLSTM, _I3D, frames=25, stride=5),
    "two_stream_inception": _i3d_rival(
        inception_two_stream.TwoStreamInception, _I3D_BOTH, frames=10
    ),
    "fused_two_stream_inception": _i3d_rival(
        inception_two_stream.FusedTwoStreamInception, _I3D_BOTH, frames=50
    ),
    "two_stream_spatial": _streams(two_stream.SpatialStream, _FRAME),
    "two_stream_temporal": _streams(two_stream.TemporalStream, _STACK),
    "two_stream_temporal_trajectories": _streams(
        two_stream.TemporalStream, _STACK, stacking="trajectories"
    ),
    "two_stream_spatial_vgg16": _streams(two_stream.SpatialStream, _FRAME, net="vgg16"),
    "two_stream_temporal_vgg16": _streams(two_stream.TemporalStream, _STACK, net="vgg16"),
    "two_stream_fusion_late": _fusion(where=("fc8",)),
    "two_stream_fusion_sum": _fusion(fusion="sum"),
    "two_stream_fusion_max": _fusion(fusion="max"),
    "two_stream_fusion_concat": _fusion(fusion="concat"),
    "two_stream_fusion_conv": _fusion(fusion="conv"),
    "two_stream_fusion_bilinear": _fusion(fusion="bilinear"),
    "two_stream_fusion_3d": _fusion(
        dataclasses.replace(_BOTH, frames=50, segments=5), **two_stream.FUSION_3D
    ),
    "tsn_rgb": _tsn(_TSN),
    "tsn_flow": _tsn(_TSN_FLOW, snippet=5, dropout_rate=0.7),
    "tsn_rgb_diff": _tsn(_TSN_DIFF, snippet=5),
    "tsn_resnet50_rgb": _tsn(_TSN_RESNET, backbone="resnet50", num_classes=400, dropout_rate=0.4),
    "tsn_resnet50_flow": _tsn(
        dataclasses.replace(_TSN_FLOW, std=(128.0,) * 2, width=0),
        backbone="resnet50",
        snippet=5,
        num_classes=400,
        dropout_rate=0.4,
    ),
    "tsn_resnet101_rgb": _tsn(_TSN_RESNET, backbone="resnet101", num_classes=400, dropout_rate=0.4),
    "hidden_two_stream": _hidden("motionnet"),
    "hidden_two_stream_tiny": _hidden("tiny_motionnet"),
    "lrcn": _lrcn(_LRCN, "fc6"),
    "lrcn_fc7": _lrcn(_LRCN, "fc7"),
    "lrcn_flow": _lrcn(_LRCN_FLOW, "fc6", hidden=1024),
    "slow_r50": _slowfast("slow_r50", frames=8, stride=8),
    "slow_4x16_r50": _slowfast("slow_r50", frames=4, stride=16),
    "slow_r101": _slowfast("slow_r101", frames=8, stride=8),
    "slow_r50_nl": _slowfast("slow_r50_nl", frames=8, stride=8),
    "fast_r50": _slowfast("fast_r50"),
    "slowfast_4x16_r50": _slowfast("slowfast_4x16_r50"),
    "slowfast_r50": _slowfast("slowfast_8x8_r50"),
    "slowfast_r101": _slowfast("slowfast_8x8_r101"),
    "slowfast_8x8_r101_50_50": _slowfast("slowfast_8x8_r101_50_50"),
    "slowfast_16x8_r101_50_50": _slowfast("slowfast_16x8_r101_50_50", frames=64),
    "slowfast_16x8_r101_nl": _slowfast("slowfast_16x8_r101_nl", frames=64),
    "c2d_r50": _slowfast("c2d_r50", "1711.07971", frames=8, stride=8),
    "i3d_r50": _slowfast("i3d_r50", "1711.07971", frames=8, stride=8),
    "c2d_r50_nl": _slowfast("c2d_r50_nl", "1711.07971", frames=8, stride=8),
    "i3d_r50_nl": _slowfast("i3d_r50_nl", "1711.07971", frames=8, stride=8),
    "x2d": _x3d("x2d", 1, 1, 128, 112),
    "x3d_xs": _x3d("x3d_xs", 4, 12, 182, 160),
    "x3d_s": _x3d("x3d_s", 13, 6, 182, 160),
    "x3d_m": _x3d("x3d_m", 16, 5, 256, 224),
    "x3d_l": _x3d("x3d_l", 16, 5, 356, 312),
    "x3d_xl": _x3d("x3d_xl", 16, 5, 356, 312),
    "densenet3d_121": _densenet3d("densenet3d_121"),
    "densenet3d_161": _densenet3d("densenet3d_161"),
    "densenet3d_169": _densenet3d("densenet3d_169"),
    "densenet3d_201": _densenet3d("densenet3d_201"),
    "t3d_121": _densenet3d("t3d_121"),
    "t3d_169": _densenet3d("t3d_169"),
    # ImageNet's mean and standard deviation, those of the pretrained teacher.
    "t3d_121_transfer": _densenet3d(
        "t3d_121", transfer.TransferT3D, mean=_TSN_RESNET.mean, std=_TSN_RESNET.std
    ),
    "t3d_121_tsn": _densenet3d("t3d_121", transfer.SegmentT3D, frames=96, segments=3),
    "csn_r50": _csn(50),
    "csn_r101": _csn(101),
    "csn_r152": _csn(152),
    "ip_csn_r152": _csn(152, preserved=True),
    "r2d_10": _tran("r2d", 10),
    "f_r2d_10": _tran("f_r2d", 10),
    "mc2_10": _tran("mc2", 10),
    "mc3_10": _tran("mc3", 10),
    "mc4_10": _tran("mc4", 10),
    "mc5_10": _tran("mc5", 10),
    "r3d_10": _tran("r3d", 10),
    "rmc2_10": _tran("rmc2", 10),
    "rmc3_10": _tran("rmc3", 10),
    "rmc4_10": _tran("rmc4", 10),
    "rmc5_10": _tran("rmc5", 10),
    "r2plus1d_10": _tran("r2plus1d", 10),
    "r2d_18": _tran("r2d", 18),
    "f_r2d_18": _tran("f_r2d", 18),
    "mc2_18": _tran("mc2", 18),
    "mc3_18": _tran("mc3", 18),
    "mc4_18": _tran("mc4", 18),
    "mc5_18": _tran("mc5", 18),
    "r3d_18": _tran("r3d", 18),
    "rmc2_18": _tran("rmc2", 18),
    "rmc3_18": _tran("rmc3", 18),
    "rmc4_18": _tran("rmc4", 18),
    "rmc5_18": _tran("rmc5", 18),
    "r2plus1d_18": _tran("r2plus1d", 18),
    "r2d_34": _tran("r2d", 34),
    "f_r2d_34": _tran("f_r2d", 34),
    "mc2_34": _tran("mc2", 34),
    "mc3_34": _tran("mc3", 34),
    "mc4_34": _tran("mc4", 34),
    "mc5_34": _tran("mc5", 34),
    "r3d_34": _tran("r3d", 34),
    "rmc2_34": _tran("rmc2", 34),
    "rmc3_34": _tran("rmc3", 34),
    "rmc4_34": _tran("rmc4", 34),
    "rmc5_34": _tran("rmc5", 34),
    "r2plus1d_34": _tran("r2plus1d", 34),
    "r2plus1d_34_mmaction2": Entry(ResNet3D, MMACTION2, _R2PLUS1D_MMACTION2, "arXiv 1711.11248"),
    "r2plus1d_50": _tran("r2plus1d", 50),
    "r2plus1d_152": _tran("r2plus1d", 152, frames=32),
    "r2plus1d_r50": Entry(r2plus1d.R2Plus1D, {}, _R2PLUS1D_R50, "arXiv 1711.11248"),
    "resnet10_3d_a": _hara(10, shortcut="A"),
    "resnet10_3d_b": _hara(10, shortcut="B"),
    "resnet18_3d_a": _hara(18, "arXiv 1708.07632", shortcut="A"),
    "resnet18_3d_b": _hara(18, "arXiv 1708.07632", shortcut="B"),
    "resnet34_3d_a": _hara(34, "arXiv 1708.07632", shortcut="A"),
    "resnet34_3d_b": _hara(34, "arXiv 1708.07632", shortcut="B"),
    "resnet50_3d_a": _hara(50, shortcut="A"),
    "resnet50_3d_b": _hara(50, shortcut="B"),
    "resnet101_3d_a": _hara(101, shortcut="A"),
    "resnet101_3d_b": _hara(101, shortcut="B"),
    "resnet152_3d_a": _hara(152, shortcut="A"),
    "resnet152_3d_b": _hara(152, shortcut="B"),
    "resnet200_3d_a": _hara(200, shortcut="A"),
    "resnet200_3d_b": _hara(200, shortcut="B"),
    "preact_resnet18_3d": _hara(18, preactivation=True),
    "preact_resnet34_3d": _hara(34, preactivation=True),
    "preact_resnet50_3d": _hara(50, preactivation=True),
    "preact_resnet101_3d": _hara(101, preactivation=True),
    "preact_resnet152_3d": _hara(152, preactivation=True),
    "preact_resnet200_3d": _hara(200, preactivation=True),
    "wide_resnet50_3d": _hara(50, **WIDE),
    "resnext50_3d": _hara(50, **RESNEXT),
    "resnext101_3d": _hara(101, **RESNEXT),
    "resnext152_3d": _hara(152, **RESNEXT),
    "r2plus1d_18_hara": _hara(18, kind="r2plus1d"),
    "r2plus1d_34_hara": _hara(34, kind="r2plus1d"),
    "r2plus1d_50_hara": _hara(50, kind="r2plus1d"),
    "p3d_63": _p3d(63),
    "p3d_131": _p3d(131),
    "p3d_199": _p3d(199),
}
