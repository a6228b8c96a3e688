"""The events of a run as they are read, and the run's figures as sums over them, one line at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast


class EventRecord(TypedDict):
    """A line of events.jsonl.

    ``t`` is in seconds since 1970; ``kind`` is stepped, evaluated, finished, checkpoint or note.
    """

    seq: int
    t: float
    step: int
    kind: str
    data: dict[str, Any]


def valid(records: Sequence[dict[str, Any]]) -> list[EventRecord]:
    """The records that are events. The loop is written out, because a long run has a hundred thousand of
    them."""
    return [
        cast("EventRecord", record)
        for record in records
        if isinstance(record.get("data"), dict)
        and isinstance(record.get("kind"), str)
        and isinstance(record.get("step"), int)
        and isinstance(record.get("seq"), int)
        and isinstance(record.get("t"), int | float)
    ]


@dataclass(slots=True)
class Tally:
    """Figures of a run so far. Losses are in nats, seconds are those of steps and of evaluations."""

    step: int = 0
    loss: float | None = None
    base_loss: float | None = None
    best_loss: float | None = None
    held_loss: float | None = None
    tokens: int = 0
    step_seconds: float = 0.0
    eval_seconds: float = 0.0
    longest: float = 0.0
    last_seq: int = -1
    last_time: float | None = None
    skipped: int = 0

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.step_seconds if self.step_seconds else None

    def add(self, events: Sequence[EventRecord]) -> None:
        """Count in events, in their order. ``longest`` is the longest step or evaluation."""
        for event in events:
            data = event["data"]
            self.step = max(self.step, event["step"])
            self.last_seq, self.last_time = event["seq"], event["t"]
            seconds = data.get("seconds") or 0.0
            if event["kind"] == "stepped":
                self.loss = data.get("loss")
                self.tokens += data.get("num_tokens") or 0
                self.step_seconds += seconds
                self.skipped += data.get("skipped") is not None
                self.longest = max(self.longest, seconds)
            elif event["kind"] == "evaluated":
                self.eval_seconds += seconds
                self.longest = max(self.longest, seconds)
                self._evaluated(event["step"], data.get("loss"))

    def _evaluated(self, step: int, loss: float | None) -> None:
        if step == 0 and self.base_loss is None:
            self.base_loss = loss
        if loss is not None:
            self.held_loss = loss
            self.best_loss = loss if self.best_loss is None else min(self.best_loss, loss)
