"""Parameters of the library's own modules, at little cost when a network is traced."""

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

    `Module.param` traces the initializer in every `apply`, only to compare shapes. For a network
    of 300 parameters this is most of the time that tracing takes, so shapes are compared here.
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
    """Within it `model.init` gives zeros, for callers that want shapes and trace in half the time.

    Example:
      with shapes_only():
          shapes = jax.eval_shape(lambda: model.init(key, clip, train=False))
    """
    before = _SHAPES_ONLY.set(True)
    try:
        yield
    finally:
        _SHAPES_ONLY.reset(before)
