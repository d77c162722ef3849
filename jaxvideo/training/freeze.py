"""Frozen layers: parameters without gradients, and BatchNorm statistics that do not change."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxvideo.layers.norm import BatchNorm
from jaxvideo.weights import tree


def detached(params: Mapping[str, Any], frozen: Sequence[str]) -> dict[str, Any]:
    """Returns the parameters; those that match `frozen` have no gradient.

    The backward pass then ends at the first layer that is trained.

    Args:
      params: parameters of a network.
      frozen: patterns as in `weights.tree.matching`.

    Raises:
      ConfigError: a pattern matches nothing.
    """
    flat = tree.flatten(params)
    names = tree.matching(list(flat), frozen, "optim.frozen")
    return tree.unflatten(
        {name: jax.lax.stop_gradient(x) if name in names else x for name, x in flat.items()}
    )


def frozen_norms(
    params: Iterable[str], statistics: Iterable[str], frozen: Sequence[str]
) -> set[str]:
    """Returns the scopes of the BatchNorms that are frozen.

    A BatchNorm is frozen if all its parameters are. One without parameters is frozen if the
    patterns match its statistics.

    Args:
      params: names of all parameters, such as "conv1/bn/scale".
      statistics: names of all statistics, such as "conv1/bn/mean".
      frozen: patterns as in `weights.tree.matching`.

    Example:
      >>> names = ["a/bn/scale", "a/bn/bias", "a/kernel", "b/bn/scale", "b/bn/bias"]
      >>> statistics = ["a/bn/mean", "b/bn/mean", "c/bn/mean"]
      >>> sorted(frozen_norms(names, statistics, ["a/*", "c/*", "b/bn/bias"]))
      ['a/bn', 'c/bn']
    """
    own: dict[str, list[str]] = {}
    for name in params:
        own.setdefault(name.rpartition("/")[0], []).append(name)
    found = set()
    for name in statistics:
        scope = name.rpartition("/")[0]
        names = own.get(scope, [name])
        if all(any(fnmatch.fnmatchcase(one, pattern) for pattern in frozen) for one in names):
            found.add(scope)
    return found


@contextlib.contextmanager
def fixed_norms(scopes: Collection[str]) -> Iterator[None]:
    """Context in which the BatchNorms of these scopes use their running statistics in training."""

    def fixed(run, arguments, named, context):
        module = context.module
        ours = isinstance(module, BatchNorm) and context.method_name == "__call__"
        if ours and "/".join(module.path) in scopes:
            named = {**named, "train": False}
        return run(*arguments, **named)

    with nn.intercept_methods(fixed) if scopes else contextlib.nullcontext():
        yield


def kept(new: Mapping[str, Any], old: Mapping[str, Any], scopes: Collection[str]) -> dict[str, Any]:
    """Returns the new statistics, with those of the scopes exactly as they were.

    Means over micro-batches would round them.
    """
    before = tree.flatten(old)
    return tree.unflatten(
        {
            name: before[name] if name.rpartition("/")[0] in scopes else value
            for name, value in tree.flatten(new).items()
        }
    )
