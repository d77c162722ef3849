"""Internals of JAX that convolutions on CPUs need and that have no public interface.

Each function reports if a JAX release no longer has the internals that it uses.
`layers.primitive` then uses other lowerings.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any


def needs_devices(primitive: Any) -> None:
    """Makes JAX pass the devices to the lowering rule, which `custom_partitioning` needs."""
    # Without it, `devices_of` returns 0.
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src import dispatch

        dispatch.prim_requires_devices_during_lowering.add(primitive)


def devices_of(context: Any) -> int:
    """Returns the number of devices of a lowering context; 0 if JAX does not provide it."""
    axes = context.module_context.axis_context
    if hasattr(axes, "device_assignment"):  # plain `jit`
        return len(axes.device_assignment or ())
    # Inside `shard_map` the program runs on one device if all axes of the mesh are manual.
    manual = getattr(axes, "manual_axes", None)
    return 1 if manual is not None and set(manual) == set(axes.mesh.axis_names) else 0


@functools.cache
def keep_out_of_compilation_cache(target: str) -> bool:
    """Keeps CPU programs that contain the custom call `target` out of the persistent cache.

    XLA serializes oneDNN's calls as objects of a wrong class, which is undefined behavior: it runs
    out of memory, ends the process, or writes invalid data that a later process would load.

    Args:
      target: prefix of the name of the custom call.

    Returns:
      False if the cache is not found in JAX.
    """
    try:
        from jax._src import compilation_cache

        put = compilation_cache.put_executable_and_time
    except (ImportError, AttributeError):
        return False

    @functools.wraps(put)
    def put_others(cache_key, module_name, executable, backend, *rest, **named):
        if backend.platform == "cpu" and any(
            target in module.to_string() for module in executable.hlo_modules()
        ):
            return None
        return put(cache_key, module_name, executable, backend, *rest, **named)

    compilation_cache.put_executable_and_time = put_others
    return True
