"""The families of the model zoo: a card is one row."""

import dataclasses
import fnmatch
import functools

from jaxvideo.models import MODELS


@dataclasses.dataclass(frozen=True)
class Family:
    """A card.

    Attributes:
      page: name of the page.
      title: heading.
      module: module in `jaxvideo.models` whose docstring describes the family.
      lead: network whose layers are shown.
      patterns: names of the networks, in the syntax of `fnmatch`.
      papers: number of the paper and its short title.
    """

    page: str
    title: str
    module: str
    lead: str
    patterns: tuple[str, ...]
    papers: tuple[tuple[str, str], ...]

    @functools.cached_property
    def networks(self) -> list[str]:
        """The networks of the family, in the order of the registry."""
        return [
            name
            for name in MODELS
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns)
        ]


def check(families: tuple[Family, ...]) -> None:
    """Raises an error unless every network is in exactly one family, together with its paper."""
    for name, entry in MODELS.items():
        pages = [family.page for family in families if name in family.networks]
        if len(pages) != 1:
            raise ValueError(f"{name} is in the families {pages}; see docs/generate/families.py")
        family = next(family for family in families if family.page == pages[0])
        paper = entry.source.removeprefix("arXiv ")
        if paper not in [number for number, _ in family.papers]:
            raise ValueError(f"{name}: {paper} is not a paper of the family {family.page}")


I3D_PAPER = ("1705.07750", "Quo Vadis, Action Recognition?")
TRAN_PAPER = ("1711.11248", "A Closer Look at Spatiotemporal Convolutions")
HARA_PAPER = ("1708.07632", "Learning Spatio-Temporal Features with 3D Residual Networks")

FAMILIES = (
    Family(
        "c3d",
        "C3D and its depth study",
        "c3d",
        "c3d",
        ("c3d*",),
        (
            ("1412.0767", "Learning Spatiotemporal Features with 3D Convolutional Networks"),
            HARA_PAPER,
            TRAN_PAPER,
            I3D_PAPER,
        ),
    ),
    Family(
        "r2plus1d",
        "R(2+1)D, R3D, MC, rMC, R2D, f-R2D",
        "resnet3d",
        "r2plus1d_18",
        (
            *("r2d_*", "f_r2d_*", "mc[2-5]_*", "rmc[2-5]_*", "r3d_*"),
            *("r2plus1d_[1-5]?", "r2plus1d_152", "r2plus1d_34_mmaction2", "r2plus1d_r50"),
        ),
        (TRAN_PAPER,),
    ),
    Family(
        "resnet3d",
        "3D ResNet, pre-activation, wide, ResNeXt",
        "resnet3d",
        "resnet50_3d_b",
        ("resnet*_3d_*", "preact_*", "wide_*", "resnext*", "r2plus1d_*_hara"),
        (("1711.09577", "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs?"), HARA_PAPER),
    ),
    Family(
        "p3d",
        "P3D",
        "p3d",
        "p3d_63",
        ("p3d_*",),
        (
            (
                "1711.10305",
                "Learning Spatio-Temporal Representation with Pseudo-3D Residual Networks",
            ),
        ),
    ),
    Family(
        "i3d",
        "I3D, Two-Stream I3D, Inception-v1",
        "inception",
        "i3d_rgb",
        ("i3d_rgb", "i3d_flow", "i3d_two_stream", "inception_v1"),
        (I3D_PAPER, ("1409.4842", "Going Deeper with Convolutions")),
    ),
    Family(
        "s3d",
        "S3D, S3D-G, I2D, top- and bottom-heavy I3D",
        "inception",
        "s3d",
        ("s3d*", "i2d", "i3d_top_heavy_*", "i3d_bottom_heavy_*"),
        (("1712.04851", "Rethinking Spatiotemporal Feature Learning"),),
    ),
    Family(
        "two_stream",
        "Two-Stream, its fusion, Inception forms",
        "two_stream",
        "two_stream_temporal",
        ("two_stream_*", "fused_two_stream_inception"),
        (
            ("1406.2199", "Two-Stream Convolutional Networks for Action Recognition in Videos"),
            ("1604.06573", "Convolutional Two-Stream Network Fusion for Video Action Recognition"),
            I3D_PAPER,
        ),
    ),
    Family(
        "tsn",
        "TSN",
        "tsn",
        "tsn_rgb",
        ("tsn_*",),
        (("1608.00859", "Temporal Segment Networks"),),
    ),
    Family(
        "recurrent",
        "LRCN, ConvNet+LSTM",
        "recurrent",
        "convnet_lstm",
        ("lrcn*", "convnet_lstm"),
        (("1411.4389", "Long-term Recurrent Convolutional Networks"), I3D_PAPER),
    ),
    Family(
        "hidden_two_stream",
        "Hidden Two-Stream",
        "hidden_two_stream",
        "hidden_two_stream",
        ("hidden_two_stream*",),
        (("1704.00389", "Hidden Two-Stream Convolutional Networks for Action Recognition"),),
    ),
    Family(
        "slowfast",
        "SlowFast, Slow, Fast",
        "slowfast",
        "slowfast_r50",
        ("slow_*", "fast_*", "slowfast_*"),
        (("1812.03982", "SlowFast Networks for Video Recognition"),),
    ),
    Family(
        "nonlocal",
        "C2D, I3D-ResNet50, non-local",
        "slowfast",
        "i3d_r50_nl",
        ("c2d_*", "i3d_r50*"),
        (("1711.07971", "Non-local Neural Networks"),),
    ),
    Family(
        "x3d",
        "X3D, X2D",
        "x3d",
        "x3d_m",
        ("x3d_*", "x2d"),
        (("2004.04730", "Expanding Architectures for Efficient Video Recognition"),),
    ),
    Family(
        "csn",
        "CSN, ip-CSN",
        "csn",
        "csn_r50",
        ("csn_*", "ip_csn_*"),
        (("1904.02811", "Video Classification with Channel-Separated Convolutional Networks"),),
    ),
    Family(
        "t3d",
        "DenseNet3D, T3D",
        "densenet3d",
        "t3d_121",
        ("densenet3d_*", "t3d_*"),
        (("1711.08200", "Temporal 3D ConvNets"),),
    ),
)
