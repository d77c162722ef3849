"""Memory of the host that is free for this process."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def free_memory() -> tuple[int, str] | None:
    """Returns the memory that this process can still use, in bytes, and what limits it.

    None if it is unknown.
    """
    limits = [limit for limit in (_free(), _cgroup()) if limit]
    return min(limits) if limits else None


def _free() -> tuple[int, str] | None:
    """Returns the free memory of the machine, or all of it on systems without /proc."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024, "free memory of this machine"
    with contextlib.suppress(AttributeError, OSError, ValueError):
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        return pages * size, "memory of this machine"
    return None


def _cgroup(
    own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> tuple[int, str] | None:
    """Returns the memory left in the cgroups of this process, as containers and Slurm set it."""
    left = []
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            names = ("memory.max", "memory.current", "inactive_file")
            if controllers:
                names = (
                    "memory.limit_in_bytes",
                    "memory.usage_in_bytes",
                    "total_inactive_file",
                )
            base = root / controllers
            folder = base / path.lstrip("/")
            # Inside a container the path may be that of the host, which is not mounted here.
            for place in (base, *(p for p in (folder, *folder.parents) if base in p.parents)):
                if (found := _left(place, *names)) is not None:
                    left.append(found)
    return (min(left), "limit of this container or job") if left else None


def _left(folder: Path, limit: str, usage: str, cached: str) -> int | None:
    """Returns limit minus usage of one cgroup, without file caches; None if it has no limit."""
    try:
        most = (folder / limit).read_text().strip()
        used = int((folder / usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # Version 1 has a number near 2 ** 63 instead of "max".
    if not most.isdecimal() or int(most) >= 2**60:
        return None
    return max(int(most) - used + int(stat.get(cached, 0)), 0)
