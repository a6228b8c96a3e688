"""Why a process ended without a word: found by the kernel's counters, when the process took the run and
now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sapwood.machine.system import kernel_file

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
COUNTERS = Path("/proc/vmstat")  # oom_kill: processes that were killed for memory since the machine started

KILLED = "killed by the system"
FOR_MEMORY = "killed by the system, probably for memory"
RESTARTED = "the machine was restarted"


def circumstances() -> dict[str, Any]:
    """The time at which this machine started, and how many processes it has killed for memory since then.
    What isn't known is left out."""
    facts: dict[str, Any] = {}
    for boot in kernel_file(BOOT_ID):
        facts["boot"] = boot.strip()
    for line in kernel_file(COUNTERS):
        name, _, number = line.partition(" ")
        if name == "oom_kill" and number.strip().isdigit():
            facts["killed_for_memory"] = int(number)
    return facts


def cause_of_death(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is known of a process that ended. ``then``, ``now``: the machine's `circumstances` before and
    after."""
    if "boot" in then and "boot" in now and then["boot"] != now["boot"]:
        return RESTARTED
    if now.get("killed_for_memory", 0) > then.get("killed_for_memory", float("inf")):
        return FOR_MEMORY
    return KILLED
