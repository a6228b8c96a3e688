"""How busy others keep this machine: what a measurement is worth, and whether it is to be made again."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

BUSY = 0.15  # share of the processors' time that others take, from which a measurement is to be made again
MOMENT = 0.25  # seconds in which is seen whether others are at work


@dataclass(frozen=True, slots=True)
class LoadMeter:
    """What the processors did until the meter was made: `share` compares.

    busy: seconds of all processors for everybody; own: for this process; at: when.
    """

    busy: float
    own: float
    at: float

    @classmethod
    def start(cls) -> LoadMeter:
        import psutil

        times = psutil.cpu_times()
        rest = times.idle + getattr(times, "iowait", 0.0)
        spent = psutil.Process().cpu_times()
        return cls(sum(times[:8]) - rest, spent.user + spent.system, time.monotonic())

    def share(self) -> float:
        """Share of all processors' time, 0 to 1, that other processes have taken since."""
        now = LoadMeter.start()
        room = (now.at - self.at) * (os.cpu_count() or 1)
        others = (now.busy - self.busy) - (now.own - self.own)
        return min(1.0, max(0.0, others / room)) if room > 0 else 0.0


def load_now(seconds: float = MOMENT) -> float:
    """`LoadMeter.share` of the next moment."""
    meter = LoadMeter.start()
    time.sleep(seconds)
    return meter.share()
