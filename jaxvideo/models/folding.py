"""Prepares weights for inference: folds BatchNorm into kernels, casts to the compute dtype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxvideo.layers.conv import FOLDED


def fold(model: Any, variables: Mapping[str, Any], clip_shape: Sequence[int]) -> dict[str, Any]:
    """Adds the folded weights, which `model.apply(..., train=False)` then uses, to `variables`.

    Without them, inference folds and casts the weights in every call. The given variables are kept
    and not copied; inference does not read those that were folded.

    Args:
      model: a network of the registry.
      variables: its variables, `{"params": ..., "batch_stats": ...}`.
      clip_shape: `(T, H, W, C)` of any valid clip.

    Example:
      variables = fold(model, variables, (16, 112, 112, 3))
      logits, _ = model.apply(variables, clip, train=False)
    """
    given = {name: tree for name, tree in variables.items() if name != FOLDED}

    def folded(variables):
        # The folded weights do not depend on the clip, so XLA removes the network itself.
        clip = jnp.zeros((1, *clip_shape), jnp.float32)
        return model.apply(variables, clip, train=False, mutable=[FOLDED])[1]

    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given))
    options = None if traced else options_of_one_call()  # JAX rejects options of a nested `jit`
    return {**given, **jax.jit(folded, compiler_options=options)(given)}


def options_of_one_call() -> dict[str, Any] | None:
    """Returns `compiler_options` of a program that is executed once, so must compile fast."""
    if jax.default_backend() != "cpu":
        return None
    return {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
