"""Parameters of the library's own modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import ScopeParamShapeError


def parameter(
    module: nn.Module, name: str, init: Callable[..., Any], shape: Sequence[int]
) -> jax.Array:
    """Returns `module.param(name, init, shape, jnp.float32)`.

    `Module.param` traces the initializer in every `apply`, only to compare shapes. For a network
    of 300 parameters this is most of the time that tracing takes, so shapes are compared here.
    """
    if not module.has_variable("params", name):
        return module.param(name, init, tuple(shape), jnp.float32)
    value = module.get_variable("params", name)
    if jnp.shape(value) != tuple(shape):
        raise ScopeParamShapeError(name, "/" + "/".join(module.path), shape, jnp.shape(value))
    return value
