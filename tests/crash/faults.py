"""Faults of the disk at the N-th file operation, inside one process: a kill, and a disk that is full."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sapwood.run import files


class Killed(BaseException):
    """Stands for SIGKILL: from here on nothing reaches the disk, clean-up included."""


@dataclass(slots=True)
class Operations:
    """What `watch` saw: each operation's name and path."""

    seen: list[tuple[str, Path]] = field(default_factory=list[tuple[str, Path]])


@contextmanager
def watch() -> Generator[Operations]:
    """Count the file operations of a block, and let them be."""
    operations = Operations()
    with _hook(lambda number, name, path: operations.seen.append((name, path))):
        yield operations


@contextmanager
def killed_at(number: int) -> Generator[None]:
    """The block ends just before its ``number``-th operation (the first is 1); none after it happens."""

    def fault(seen: int, name: str, path: Path) -> None:
        if seen >= number:
            raise Killed(f"before {name} {path.name}")

    with _hook(fault):
        yield


@contextmanager
def full_disk_at(number: int, times: int = 1, code: int = errno.ENOSPC) -> Generator[None]:
    """The ``number``-th operation and the ``times - 1`` after it are refused. Removing is always possible."""

    def fault(seen: int, name: str, path: Path) -> None:
        if number <= seen < number + times and name != "unlink":
            raise OSError(code, os.strerror(code), str(path))

    with _hook(fault):
        yield


@contextmanager
def files_no_larger_than(size: int) -> Generator[None]:
    """The kernel itself refuses every write beyond ``size`` bytes of a file, whoever makes it: what is before
    is on the disk, a torn file. Python ignores the signal that goes with it, so the write gets EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def _hook(fault) -> Generator[None]:  # type: ignore[no-untyped-def]
    seen = 0

    def announced(name: str, path: Path) -> None:
        nonlocal seen
        seen += 1
        fault(seen, name, path)

    before, files.on_operation = files.on_operation, announced
    try:
        yield
    finally:
        files.on_operation = before
