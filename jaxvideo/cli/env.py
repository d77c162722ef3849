"""`env`: versions, devices and settings for a bug report."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from jaxvideo.cli.shared import Column, add_command, add_formats, show_table

# Distribution names. The first installed one of each group is shown.
_PACKAGES = (
    *(("jax",), ("jaxlib",), ("libtpu",), ("jax-cuda13-plugin", "jax-cuda12-plugin")),
    *(("flax",), ("optax",), ("orbax-checkpoint",), ("grain",), ("tensorflow-datasets",)),
    *(("numpy",), ("av",)),
    (
        "opencv-python-headless",
        "opencv-contrib-python-headless",
        "opencv-python",
        "opencv-contrib-python",
    ),
    ("torch",),
)

# CPU features that determine which convolution implementation is fast.
_FEATURES = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "asimdhp", "asimddp", "sve", "sve2", "bf16", "i8mm"),  # ARM
)

_VARIABLES = (
    *("XLA_FLAGS", "GLIBC_TUNABLES", "LD_PRELOAD", "OMP_NUM_THREADS", "XDG_CACHE_HOME"),
    *("CUDA_VISIBLE_DEVICES", "LIBTPU_INIT_ARGS"),
)
_PREFIXES = ("JAX_", "JAXVIDEO_", "XLA_PYTHON_")


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "env",
        _env,
        "print versions, devices and settings for a bug report",
        "Includes the CPU and GPU, the usable convolution implementations, the caches and the "
        "relevant environment variables.",
    )
    add_formats(command)


def _env(options: argparse.Namespace) -> int:
    rows = {**_versions(), **_machine(), **_devices(), **_convolution(), **_caches(), **_settings()}
    columns = [Column("name"), Column("value")]
    show_table(options, columns, [*rows.items()], document=lambda: rows, heads=False)
    return 0


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from jaxvideo import __version__

    rows = {
        "jaxvideo": __version__,
        "Python": f"{platform.python_version()} ({sys.executable})",
    }
    for names in _PACKAGES:
        found = {}
        for name in names:
            with contextlib.suppress(PackageNotFoundError):
                found[name] = version(name)
        for name in [*found][:1]:
            rows[name] = found[name]
        if len(found) > 1 and "opencv-python" in names:
            others = ", ".join([*found][1:])
            rows[next(iter(found))] += (
                f" (shares the directory cv2 with {others}; see docs/install.md)"
            )
    try:
        import av

        libraries = av.library_versions.items()
        rows["FFmpeg of av"] = ", ".join(f"{k} {'.'.join(map(str, v))}" for k, v in libraries)
    except Exception as error:  # a broken installation is a reason to call this command
        rows["FFmpeg of av"] = _error(error)
    return rows


def _machine() -> dict[str, str]:
    import platform

    libc = " ".join(platform.libc_ver())
    model, features = _cpu()
    cores = os.cpu_count()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    rows = {
        "OS": platform.platform() + f", {libc}" * bool(libc.strip()),
        "CPU": model,
        "CPU features": " ".join(name for name in _FEATURES if name in features) or "unknown",
        "CPU cores": f"{usable} of {cores} usable",
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        rows["memory"] = _size(memory)
    return rows


def _cpu() -> tuple[str, set[str]]:
    """Returns model and features of the CPU; outside of Linux, the description that Python has."""
    import platform

    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return f"{platform.processor()} ({platform.machine()})", set()
    first = [line.partition(":") for line in text.partition("\n\n")[0].splitlines()]
    lines = {key.strip(): value.strip() for key, _, value in first}
    features = lines.get("flags") or lines.get("Features") or ""
    return f"{lines.get('model name', 'unknown')} ({platform.machine()})", set(features.split())


def _devices() -> dict[str, str]:
    try:
        import jax

        kinds: dict[str, list[Any]] = {}
        for device in jax.devices():
            kinds.setdefault(device.device_kind, []).append(device)
        texts = []
        for kind, devices in kinds.items():
            memory = (devices[0].memory_stats() or {}).get("bytes_limit")
            of = f", {_size(memory)} each" if memory else ""
            texts.append(f"{len(devices)} x {kind} ({devices[0].platform}{of})")
        return {"devices": "; ".join(texts)}
    except Exception as error:  # no driver, no plugin, a device in use
        return {"devices": _error(error)}


def _convolution() -> dict[str, str]:
    try:
        from jaxvideo.layers.lowerings.onednn_probe import status

        return status()
    except Exception as error:
        return {"convolution": _error(error)}


def _caches() -> dict[str, str]:
    from jaxvideo import startup

    rows = {}
    for label, path in (
        ("cache", startup.cache_directory()),
        ("compilation cache", startup.compilation_cache_directory()),
    ):
        rows[label] = f"{path} ({_contents(path)})"
    return rows


def _contents(path: Path) -> str:
    if not path.is_dir():
        return "does not exist"
    sizes = []
    for file in path.rglob("*"):
        with contextlib.suppress(OSError):  # another process has removed it
            if file.is_file():
                sizes.append(file.stat().st_size)
    return f"{_size(sum(sizes))} in {len(sizes)} files"


def _settings() -> dict[str, str]:
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    rows = {}
    if pages.is_file():
        rows["transparent huge pages"] = pages.read_text().strip()
    for name in sorted(os.environ):
        if name in _VARIABLES or name.startswith(_PREFIXES):
            rows[name] = os.environ[name]
    return rows


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _error(error: Exception) -> str:
    """Formats an exception in one line."""
    return " ".join(f"error: {type(error).__name__}: {error}".split())
