"""One process at a time: an flock that the kernel releases when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sapwood.errors import LockedError
from sapwood.run.disk import storage_error
from sapwood.run.ending import cause_of_death, circumstances
from sapwood.run.files import operation, to_json

LOCK = "LOCK"
PATIENCE = 0.5  # seconds; a watcher's `is_locked` holds the lock for an instant


class RunLock:
    """An exclusive lock on ``path``, which also says who holds it.

    A child made by fork holds it too, until it ends; a program started with exec doesn't.

    Raises LockedError naming the holder, StorageError where the file can't be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held = False
        try:
            operation("open", path)
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise storage_error(error, path) from error
        try:
            self._take()
        except BaseException:
            os.close(self._handle)
            raise
        self.held = True
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            **circumstances(),
        }
        with contextlib.suppress(OSError):  # who holds it is only for the message; the lock itself is held
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, to_json(owner).encode(), 0)

    def release(self) -> None:
        if self.held:
            self.held = False
            os.close(self._handle)

    def _take(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise _locked(self.path) from None
                time.sleep(0.02)
            except OSError as error:
                raise storage_error(error, self.path) from error


def is_locked(run: Path) -> bool:
    """True while some process holds the run."""
    try:
        handle = os.open(run / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def why_it_ended(run: Path) -> str | None:
    """What is known of the end of the process that held the run last; None where another machine did."""
    owner = _owner(run / LOCK)
    return cause_of_death(owner, circumstances()) if owner.get("host") == socket.gethostname() else None


def _owner(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        owner = json.loads(path.read_bytes())
        return owner if isinstance(owner, dict) else {}
    return {}


def _locked(path: Path) -> LockedError:
    owner = _owner(path)
    who = "process {pid} on {host}, since {started}".format(
        **{"pid": "unknown", "host": "this disk", "started": "an unknown time", **owner}
    )
    mend = "wait until it ends"
    if owner.get("host") == socket.gethostname():
        mend += f", or stop it with `kill {owner.get('pid')}`: it saves first"
    return LockedError("another process is working on this run", str(path.parent), who, mend)
