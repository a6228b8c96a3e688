"""Every call that POSIX or Linux alone has, each with what happens on a system that lacks it.

No other module imports `resource` or `readline`, or names such a call of `os`: `tests/test_portable.py` reads
the source for it, and runs the command line with these calls taken away. Locks are `portalocker`'s.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Literal

try:
    import resource
except ImportError:  # Windows
    resource: Any = None

Limited = Literal["AS", "CORE", "CPU", "FSIZE", "NOFILE", "NPROC"]

BINARY: int = getattr(os, "O_BINARY", 0)  # for `os.open`: Windows would translate line ends without it
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)

WSL = Path("/dev/dxg")  # a GPU of Windows, as Linux sees it there
DRIVERS = (Path("/proc/driver/nvidia/version"), WSL)  # one of them is here with a GPU of NVIDIA

# --- processors and memory --------------------------------------------------------------------------------


@contextlib.contextmanager
def old_objects_kept() -> Generator[None]:
    """The collector doesn't look through what exists already. Whoever makes millions of small objects starts
    it so often that this costs a tenth of the time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


SPINS = 600
"""Turns for which a waiting thread of an OpenMP library spins before it sleeps. So few cost a pass 5 % on an
idle machine and save half of it on a busy one; sleeping at once costs llama.cpp four fifths of its speed."""


def busy_processes() -> float:
    """Other processes that run or wait for a processor: the average of the last minute, but no more than
    there are at this moment, for work that has just ended is nobody's hindrance. 0 where nobody counts."""
    try:
        lately = os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0
    fields = " ".join(kernel_file("/proc/loadavg")).split()
    return min(lately, float(fields[3].partition("/")[0]) - 1) if len(fields) > 3 else lately


def cores() -> int:
    """Processors that this process may use; all there are if it can't be bound to some."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_resident() -> int:
    """The most RAM in bytes that this process has held at once."""
    if resource is None:
        import psutil

        memory: Any = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


def thread_seconds(thread: int) -> float:
    """Processor time of a living thread; elapsed time where threads aren't measured one by one."""
    if hasattr(time, "pthread_getcpuclockid"):
        return time.clock_gettime(time.pthread_getcpuclockid(thread))
    return time.monotonic()


def kernel_file(path: str | Path) -> list[str]:
    """The lines of a file below /proc or /sys; none where it isn't there."""
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []


# --- what a process may do --------------------------------------------------------------------------------


def limits(what: Limited) -> tuple[int | None, int | None]:
    """The limit that holds (``ulimit``), and the one up to which it can be raised; None for no limit."""
    if resource is None:
        return None, None
    found = resource.getrlimit(getattr(resource, f"RLIMIT_{what}"))
    soft, hard = (None if bound in (resource.RLIM_INFINITY, -1) else bound for bound in found)
    return soft, hard


def set_limits(what: Limited, soft: int, hard: int | None) -> None:
    """Raises OSError if it can't be set, or if this system has no such limits."""
    if resource is None:
        raise OSError(errno.ENOSYS, "this system doesn't limit processes")
    bound = resource.RLIM_INFINITY if hard is None else hard
    resource.setrlimit(getattr(resource, f"RLIMIT_{what}"), (soft, bound))


def can_confine() -> bool:
    """Can a process give up what it may do, for good?"""
    return resource is not None


def step_back(by: int) -> None:
    """Let other processes go first, by so many steps of niceness; Windows has none."""
    if hasattr(os, "nice"):
        os.nice(by)


def after_fork(begin_anew: Callable[[], object]) -> None:
    """Call ``begin_anew`` in every child made by fork; systems without fork need nothing."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=begin_anew)


@contextlib.contextmanager
def interrupts_blocked() -> Generator[None]:
    """Ctrl-C is kept waiting, and processes that are started here never get it; Windows can't block it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- files ------------------------------------------------------------------------------------------------


def open_at_once(path: Path) -> int:
    """A descriptor for reading. A pipe without a writer is not waited for."""
    flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    return os.open(path, os.O_RDONLY | BINARY | flags)


def read_at(handle: int, length: int, start: int) -> bytes:
    """Up to ``length`` bytes from ``start`` on, of a file that nobody else reads by this descriptor."""
    os.lseek(handle, start, os.SEEK_SET)
    return os.read(handle, length)


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    handle = os.open(path, os.O_RDONLY | BINARY if hasattr(os, "O_DIRECTORY") else os.O_RDWR | BINARY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Make renames and new names in a folder durable. Windows writes them with the rename."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # network disks that can't sync a folder
            raise
    finally:
        os.close(handle)


def forget_pages(mapped: Any) -> None:
    """Let go of the pages of a mapped file that were read so far."""
    import mmap

    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


# --- the terminal -----------------------------------------------------------------------------------------


def edit_lines() -> None:
    """Give ``input()`` its editing keys and its history; a Windows terminal has its own."""
    with contextlib.suppress(ImportError):
        import readline

        del readline  # importing it is what it does
