"""Partitioning over the batch of computations that XLA's partitioner cannot split.

A custom call is opaque to the partitioner, and a loop over blocks of the batch looks like random
access. In both cases every device would gather the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P


def over_batch(
    function: Callable[..., jax.Array],
    operands: Sequence[jax.Array],
    batched: Sequence[bool],
    summed: bool = False,
) -> jax.Array:
    """Calls a function on each device's part of the batch.

    Args:
      function: computes the result, which has 5 axes, from the operands, for any batch size. It
        must not use other arrays, because `custom_partitioning` refuses constants.
      operands: arrays; the first one has the batch as its first axis.
      batched: for each operand, True if its first axis is the batch.
      summed: True if the result is a sum over the batch; False (default) if its first axis is the
        batch.

    Returns:
      The result of `function` for the whole batch.
    """

    def partition(mesh, arguments, result):
        del result
        spec = arguments[0].sharding.spec
        axes = spec[0] if len(spec) else None
        whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(axes))

        def local(*arrays):
            part = function(*arrays)
            return lax.psum(part, axes) if summed and axes is not None else part

        given = tuple(split if b else whole for b in batched)
        return mesh, local, whole if summed else split, given

    # One name per axis. Only the batch axis, "n", may be sharded.
    inside: list[str] = []

    def axes_of(ndim: int, with_batch: bool) -> str:
        own = [f"f{len(inside) + axis}" for axis in range(ndim - with_batch)]
        inside.extend(own)
        return " ".join(["n"] * with_batch + own)

    sources = [axes_of(array.ndim, b) for array, b in zip(operands, batched, strict=True)]
    rule = f"{', '.join(sources)} -> {axes_of(5, not summed)}"
    call = custom_partitioning(function)
    call.def_partition(
        partition,
        sharding_rule=rule,
        reduction_factors=("n",) if summed else (),
        need_replication_factors=tuple(inside),
    )
    return call(*operands)
