"""The dtype that a network computes in, by name or chosen for the device."""

from __future__ import annotations

from jaxvideo.types import UsageError

#: Allowed names. "auto" is bfloat16 if the device multiplies it in hardware, otherwise float32.
DTYPES = ("float32", "bfloat16", "auto")


def resolve_dtype(name: str, platform: str | None = None) -> str:
    """Returns the name of a compute dtype: "float32" or "bfloat16".

    Args:
      name: one of `DTYPES`. "auto" is bfloat16 on TPUs, on NVIDIA GPUs of compute capability 8.0
        or higher, and on CPUs for which `layers.lowerings.onednn_probe.fast_bfloat16()` is True;
        otherwise float32.
      platform: "cpu", "gpu" or "tpu"; None (default): JAX's default backend.

    Raises:
      ConfigError: `name` is not one of `DTYPES`.

    Example:
      >>> resolve_dtype("auto", "tpu")
      'bfloat16'
    """
    if name not in DTYPES:
        raise UsageError(f"dtype={name!r}: allowed are {', '.join(DTYPES)}")
    if name != "auto":
        return name
    import jax

    return "bfloat16" if _multiplies_bfloat16(platform or jax.default_backend()) else "float32"


def _multiplies_bfloat16(platform: str) -> bool:
    if platform == "cpu":
        from jaxvideo.layers.lowerings.onednn_probe import fast_bfloat16

        return fast_bfloat16()
    if platform in ("gpu", "cuda"):
        import jax

        capability = getattr(jax.local_devices()[0], "compute_capability", "")
        try:
            return float(capability) >= 8
        except ValueError:  # AMD: the name of an architecture
            return False
    return platform == "tpu"
