"""Arrays fitted to the variables of a network: shape checks, new heads, inflation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo.models import create_model, head_scopes, in_head, model_entry
from jaxvideo.models.summary import trace
from jaxvideo.types import CheckpointError, Lowering, Preprocessing
from jaxvideo.weights import tree
from jaxvideo.weights.inflate import inflate


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
    """Returns the variables of a registry model from arrays under our names.

    Args:
      flat: `params/...` and `batch_stats/...` to arrays, for instance of another run.
      where: origin of the arrays, for error messages.
      name: a name of `list_models()`.
      num_classes: number of classes of the network.
      inflate_how: "average" or "center": inflate 2-D kernels to 3-D ones, see `weights.inflate`.
        "" (default): do not inflate.
      leave_out, seed, frames, crop, **arguments: see `read_weights`.

    Raises:
      CheckpointError: the arrays do not fit the model; the message lists the differences.
    """
    expects = for_clip(model_entry(name).preprocessing, frames, crop)
    clip = jax.ShapeDtypeStruct((1, *expects.shape), jnp.float32)
    model = create_model(name, **arguments, num_classes=num_classes)
    expected, _ = traced(model, clip)
    omitted = left_out(leave_out, list(expected), [])
    wanted = {n: leaf for n, leaf in expected.items() if n not in omitted}
    loaded = {n: array for n, array in flat.items() if n in wanted}
    unread = {n: array for n, array in flat.items() if n not in wanted and n not in omitted}
    if inflate_how:
        loaded = inflate(loaded, {n: leaf.shape for n, leaf in wanted.items()}, inflate_how)
    check_fit(where, wanted, loaded, unread, model)
    whole = {**loaded, **fresh_values(model, expects.shape, seed, omitted)}
    return tree.unflatten({n: jnp.asarray(whole[n], expected[n].dtype) for n in expected})


def for_clip(preprocessing: Preprocessing, frames: int, crop: int) -> Preprocessing:
    """Returns a preprocessing for clips of another length or crop; 0 keeps a value.

    Frames are scaled to at least the crop.
    """
    p = preprocessing
    if not crop:
        return dataclasses.replace(p, frames=frames or p.frames)
    size, width = max(p.size, crop), max(p.width, crop) if p.width else 0
    return dataclasses.replace(p, frames=frames or p.frames, crop=crop, size=size, width=width)


def traced(model, clip) -> tuple[dict[str, jax.ShapeDtypeStruct], dict[str, tuple[int, ...]]]:
    """Returns shapes of the variables, by flat names with their collection, and of the endpoints.

    The endpoints are in network order.
    """
    found = trace(model, clip)
    ends = {name: end.shape for name, end in found.endpoints.items()}
    return tree.flatten(found.variables), ends


def left_out(patterns: Sequence[str], ours: list[str], theirs: list[str]) -> set[str]:
    """Returns the parameters that `leave_out` patterns match, in the model or in the file.

    Args:
      patterns: shell-style patterns.
      ours: names of the model, with their collection; patterns match them without it.
      theirs: names in the file.

    Raises:
      ConfigError: a pattern matches nothing.
    """
    bare = {name.split("/", 1)[1]: name for name in ours}
    # A statistic and a parameter never share a bare name, because their leaves differ.
    hits = tree.matching([*bare, *theirs], patterns, "leave_out")
    return {bare.get(hit, hit) for hit in hits}


def check_fit(
    where: str,
    wanted: Mapping[str, Any],
    loaded: Mapping[str, Any],
    unread: Mapping[str, Any],
    model: Any,
    theirs: Mapping[str, str] | None = None,
    source: str | None = None,
) -> None:
    """Checks that names and shapes of arrays are those of a network.

    Args:
      where: origin of the arrays.
      wanted: flat names to leaves with a shape.
      loaded: arrays with a name in `wanted`.
      unread: all other arrays.
      model: the network.
      theirs: our names to the names in the file, which the message also lists; None if they are
        the same.
      source: the library of the file, for the message.

    Raises:
      CheckpointError: they differ; the message lists the differences. If less than half of the
        parameters are there, it lists some names of both sides instead.
    """
    if theirs is not None and source and 2 * len(loaded) < len(wanted):
        raise CheckpointError(
            f"{where} does not fit the model: {len(loaded)} of {len(wanted)} parameters are in "
            f"the file under the names of {source!r}.\n"
            f"  the file has     {_sample([*unread, *(theirs[n] for n in loaded)])}\n"
            f"  {source + ' has':<16} {_sample([theirs[n] for n in wanted])}\n"
            "Check the source, the network, and that the file contains its weights"
        )
    try:
        tree.check_same(wanted, {**loaded, **unread}, where)
    except CheckpointError as error:
        text = str(error)
        for ours in wanted:
            if theirs is not None:
                text = text.replace(f"missing   {ours} ", f"missing   {ours} [{theirs[ours]}] ")
        wrong = {n for n in wanted if n not in loaded or loaded[n].shape != wanted[n].shape}
        if wrong and all(in_head(model, n) for n in wrong) and not unread:
            patterns = ", ".join(f'"{scope}/*"' for scope in head_scopes(model))
            text += (
                "\nThe classifier has another number of classes: "
                f"leave_out=({patterns},) starts it with fresh values"
            )
        raise CheckpointError(text) from None


def _sample(names: Sequence[str]) -> str:
    """Returns the first and last of many names, and their number."""
    names = sorted(names)
    shown = [*names[:4], "...", *names[-2:]] if len(names) > 7 else names
    return f"{len(names)} names: {', '.join(shown)}"


def fresh_values(
    model: Any, clip_shape: Sequence[int], key: int | jax.Array, names: set[str]
) -> dict[str, jax.Array]:
    """Returns fresh values of some variables.

    Args:
      model: a network.
      clip_shape: `(T, H, W, C)` of its clips.
      key: a seed, or a key of `jax.random`.
      names: flat names with their collection, such as "params/fc/kernel".
    """
    if not names:
        return {}
    simple = model.clone(lowering=Lowering.DIRECT)

    @jax.jit  # computes these variables only
    def some(key):
        clip = jnp.zeros((1, *clip_shape), jnp.float32)
        flat = tree.flatten(simple.init(key, clip, train=False))
        return {name: flat[name] for name in names}

    return some(jax.random.key(key) if isinstance(key, int) else key)
