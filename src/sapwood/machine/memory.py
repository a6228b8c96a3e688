"""The memory of this process and of its machine: held, had at most, and to be had."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def peak_bytes() -> int:
    """Most RAM that this process held at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


def resident_bytes() -> int:
    """RAM in bytes that this process holds now."""
    import psutil

    return psutil.Process().memory_info().rss


def total_memory() -> int:
    """RAM in bytes that this process may use: the machine's, or its container's limit where that is lower."""
    import psutil

    return min([psutil.virtual_memory().total, *_cgroup("memory.max", "memory/memory.limit_in_bytes")])


def available_memory() -> int:
    """RAM in bytes that can be had now without swapping, within the container's limit."""
    import psutil

    free = psutil.virtual_memory().available
    limits = _cgroup("memory.max", "memory/memory.limit_in_bytes")
    used = _cgroup("memory.current", "memory/memory.usage_in_bytes")
    if limits and used:
        free = min(free, max(0, limits[0] - used[0] + _reclaimable()))
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space not in (resource.RLIM_INFINITY, -1):  # `ulimit -v`
        free = min(free, max(0, address_space - psutil.Process().memory_info().vms))
    return free


def _cgroup(*names: str) -> list[int]:
    """The first of these files under the control group's folder that holds a number (version 2, then 1)."""
    for name in names:
        try:
            text = (CGROUP / name).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        if text.isdigit():
            return [int(text)]
    return []


def _reclaimable() -> int:
    """File cache that a control group counts as used and gives up when asked."""
    try:
        lines = (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return 0
    found = dict(line.split(" ", 1) for line in lines if " " in line)
    return int(found.get("inactive_file", 0)) + int(found.get("active_file", 0))
