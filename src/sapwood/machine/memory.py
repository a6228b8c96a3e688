"""The memory of this process and of its machine: held, had at most, and to be had."""

from __future__ import annotations

from pathlib import Path

from sapwood.machine.system import kernel_file, limits, peak_resident

CGROUP = Path("/sys/fs/cgroup")


def peak_bytes() -> int:
    """Most RAM that this process held at once."""
    return peak_resident()


def resident_bytes() -> int:
    """RAM in bytes that this process holds now."""
    import psutil

    return psutil.Process().memory_info().rss


def total_memory() -> int:
    """RAM in bytes that this process may use: the machine's, or its container's limit if that is lower."""
    import psutil

    return min([psutil.virtual_memory().total, *_cgroup("memory.max", "memory/memory.limit_in_bytes")])


def available_memory() -> int:
    """RAM in bytes that can be had now without swapping, within the container's limit."""
    import psutil

    free = psutil.virtual_memory().available
    bounds = _cgroup("memory.max", "memory/memory.limit_in_bytes")
    used = _cgroup("memory.current", "memory/memory.usage_in_bytes")
    if bounds and used:
        free = min(free, max(0, bounds[0] - used[0] + _reclaimable()))
    address_space, _ = limits("AS")  # `ulimit -v`
    if address_space is not None:
        free = min(free, max(0, address_space - psutil.Process().memory_info().vms))
    return free


def _cgroup(*names: str) -> list[int]:
    """The first of these files under the control group's folder that holds a number (version 2, then 1)."""
    for name in names:
        text = "".join(kernel_file(CGROUP / name)).strip()
        if text.isdigit():
            return [int(text)]
    return []


def _reclaimable() -> int:
    """File cache that a control group counts as used and gives up when asked."""
    lines = kernel_file(CGROUP / "memory.stat")
    found = dict(line.split(" ", 1) for line in lines if " " in line)
    return int(found.get("inactive_file", 0)) + int(found.get("active_file", 0))
