"""What the machine ran out of: memory, room on a disk, open files, processes.

Much is decided by trying: whether rows share a pass, which kernel is used, whether a checkpoint is damaged.
A trial that fails says something about a model, a kernel or a file. A trial that fails for want of memory
says nothing about them, and the next one may go well. So nothing is decided by such an error: it ends the
run.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager

from sapwood.errors import OutOfMemoryError, SapwoodError, ShortageError, brief

MEMORY, ROOM, FILES = "memory", "room on a disk", "open files"
_NUMBERS = {
    **dict.fromkeys((errno.ENOMEM, errno.EAGAIN), MEMORY),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), ROOM),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), FILES),
}
_MENDS = {
    MEMORY: "close other programs",
    ROOM: "free some space or set TMPDIR to a folder on another disk",
    FILES: "close other programs or raise `ulimit -n`",
}
_ERRORS = {MEMORY: OutOfMemoryError, ROOM: ShortageError, FILES: ShortageError}
_REFUSALS = (  # of memory, in the words of torch, C++, Python and the system
    *("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "Cannot allocate memory"),
    "can't start new thread",
    "CUBLAS_STATUS_ALLOC_FAILED",  # cuBLAS has no word of its own for a GPU that others filled meanwhile
)
_BY_RUST = re.compile(r"\(os error (\d+)\)")  # how libraries written in Rust name the system's error


def refuse_shortage(error: BaseException, doing: str) -> None:
    """Call it first wherever an error decides how a run computes. ``doing``: what was tried, for example "a
    kernel was tried".

    Raises:
        OutOfMemoryError: ``error`` says that memory, threads or processes ran out.
        ShortageError: it says that a disk is full, or that no more files can be opened.
    """
    for one in _chain(error):
        if isinstance(one, ShortageError):
            raise one
        if (kind := _kind(one)) is not None:
            mend = f"{_MENDS[kind]}, and start again"
            raise _ERRORS[kind](f"{kind} ran out while {doing}", "", brief(one, 160), mend) from None


@contextmanager
def out_of_memory(doing: str) -> Generator[None]:
    """Turn every way in which Python and torch say that memory ran out into one error."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if _kind(error) != MEMORY:
            raise
        raise OutOfMemoryError(f"{doing} doesn't fit in memory", "pack.length", brief(error, 160)) from None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it stands for. ``from None`` hides one from readers, and still names it. What
    was handled when a call began is no part of it: a caller may train again after a MemoryError."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or (seen.__context__ if seen.__suppress_context__ else None)


def _kind(error: BaseException) -> str | None:
    """What ran out; None if the error says something else."""
    if isinstance(error, MemoryError):
        return MEMORY
    number, text = error.errno if isinstance(error, OSError) else None, str(error)
    if found := _BY_RUST.search(text):
        number = int(found[1])
    if number in _NUMBERS:
        return _NUMBERS[number]
    told = not isinstance(error, SapwoodError) and any(words in text for words in _REFUSALS)
    return MEMORY if told else None
