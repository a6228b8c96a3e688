"""Showing a training while it runs: a live panel to a person, plain lines to a pipe, NDJSON to a program."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO, cast

from sapwood.machine.doing import Patient, told_to
from sapwood.run.lines import to_line
from sapwood.run.store import KINDS, event_data
from sapwood.scores import perplexity
from sapwood.show.figures import UNKNOWN, change, duration, number, size, steps
from sapwood.show.manner import quiet
from sapwood.show.stream import SafeStream
from sapwood.show.tables import hung, show_comparison, show_runs, side_by_side, summary
from sapwood.types import Evaluated, Event, Finished, Stepped

if TYPE_CHECKING:
    from sapwood.show.panel import Panel

__all__ = [  # all that goes to a terminal, in one place for the command line
    "Reporter",
    "reporter",
    "show_comparison",
    "show_runs",
    "side_by_side",
    "summary",
]

PLAIN_INTERVAL = 1.0  # seconds between lines
PACE_WINDOW = 20  # steps


class Reporter(ABC):
    """Shows each event as it comes; a context manager. Whatever happens to the stream, training goes on."""

    def __init__(self, stream: SafeStream, total_steps: int, base_loss: float | None) -> None:
        self.stream = stream
        self.total_steps = total_steps
        self.base_loss = base_loss

    @abstractmethod
    def show(self, event: Event) -> None:
        """Show one event."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Show a sentence of the program's own: a checkpoint was saved, a disk is full."""

    @abstractmethod
    def close(self) -> None:
        """Show what was held back, and leave the terminal as it was found."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class JsonReporter(Reporter):
    """One JSON object a line, as in events.jsonl, with the samples inside; nothing else."""

    def show(self, event: Event) -> None:
        self._record(KINDS[type(event)], event.step, event_data(event))

    def note(self, text: str) -> None:
        self._record("note", None, {"text": text})

    def close(self) -> None:
        self.stream.flush()

    def _record(self, kind: str, step: int | None, data: dict[str, Any]) -> None:
        record = {"t": round(time.time(), 3), "step": step, "kind": kind, "data": data}
        self.stream.write(to_line(record).decode())
        self.stream.flush()


class QuietReporter(Reporter):
    """Shows nothing during the run: `-q` was given."""

    def show(self, event: Event) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class TextReporter(Reporter):
    """What the two reporters for people share: how evaluations and the end read.

    Sample answers aren't shown during the run. They are shown at the end, beside the base's.
    """

    def show(self, event: Event) -> None:
        if isinstance(event, Stepped):
            self._stepped(event)
        elif isinstance(event, Evaluated):
            if event.step == 0:
                self.base_loss = event.loss
            self._evaluated(event)
        else:
            self._finished(event)

    def note(self, text: str) -> None:
        self._line(text)

    @abstractmethod
    def _stepped(self, event: Stepped) -> None: ...

    @abstractmethod
    def _line(self, text: str) -> None: ...

    def _evaluated(self, event: Evaluated) -> None:
        self._line(held_out_line(event, self.base_loss))

    def _finished(self, event: Finished) -> None:
        self._line(
            f"{event.reason} at step {steps(event.step, self.total_steps)} in {duration(event.seconds)}"
        )


class PlainReporter(TextReporter):
    """Lines for a pipe or a log file: at most one a second for steps, and always the last."""

    def __init__(
        self,
        stream: SafeStream,
        total_steps: int,
        base_loss: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(stream, total_steps, base_loss)
        self._clock = clock
        self._pace = Pace(total_steps, clock)
        self._shown_at: float | None = None
        self._held_back: str | None = None

    def close(self) -> None:
        if self._held_back is not None:
            self._write(self._held_back)
            self._held_back = None

    def _stepped(self, event: Stepped) -> None:
        self._pace.stepped(event)
        self._held_back = step_line(event, self.total_steps, self._pace.left())
        now = self._clock()
        if self._shown_at is None or now - self._shown_at >= PLAIN_INTERVAL:
            self._shown_at = now
            self.close()

    def _line(self, text: str) -> None:
        self.close()  # lines stay in the order of the events
        self._write(text)

    def _write(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()


class LiveReporter(TextReporter):
    """A panel that stays in place; sentences scroll above it."""

    def __init__(
        self, stream: SafeStream, total_steps: int, base_loss: float | None = None, title: str = "sapwood"
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        from sapwood.show.panel import Panel

        super().__init__(stream, total_steps, base_loss)
        self._panel: Panel = Panel(title, total_steps, Pace(total_steps, time.monotonic))
        self._console = Console(file=cast("TextIO", stream), force_terminal=True, highlight=False)
        self._opened = ExitStack()
        self._live = Live(self._panel, console=self._console, refresh_per_second=2)
        self._live.start()

    def __enter__(self) -> Self:
        self._opened.enter_context(told_to(Patient(self._doing)))
        return self

    def close(self) -> None:
        self._opened.close()
        self._live.stop()

    def _doing(self, text: str) -> None:
        self._panel.doing = text

    def _stepped(self, event: Stepped) -> None:
        self._panel.stepped(event)

    def _evaluated(self, event: Evaluated) -> None:
        self._panel.evaluated(event, self.base_loss)
        super()._evaluated(event)

    def _finished(self, event: Finished) -> None:
        self._panel.finished = True
        super()._finished(event)

    def _line(self, text: str) -> None:
        self._console.print(hung(text, self._console.width), markup=False, emoji=False)


class Pace:
    """How long the rest will take, from the last steps; evaluations and saves between them count too."""

    def __init__(self, total_steps: int, clock: Callable[[], float]) -> None:
        self._total = total_steps
        self._clock = clock
        self._marks: list[tuple[float, int]] = []
        self._step = 0

    def stepped(self, event: Stepped) -> None:
        now = self._clock()
        if not self._marks:
            self._marks.append((now - event.seconds, event.step - 1))
        self._marks = [*self._marks[-PACE_WINDOW:], (now, event.step)]
        self._step = event.step

    def left(self) -> float | None:
        """Seconds to the last step; None before the first."""
        if not self._marks:
            return None
        (began, first), (ended, last) = self._marks[0], self._marks[-1]
        seconds_per_step = (ended - began) / max(1, last - first)
        return max(0.0, (self._total - self._step) * seconds_per_step - (self._clock() - ended))


def reporter(
    stream: TextIO,
    total_steps: int,
    json: bool = False,
    *,
    title: str = "sapwood",
    base_loss: float | None = None,
) -> Reporter:
    """The right way to show a training on ``stream``.

    Args:
        stream: stdout, usually; it may break at any time.
        total_steps: optimizer steps of the whole run.
        json: NDJSON, whatever the stream is.
        title: head of the live panel.
        base_loss: held-out loss of step 0, for a resumed run that doesn't measure it again.
    """
    safe = SafeStream(stream)
    if json:
        return JsonReporter(safe, total_steps, base_loss)
    if quiet():
        return QuietReporter(safe, total_steps, base_loss)
    if safe.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return LiveReporter(safe, total_steps, base_loss, title)
    return PlainReporter(safe, total_steps, base_loss)


def step_line(event: Stepped, total_steps: int, left: float | None) -> str:
    """``step 12/120 loss 2.3451 lr 9.1e-05 tokens/s 310 left 2m10s mem 1.8 GB``"""
    rate = f"{event.num_tokens / event.seconds:.0f}" if event.seconds else UNKNOWN
    parts = [f"step {steps(event.step, total_steps)}", f"loss {number(event.loss)}", f"lr {event.lr:.1e}"]
    parts += [f"tokens/s {rate}", f"left {UNKNOWN if left is None else duration(left)}"]
    return " ".join([*parts, f"mem {size(event.peak_bytes)}"])


def held_out_line(event: Evaluated, base_loss: float | None) -> str:
    """``held-out 2.1210 at step 40 (before 3.0210, -0.9000, -30 %)``"""
    head = f"held-out {number(event.loss)} (perplexity {perplexity(event.loss):.4g}) at step {event.step}"
    if event.step == 0:
        return f"{head} (before training)"
    if base_loss is None:
        return head
    return f"{head} (before {number(base_loss)}, {change(event.loss, base_loss)})"
