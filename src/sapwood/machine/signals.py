"""Ctrl-C, kill and a closed terminal ask a run to stop; it does so at the next step boundary, saved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from sapwood.machine.system import STOP_SIGNALS


@dataclass(slots=True)
class StopRequest:
    """``signal`` is set by the first stop signal. A second one leaves at once, which is safe too. ``asked``
    is set by a program that wants the same."""

    signal: signal.Signals | None = None
    asked: bool = False

    def __bool__(self) -> bool:
        return self.asked or self.signal is not None


@contextmanager
def stop_signals() -> Generator[StopRequest]:
    """Inside, stop signals set the request. Outside the main thread nothing is installed: Python allows it
    there only, and a library's caller has handlers of its own."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.signal is not None:
            os._exit(128 + number)
        request.signal = signal.Signals(number)

    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
