"""Running a chat template that nobody has read, with a frozen clock and with bounds on time, memory and
output."""

from __future__ import annotations

import ctypes
import re
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes

from sapwood.errors import DataError, brief
from sapwood.machine.system import after_fork, peak_resident, thread_seconds
from sapwood.template.limits import MAX_TEXT, WIDTH, TemplateFault, limit

SECONDS = 2.0  # of processor time for one rendering; the slowest honest template needs a few milliseconds
MEMORY = 1_000_000_000  # bytes by which the process may grow while one rendering runs
LOOKS = 40  # of the watchdog, in that time
MAX_CONSTANT = 1_000_000  # an integer in a template's text
MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")


class _Stopped(BaseException):
    """Raised into a rendering by the watchdog. A BaseException, so that no template code can swallow it."""


class _OutOfTime(_Stopped):
    def __str__(self) -> str:
        return f"it ran for more than {SECONDS:g} s"


class _OutOfMemory(_Stopped):
    def __str__(self) -> str:
        return f"it took more than {MEMORY / 1e6:,.0f} MB"


class ChatTemplate:
    """A compiled chat template.

    Args:
        environment: a jinja2 environment that nobody else uses (it is changed here).
        source: the template's text.
        clock: what ``strftime_now`` tells the template, so that a resumed run renders the same text.

    Raises DataError if the text isn't Jinja, or holds a constant that can only be meant to do harm.
    """

    def __init__(self, environment: Any, source: str, clock: datetime) -> None:
        self.source = source
        environment.globals["strftime_now"] = clock.strftime
        limit(environment)
        try:
            _refuse_bombs(environment.parse(source))
            self._compiled = environment.from_string(source)
            # jinja copies the globals for each rendering, and a chain of mappings is slow to copy.
            self._compiled.globals = dict(self._compiled.globals)
        except TemplateSyntaxError as error:
            raise DataError(
                "the chat template isn't valid Jinja",
                f"template line {error.lineno}",
                error.message or "",
                "choose another with template.name",
            ) from None
        self.marked = bool(MARKS.search(source))

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text. Raises TemplateFault."""
        with _bounded():
            text = self._compiled.render(variables)
        return _checked(text)

    def render_marked(self, variables: Mapping[str, Any]) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the character ranges between ``{% generation %}`` marks. Raises TemplateFault."""
        blocks: list[str] = []
        ranges: list[tuple[int, int]] = []
        with _bounded(), self._compiled.environment.activate_tracker(blocks, ranges):
            for block in self._compiled.generate(variables):
                blocks.append(block)  # noqa: PERF402 - the tracker reads the list while it grows
        return _checked("".join(blocks)), ranges


def _refuse_bombs(tree: nodes.Template) -> None:
    """Constants are computed while a template is compiled: no bound on time or memory acts then."""
    products = [node for node in tree.find_all((nodes.Mul, nodes.Pow)) if _is_constant(node)]
    bombs: list[nodes.Node] = [
        node for node in products if isinstance(node, nodes.Pow) or next(node.find_all(nodes.Mul), None)
    ]
    bombs += [node for node in tree.find_all(nodes.Const) if _is_huge(node.value)]
    if bombs:
        raise DataError(
            "the chat template computes something huge",
            f"template line {bombs[0].lineno}",
            "no honest template needs it, and it could exhaust this machine",
            "choose another with template.name",
        )


def _is_constant(node: nodes.Node) -> bool:
    return next(node.find_all((nodes.Name, nodes.Call)), None) is None


def _is_huge(value: Any) -> bool:
    if isinstance(value, str):
        return bool(WIDTH.search(value))
    return isinstance(value, int) and abs(value) > MAX_CONSTANT


@contextmanager
def _bounded() -> Generator[None]:
    """Turn whatever a template raises into TemplateFault, and stop it when its time or room is used up."""
    met = False
    try:
        ticket = _WATCHDOG.enter()
        try:
            yield
        except _Stopped:
            met = True
            raise
        finally:
            while not _WATCHDOG.leave(ticket) and not met:
                time.sleep(
                    0.001
                )  # the watchdog has fired: its exception is on the way, and must meet us here
    except _Stopped as stopped:
        raise TemplateFault(str(stopped)) from None
    except TemplateFault:
        raise
    except TemplateError as error:
        raise TemplateFault(error.message or type(error).__name__) from None
    except Exception as error:  # template code is foreign: it may fail in any way
        raise TemplateFault(f"{type(error).__name__}: {brief(error, 300)}") from None


def _checked(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise TemplateFault(f"it wrote {len(text):,} characters")
    return text


class _Watchdog:
    """One thread that looks, some twenty times a second, for renderings that take too long or too much.

    Arming it costs two dictionary operations, so that it can stand around every one of a million renderings.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # ticket -> (thread, what it may use; None until the watch has seen it once)
        self._running: dict[int, tuple[int, _Allowance | None]] = {}
        self._next = 0
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def enter(self) -> int:
        with self._lock:
            self._next += 1
            self._running[self._next] = (threading.get_ident(), None)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, name="template-watchdog", daemon=True)
                self._thread.start()
            ticket = self._next
        if not self._wake.is_set():
            self._wake.set()
        return ticket

    def leave(self, ticket: int) -> bool:
        """False if the watchdog has already fired."""
        with self._lock:
            return self._running.pop(ticket, None) is not None

    def _watch(self) -> None:
        while True:
            self._wake.wait()
            time.sleep(SECONDS / LOOKS)
            with self._lock:
                if not self._running:
                    self._wake.clear()
                for ticket, (thread, allowance) in list(self._running.items()):
                    if allowance is None:  # most renderings end before a watch sees them: no clock is read
                        self._running[ticket] = (
                            thread,
                            _Allowance(thread_seconds(thread) + SECONDS, peak_resident() + MEMORY),
                        )
                    elif (reason := allowance.used_up(thread)) is not None:
                        del self._running[ticket]
                        # While the lock is held, the rendering can't have ended: the exception reaches it.
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(
                            ctypes.c_ulong(thread), ctypes.py_object(reason)
                        )


@dataclass(frozen=True, slots=True)
class _Allowance:
    """Processor time of the thread, and memory of the process, at which a rendering is stopped.

    Time is processor time, because it is no fault of the template if the machine was stopped or busy. Memory
    counts from the most that the process ever had: the machine has already borne that much.
    """

    seconds: float
    memory: int

    def used_up(self, thread: int) -> type[_Stopped] | None:
        if peak_resident() > self.memory:
            return _OutOfMemory
        return _OutOfTime if thread_seconds(thread) > self.seconds else None


_WATCHDOG = _Watchdog()
# A forked child has the lock, perhaps held, but not the thread that would release it.
after_fork(_WATCHDOG.__init__)
