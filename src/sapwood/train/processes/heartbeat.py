"""A sign of life: a process that hangs (stopped, swapped out, cut off) is noticed within a minute.

A process that dies closes its connections, which the others notice at once. A process that hangs keeps its
connections open, and the others would wait. So each process counts up a number of its own every few seconds,
in a thread, and watches its neighbour's number.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

from sapwood.errors import STOPPED_RESUMABLE, LostProcessError

BEAT = 5.0  # seconds between two signs
PATIENCE = 60.0  # seconds without one
SPOKEN = "spoken"  # key: how many processes have said, or would have said, how the run ended
HUNG = "hung"  # key: above zero if a process was found that hangs
LEFT = -1_000_000_000  # the count of a process that ended as it should


class Heartbeat:
    """While it is open, this process shows that it lives, and watches the next one in the ring.

    store: torch's key-value store, on a connection of its own.
    """

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self._store, self._rank, self._next = store, rank, (rank + 1) % size
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(BEAT)

    def _beat(self) -> None:
        count, since = 0, time.monotonic()
        try:
            while not self._done.wait(BEAT):
                self._store.add(f"beat/{self._rank}", 1)
                if self._store.add(HUNG, 0):
                    os._exit(STOPPED_RESUMABLE)
                now = self._store.add(f"beat/{self._next}", 0)
                if now < 0 or now != count:
                    count, since = now, time.monotonic()
                elif time.monotonic() - since > PATIENCE:
                    self._give_up()
            self._store.add(f"beat/{self._rank}", LEFT)
        except RuntimeError:
            return  # the store is gone with the process that kept it: connections tell the others

    def _give_up(self) -> None:
        """The main threads wait in calls that nothing can interrupt, so the processes end here. The run is
        whole at its last checkpoint."""
        if self._store.add(SPOKEN, 1) == 1:
            what = f"process {self._next} has given no sign of life for {PATIENCE:.0f} s"
            error = LostProcessError(what, mend="start `sapwood resume RUN` with as many processes")
            print(f"sapwood: {error}", file=sys.stderr, flush=True)
        self._store.add(HUNG, 1)
        time.sleep(2 * BEAT)  # the others read it, even if this process keeps the store
        os._exit(STOPPED_RESUMABLE)
