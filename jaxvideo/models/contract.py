"""The contract of `types.Model` in code: the checks and helpers that every network uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.types import CHANNELS, ConfigError

#: Fields that every network must have.
REQUIRED = ("num_classes", "dtype", "lowering")

#: Optional and required fields with the same meaning in every network, see `types.Model`. They do
#: not affect weights, except for fields that the shapes of the weights determine.
COMMON = (
    *REQUIRED,
    "width",
    "dropout_rate",
    "bn_groups",
    "bn_momentum",
    "bn_epsilon",
)

# In older versions `width` was a number of channels in some families, in practice at least 4.
_LEAST_CHANNELS = 4

# Numbers of channels that a clip can have: the rows of `types.CHANNELS`.
_CLIP_CHANNELS = tuple(sorted(set(CHANNELS.values())))


def free(default: Any) -> Any:
    """Declares a field of a network that does not affect its weights, in addition to `COMMON`."""
    return dataclasses.field(default=default, metadata={"free": True})


def differences(one: Any, other: Any) -> list[str]:
    """Lists why two networks need different weights although the shapes may be equal.

    Fields in `COMMON` and those declared with `free` may differ.

    Example:
      differences(create_model("c3d"), create_model("c3d", pools="floor"))
      # ["pools: ceil and floor"]
    """
    if type(one) is not type(other):
        return [f"{type(one).__name__} and {type(other).__name__}"]
    found = []
    for field in dataclasses.fields(one):
        values = getattr(one, field.name), getattr(other, field.name)
        fixed = field.name not in ("parent", "name", *COMMON) and not field.metadata.get("free")
        if fixed and values[0] != values[1]:
            found.append(f"{field.name}: {values[0]} and {values[1]}")
    return found


def check_width(width: float) -> None:
    """Checks the factor of the numbers of channels.

    Raises:
      ConfigError: it is not positive, or at least 4, which suggests a number of channels.
    """
    if not 0 < width < _LEAST_CHANNELS:
        raise ConfigError(
            f"width={width} is not a factor between 0 and {_LEAST_CHANNELS}. 1.0 is the paper's "
            "number of channels, 0.125 an eighth of it"
        )


def scaled(channels: float, width: float) -> int:
    """Returns `channels` times the factor `width`, rounded, at least 1."""
    check_width(width)
    return max(round(channels * width), 1)


def prefixed(scope: str, endpoints: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the endpoints of a part of a network under the keys `scope/...`."""
    return {f"{scope}/{name}": value for name, value in endpoints.items()}


def check_clip(
    module: nn.Module,
    x: jax.Array,
    channels: Sequence[int] = _CLIP_CHANNELS,
    *,
    stem: str = "",
    stacked: int = 1,
) -> None:
    """Checks the input of a network. Every network calls it first; it costs nothing at run time.

    Args:
      module: the network, bound (inside its `__call__`).
      x: the clip, must be floating-point `[N, T, H, W, C]`.
      channels: allowed C. Checked only if the network is not a part of another one, because
        inside a network channels may be stacked frames.
      stem: scope of the first convolution. If the network is applied to given parameters, C must
        be the number of channels of that convolution's kernel.
      stacked: number of frames that the network stacks into the channels of its first convolution.

    Raises:
      ConfigError: the shape, the dtype or the number of channels is wrong.
    """
    name, shape = type(module).__name__, tuple(x.shape)
    if x.ndim != 5:
        raise ConfigError(
            f"{name}: the clip has shape {shape}; it must be [N, T, H, W, C]"
            + (". Add the batch axis: clip[None]" if x.ndim == 4 else "")
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ConfigError(
            f"{name}: the clip is {x.dtype}; it must be floating-point and normalized. "
            "`Network.prepare` makes clips of uint8 video"
        )
    if module.path:
        return
    kernel = _kernel(module.variables.get("params", {}), stem) if stem else None
    if kernel is not None:
        channels = (kernel.shape[3] // stacked,)
    if shape[-1] in channels:
        return
    allowed = " or ".join(map(str, channels))
    why = "its parameters expect" if kernel is not None else "the network takes"
    hint = ""
    if shape[1] in channels:
        hint = ". It looks like torch's order [N, C, T, H, W]: jnp.moveaxis(clip, 1, -1) converts"
    raise ConfigError(
        f"{name}: the clip has shape {shape}, so C = {shape[-1]}; {why} [N, T, H, W, C] with "
        f"C = {allowed}{hint}"
    )


def _kernel(parameters: Any, scope: str) -> Any:
    """The kernel of a convolution, or of the first half of a (2+1)D convolution, or None."""
    for key in scope.split("/"):
        parameters = parameters.get(key, {})
    return parameters.get("spatial", parameters).get("kernel")


def head_scopes(model: Any) -> tuple[str, ...]:
    """Returns the parameter scopes of a network's classifier: `model.head` as a tuple.

    Example:
      head_scopes(create_model("i3d_two_stream"))  # ("rgb/logits", "flow/logits")
    """
    return (model.head,) if isinstance(model.head, str) else tuple(model.head)


def in_head(model: Any, name: str) -> bool:
    """Returns True if a variable, by its flat name `params/fc/kernel`, is in the classifier."""
    _, _, bare = name.partition("/")
    return any(bare.startswith(f"{scope}/") for scope in head_scopes(model))


def check_fields(build: Any, name: str) -> None:
    """Checks that a linen class has the fields and the `head` of `types.Model`.

    Raises:
      ConfigError: something is missing; the message lists it.
    """
    if not (isinstance(build, type) and issubclass(build, nn.Module)):
        raise ConfigError(
            f"model {name!r}: {build!r} is not a subclass of flax.linen.Module; pass the class, "
            "not an instance"
        )
    fields = {field.name for field in dataclasses.fields(build)}
    missing = [field for field in REQUIRED if field not in fields]
    if not hasattr(build, "head"):
        missing.append("head")
    if missing:
        raise ConfigError(
            f"model {name!r}: {build.__name__} lacks {', '.join(missing)}. Every network has the "
            f"fields {', '.join(REQUIRED)} and `head`, the parameter scope of its classifier, as "
            'a class attribute (head = "fc") or a property; see jaxvideo.types.Model'
        )


def check_outputs(model: Any, name: str, traced: Any, batch: int) -> None:
    """Checks the outputs and parameters of a network against `types.Model`.

    Args:
      model: a module with `num_classes` classes.
      name: its name, for the message.
      traced: `summary.trace` of `batch` clips in test mode.
      batch: number of clips.

    Raises:
      ConfigError: the logits, the endpoints or the parameters of the head are wrong.
    """

    def refuse(problem: str):
        raise ConfigError(f"model {name!r}: {problem}; see jaxvideo.types.Model")

    classes = model.num_classes
    shape = (batch, classes)
    if (traced.logits.shape, traced.logits.dtype) != (shape, jnp.float32):
        refuse(
            f"logits are {traced.logits.dtype} {list(traced.logits.shape)} with train=False; they "
            f"must be float32 [N, num_classes], here {list(shape)}"
        )
    last = list(traced.endpoints)[-2:]
    if last != ["pre_logits", "logits"]:
        refuse(f"the last two endpoints are {last}; they must be ['pre_logits', 'logits']")
    if traced.endpoints["logits"].shape != shape:
        found = list(traced.endpoints["logits"].shape)
        refuse(f"the endpoint 'logits' has shape {found}; it must be that of the logits")
    features = traced.endpoints["pre_logits"].shape
    if len(features) < 2 or features[0] != batch:
        refuse(f"the endpoint 'pre_logits' has shape {list(features)}; it must be [N, ..., C]")
    for scope in head_scopes(model):
        leaves: Any = traced.variables.get("params", {})
        for key in scope.split("/"):
            leaves = leaves.get(key, {}) if hasattr(leaves, "get") else {}
        sizes = [leaf.shape[-1] for leaf in jax.tree.leaves(leaves) if leaf.ndim]
        if not sizes or set(sizes) != {classes}:
            found = f"holds last axes of {sizes}" if sizes else "has no parameters"
            refuse(f"head={scope!r} {found}; every parameter there must end in num_classes")
