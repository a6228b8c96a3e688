"""How this process speaks: in colour or not, quietly or not, and what it shows while one waits."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Protocol

from sapwood.machine.doing import Patient, told_to

LOG_SECONDS = 10.0  # between two lines about one thing, in a log


class Terminal(Protocol):
    def isatty(self) -> bool: ...


def colours(stream: Terminal) -> bool:
    """Whether escape sequences may be written: to a terminal that knows them, unless NO_COLOR is set
    (no-color.org) or `--no-color` was given."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def quiet() -> bool:
    """Whether `-q` was given: results and errors are shown, and nothing else."""
    return not logging.getLogger("sapwood").isEnabledFor(logging.WARNING)


@contextmanager
def progress() -> Generator[None]:
    """While this context is open, stderr says what takes long, and its progress: in place on a terminal, line
    by line in a log."""
    if quiet():
        yield
        return
    in_place = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    patient = Patient(_Spinner()) if in_place else Patient(_line, every=LOG_SECONDS, after=LOG_SECONDS)
    with told_to(patient):
        yield


class _Spinner:
    """A line that rich draws again and again, for as long as there is something to say."""

    def __init__(self) -> None:
        self._status: Any = None

    def __call__(self, text: str) -> None:
        if not text:
            if self._status is not None:
                self._status.stop()
                self._status = None
        elif self._status is None:
            from rich.console import Console

            self._status = Console(stderr=True, highlight=False).status(text)
            self._status.start()
        else:
            self._status.update(text)


def _line(text: str) -> None:
    if text:
        print(f"sapwood: {text}", file=sys.stderr, flush=True)
