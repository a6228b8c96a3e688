"""One process at a time: a lock that the system releases when its holder ends, however it ends.

The holder's name stands in a file of its own, because on Windows nobody else can read a locked file.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import portalocker
from portalocker import LockFlags

from sapwood.errors import LockedError
from sapwood.machine.shortage import refuse_shortage
from sapwood.machine.system import BINARY
from sapwood.run.disk import storage_error
from sapwood.run.ending import cause_of_death, circumstances
from sapwood.run.files import operation, to_json

LOCK = "LOCK"
HOLDER = "HOLDER"  # beside the lock
PATIENCE = 0.5  # seconds; a watcher's `is_locked` holds the lock for an instant


class RunLock:
    """An exclusive lock on ``path``; `HOLDER` beside it says who has it.

    A child made by fork holds it too, until it ends; a program started with exec doesn't.

    Raises LockedError naming the holder, StorageError if the file can't be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held = False
        try:
            operation("open", path)
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | BINARY, 0o666)
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
        with contextlib.suppress(OSError):  # HOLDER is only for messages; the lock itself is held
            path.with_name(HOLDER).write_text(to_json(owner), encoding="utf-8")

    def release(self) -> None:
        if self.held:
            self.held = False
            os.close(self._handle)

    def _take(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                portalocker.lock(self._handle, LockFlags.EXCLUSIVE | LockFlags.NON_BLOCKING)
                return
            except portalocker.AlreadyLocked:
                if time.monotonic() > deadline:
                    raise _locked(self.path) from None
                time.sleep(0.02)
            except portalocker.LockException as error:
                cause = error.__cause__
                refused = cause if isinstance(cause, OSError) else OSError(str(error))
                raise storage_error(refused, self.path) from error


def is_locked(run: Path) -> bool:
    """True while some process holds the run."""
    try:
        handle = os.open(run / LOCK, os.O_RDONLY | BINARY)
    except OSError as error:
        refuse_shortage(error, "a run's lock was looked at")
        return False
    try:
        portalocker.lock(handle, LockFlags.SHARED | LockFlags.NON_BLOCKING)
    except portalocker.AlreadyLocked:
        return True
    finally:
        os.close(handle)
    return False


def why_it_ended(run: Path) -> str | None:
    """What is known of the end of the process that held the run last; None if another machine did."""
    owner = holder(run)
    return cause_of_death(owner, circumstances()) if owner.get("host") == socket.gethostname() else None


def holder(run: Path) -> dict[str, Any]:
    """Who holds the run, or held it last: pid, host, since when. Empty if it isn't known."""
    with contextlib.suppress(OSError, ValueError):
        owner = json.loads((run / HOLDER).read_bytes())
        return owner if isinstance(owner, dict) else {}
    return {}


def _locked(path: Path) -> LockedError:
    owner = holder(path.parent)
    who = "process {pid} on {host}, since {started}".format(
        **{"pid": "unknown", "host": "this disk", "started": "an unknown time", **owner}
    )
    mend = "wait until it ends"
    if owner.get("host") == socket.gethostname():
        mend += f", or stop it with `kill {owner.get('pid')}`: it saves first"
    return LockedError("another process is working on this run", str(path.parent), who, mend)
