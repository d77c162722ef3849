"""Weights made ready for inference: BatchNorm folded into kernels, kernels in the compute dtype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxvideo.layers.conv import FOLDED


def fold(model: Any, variables: Mapping[str, Any], clip_shape: Sequence[int]) -> dict[str, Any]:
    """Returns `variables` with the collection that `model.apply(..., train=False)` prefers.

    Without it, inference folds and casts the weights in every call. The given variables are kept,
    not copied; those that were folded are not read any more.

    Args:
      model: a network of the registry.
      variables: its variables, `{"params": ..., "batch_stats": ...}`.
      clip_shape: `(T, H, W, C)` of any clip that the network takes.

    Example:
      variables = fold(model, variables, (16, 112, 112, 3))
      logits, _ = model.apply(variables, clip, train=False)
    """
    given = {name: tree for name, tree in variables.items() if name != FOLDED}

    def folded(variables):
        # The result depends on the weights only, so the network itself is never computed.
        clip = jnp.zeros((1, *clip_shape), jnp.float32)
        return model.apply(variables, clip, train=False, mutable=[FOLDED])[1]

    quickly = None
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given))
    if jax.default_backend() == "cpu" and not traced:  # JAX refuses options of a nested `jit`
        # Executed once, so the time to compile it matters more than how fast it runs.
        quickly = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return {**given, **jax.jit(folded, compiler_options=quickly)(given)}
