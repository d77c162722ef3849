"""Parameters of modules, with less tracing overhead than in linen."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import ScopeParamShapeError

_SHAPES_ONLY = contextvars.ContextVar("shapes_only", default=False)


def parameter(
    module: nn.Module, name: str, init: Callable[..., Any], shape: Sequence[int]
) -> jax.Array:
    """Returns `module.param(name, init, shape, jnp.float32)`.

    `Module.param` traces the initializer in every `apply` to compare shapes. For a network of 300
    parameters this is most of the tracing time, so shapes are compared here instead.

    Raises:
      ScopeParamShapeError: the given value has another shape.
    """
    if not module.has_variable("params", name):
        init = nn.initializers.zeros if _SHAPES_ONLY.get() else init
        return module.param(name, init, tuple(shape), jnp.float32)
    value = module.get_variable("params", name)
    if jnp.shape(value) != tuple(shape):
        raise ScopeParamShapeError(name, "/" + "/".join(module.path), shape, jnp.shape(value))
    return value


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Makes `model.init` return zeros, which halves the tracing time if only shapes are needed.

    Example:
      with shapes_only():
          shapes = jax.eval_shape(lambda: model.init(key, clip, train=False))
    """
    before = _SHAPES_ONLY.set(True)
    try:
        yield
    finally:
        _SHAPES_ONLY.reset(before)
