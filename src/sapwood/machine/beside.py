"""A piece of work in a second process, while this one does another: a fork, where that is safe.

A forked child has none of its parent's other threads, and whatever lock one of them held stays locked. So
there is no second process where a Python thread runs that isn't known to begin anew; and the child computes
nothing with torch, whose threads it doesn't have either.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, TypeVar

Work = Callable[[], Sequence[bytes | memoryview]]
T = TypeVar("T")
PATIENCE, SLOWER = 60.0, 4.0  # seconds, and times what this process took, that a child may take longer
HARMLESS = {"template-watchdog"}  # a child starts its own (template/jinja)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def can_fork() -> bool:
    """Would a second process help, and is it safe?"""
    others = {thread.name for thread in threading.enumerate()} - {threading.main_thread().name}
    return sys.platform == "linux" and cores() > 1 and others <= HARMLESS


def beside(work: Work, own: Callable[[], T]) -> tuple[T, BinaryIO | None]:
    """Call ``own`` here and ``work`` in a fork; (what ``own`` returned, a file of what ``work`` did).

    The file is None where ``work`` raised anything, was killed, or hung: do it again here, to see it raised.
    What ``own`` raises ends the fork.
    """
    file = tempfile.TemporaryFile(prefix="sapwood-")  # noqa: SIM115 - the caller's; it has no name to leave
    with _one_thread_of_tokenizers():
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            _work_and_exit(work, file)
        try:
            started = time.monotonic()
            found = own()
            done = _ends_well(child, PATIENCE + SLOWER * (time.monotonic() - started))
        except BaseException:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
    return found, file if done else None


def _ends_well(child: int, seconds: float) -> bool:
    """Wait for a child; one that takes longer than ``seconds`` hangs, and is killed."""
    deadline = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status == 0
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.02)


def _work_and_exit(work: Work, file: BinaryIO) -> None:
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for chunk in work():
            file.write(chunk)
        file.flush()
        code = 0
    finally:
        os._exit(code)  # whatever happened: nothing of the parent's is to be flushed or run here


@contextmanager
def _one_thread_of_tokenizers() -> Generator[None]:
    """The tokenizers library would wait for threads that a fork doesn't have; each process has one core."""
    key = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(key)
    os.environ[key] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before
