"""Whether a run that says it is running really runs: the state of its process, and how long it has been
silent."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import Literal

from sapwood.run.following import Following
from sapwood.run.lock import holder

QUIET = 120.0  # seconds without an event and without work after which a run counts as hung, at the least
PATIENCE = 5  # times its longest step or evaluation
IDLE = 0.02  # share of one processor below which a process does nothing
WATCHED = 15.0  # seconds over which that share is measured, at the least

Condition = Literal["running", "hung", "died", "finished", "stopped", "failed", "unknown"]
STATES: dict[str, Condition] = {"finished": "finished", "stopped": "stopped", "failed": "failed"}


@dataclass(frozen=True, slots=True)
class Pulse:
    """What is true of a run now.

    Attributes:
        why: frozen (its process is stopped by a signal), silent (it neither works nor says anything), or what
            is known of a death or a failure.
        silent: seconds since its last event; None if it has none.
        pid: of its process, if it is on this machine.
    """

    condition: Condition
    why: str | None = None
    silent: float | None = None
    pid: int | None = None


class Pulses:
    """The pulse of one run. It remembers the process's processor time, to see whether the process works."""

    def __init__(self, following: Following) -> None:
        self._following = following
        self._seen: tuple[int, float, float] | None = None  # pid, when, processor seconds then

    def feel(self) -> Pulse:
        """As of the last look of the `Following`."""
        found, tally = self._following.standing, self._following.tally
        said = str(found.status.get("status", "unknown"))
        silent = max(0.0, time.time() - tally.last_time) if tally.last_time is not None else None
        if said != "running":
            reason = found.status.get("reason")
            return Pulse(STATES.get(said, "unknown"), str(reason) if reason else None, silent)
        if not found.held:
            return Pulse("died", self._following.summary().cause, silent)
        pid = _pid(self._following)
        if pid is None:
            return Pulse("running", None, silent)
        why = self._why_hung(pid, silent)
        return Pulse("running" if why is None else "hung", why, silent, pid)

    def _why_hung(self, pid: int, silent: float | None) -> str | None:
        import psutil

        try:
            process = psutil.Process(pid)
            if process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
                return "frozen"
            times = process.cpu_times()
        except psutil.Error:
            return None
        limit = max(QUIET, PATIENCE * self._following.tally.longest)
        idle = self._idle(pid, times.user + times.system)
        return "silent" if silent is not None and silent > limit and idle else None

    def _idle(self, pid: int, used: float) -> bool:
        """Whether the process did nothing since the first look. If it was busy, this look becomes the first
        one."""
        now = time.monotonic()
        if self._seen is None or self._seen[0] != pid:
            self._seen = (pid, now, used)
        _, since, before = self._seen
        if used - before > IDLE * max(WATCHED, now - since):
            self._seen = (pid, now, used)
            return False
        return now - since >= WATCHED


def _pid(following: Following) -> int | None:
    """The pid of the process that holds the run, if the process is on this machine."""
    owner = holder(following.path)
    pid = owner.get("pid")
    return pid if isinstance(pid, int) and owner.get("host") == socket.gethostname() else None
