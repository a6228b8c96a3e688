"""What this process does just now, and how far it is: said where the work is, shown by whoever looks.

Nobody looks unless `told_to` is open. What takes less than two seconds is for the shower to pass over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

Tell = Callable[[str], None]
"""Takes what is being done ("measuring the base 12/40"), and "" when it is done."""
AFTER = 2.0  # seconds that pass before anything is shown
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Task:
    text: str


class _Speaker:
    """Tells what is being done, the innermost of several; where that ends, what is around it goes on."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._tasks: list[_Task] = []

    def begin(self, text: str) -> _Task:
        self._tasks.append(task := _Task(text))
        self._tell(text)
        return task

    def change(self, task: _Task, text: str) -> None:
        task.text = text
        if self._tasks and self._tasks[-1] is task:
            self._tell(text)

    def end(self, task: _Task) -> None:
        self._tasks.remove(task)
        self._tell(self._tasks[-1].text if self._tasks else "")


_speaker: ContextVar[_Speaker | None] = ContextVar("speaker", default=None)


@contextmanager
def told_to(tell: Tell) -> Generator[None]:
    """While open, `doing` and `counted` speak to ``tell``."""
    token = _speaker.set(_Speaker(tell))
    try:
        yield
    finally:
        tell("")
        _speaker.reset(token)


@contextmanager
def doing(what: str) -> Generator[Callable[[str], None]]:
    """Say what the block does. It gives a function that takes how far it is ("12/40"), from any thread."""
    speaker = _speaker.get()
    if speaker is None:
        yield lambda _: None
        return
    task = speaker.begin(what)
    try:
        yield lambda far: speaker.change(task, f"{what} {far}")
    finally:
        speaker.end(task)


def counted(what: str, items: Iterable[T], total: int | None = None) -> Iterator[T]:
    """The items; before each it is said which of them it is."""
    whole = total if total is not None else len(items) if isinstance(items, Sized) else None
    with doing(what) as far:
        for i, item in enumerate(items):
            far(f"{i + 1:,}/{whole:,}" if whole is not None else f"{i + 1:,}")
            yield item


class Patient:
    """A `Tell` that passes on only what is still true after some seconds, and then how it goes on, no more
    often than ``every`` seconds."""

    def __init__(self, show: Tell, every: float = 0.2, after: float = AFTER) -> None:
        self._show, self._every, self._after = show, every, after
        self._text, self._shown = "", False
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def __call__(self, text: str) -> None:
        with self._lock:
            self._text = text
            if text and self._timer is None:
                self._wait(self._after)
            elif not text:
                self._stop()

    def _wait(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._due)
        self._timer.daemon = True
        self._timer.start()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._shown:
            self._show("")
            self._shown = False

    def _due(self) -> None:
        with self._lock:
            if self._timer is None or not self._text:
                return
            self._show(self._text)
            self._shown = True
            self._wait(self._every)


def bytes_of(done: float, whole: float) -> str:
    """``12/98 MB``: how far a transfer is."""
    unit, name = (1e9, "GB") if whole >= 1e10 else (1e6, "MB")
    return f"{done / unit:,.0f}/{whole / unit:,.0f} {name}"
