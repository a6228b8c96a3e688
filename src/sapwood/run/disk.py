"""The disk's refusals, as errors that a person can act on; and how much room it has."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from pathlib import Path

from sapwood.errors import SapwoodError, StorageError
from sapwood.machine.system import limits, set_limits

# The errors of a full, broken or closed disk. Other OSErrors of a block, for example of a lost connection,
# pass through.
DISK_ERRORS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EIO,
        errno.EFBIG,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ESTALE,
    }
)

MIN_FILES = 64  # files that are open at once: the model's, the run's, libraries, connections


def free_bytes(path: Path) -> int | None:
    """Bytes that this user can still write at ``path`` or its nearest existing parent; None if unknown."""
    for folder in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(folder).free
    return None


def require_space(path: Path, needed: int) -> None:
    """Raise StorageError if fewer than ``needed`` bytes are free for ``path``."""
    free = free_bytes(path)
    if free is not None and free < needed:
        raise storage_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), path, needed)


def require_limits(largest_file: int) -> None:
    """Raise StorageError if this process may not write so large a file, or open enough of them
    (`ulimit -f`, `ulimit -n`). A low limit of open files is raised if the system lets us."""
    size, _ = limits("FSIZE")
    if size is not None and size < largest_file:
        why = f"a checkpoint has a file of {largest_file:,} bytes"
        raise StorageError(
            f"this shell limits a file to {size:,} bytes", "ulimit -f", why, "ulimit -f unlimited"
        )
    soft, hard = limits("NOFILE")
    if hard is not None and hard < MIN_FILES:
        why, mend = f"{MIN_FILES} are needed", f"ulimit -n {MIN_FILES}"
        raise StorageError(f"this shell limits open files to {hard}", "ulimit -n", why, mend)
    if soft is not None and soft < MIN_FILES:
        set_limits("NOFILE", MIN_FILES, hard)


def storage_error(error: OSError, path: Path, needed: int = 0) -> StorageError:
    """The error of the disk, as one that a person can act on."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = free_bytes(path)
        known = f", {free:,} free" if free is not None else ""
        quota = " (quota)" if error.errno == errno.EDQUOT else ""
        mend = "free some space, or set save.dir to a folder on another disk"
        return StorageError(f"the disk is full{quota}", str(path), f"{_needed(needed)}{known}", mend)
    if error.errno in (errno.EACCES, errno.EPERM):
        mend = "change its permissions, or set save.dir to a folder of yours"
        return StorageError("not allowed to write", str(path), said(error), mend)
    if error.errno == errno.EROFS:
        mend = "set save.dir to a folder on a disk that can be written"
        return StorageError("the disk is read-only", str(path), _needed(needed), mend)
    mend = "look at the disk, or set save.dir to another folder"
    return StorageError("the disk refused a write", str(path), said(error), mend)


def disk_refusal(error: Exception) -> OSError | None:
    """The disk's refusal inside an exception; libraries written in Rust name it only in their text."""
    if isinstance(error, SapwoodError):
        return None
    if not isinstance(error, OSError):
        found = re.search(r"\(os error (\d+)\)", str(error))
        error = OSError(int(found[1]), os.strerror(int(found[1]))) if found else OSError()
    return error if error.errno in DISK_ERRORS else None


def said(error: OSError) -> str:
    """The system's words for an OSError."""
    return error.strerror or str(error)


def _needed(size: int) -> str:
    return f"{size:,} bytes needed" if size else "room for a new name needed"
