"""Runs as the page sees them: read from disk bit by bit, once for all viewers."""

from __future__ import annotations

import contextlib
import threading
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate, groupby
from math import nan
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import SapwoodError
from sapwood.run.events import EventRecord
from sapwood.run.following import Following
from sapwood.run.pulse import Pulse, Pulses
from sapwood.run.query import RunSummary, read_samples, run_folders, standing

STEPPED = ("step", "epoch", "tokens", "seconds", "loss", "lr", "grad_norm", "rate", "peak_bytes")
HELD = ("step", "epoch", "tokens", "seconds", "loss")
AXES = ("step", "epoch", "tokens", "seconds")
FRESH = 0.25  # seconds for which a look at a run is good for everybody


@dataclass(frozen=True, slots=True)
class Seen:
    """A run at an instant. ``changed`` grows with each event; ``left``: seconds to its end, if it goes on."""

    summary: RunSummary
    pulse: Pulse
    changed: int
    left: float | None


class LiveRun:
    """A run, its curves and its answers. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._following = Following(path)
        self._pulses = Pulses(self._following)
        self._lock = threading.Lock()
        self._looked = -1.0
        self._seen: Seen | None = None
        self._begin()

    def _begin(self) -> None:
        self._stepped = {name: array("d") for name in STEPPED}
        self._held = {name: array("d") for name in HELD}
        self._scores: list[tuple[int, dict[str, float]]] = []
        self.notes: list[EventRecord] = []
        self._events = 0
        self._tokens = self._seconds = 0.0
        self._samples: tuple[int, list[dict[str, Any]]] = (-1, [])

    def look(self) -> Seen:
        """What is true now. Raises StorageError if the run is gone."""
        with self._lock:
            now = time.monotonic()
            if self._seen is None or now - self._looked > FRESH:
                turned = self._following.turned
                events = self._following.look()
                if self._following.turned != turned:
                    self._begin()
                self._take(events)
                self._looked = now
                summary, pulse = self._following.summary(), self._pulses.feel()
                self._seen = Seen(summary, pulse, self._events, self._left(summary, pulse))
            return self._seen

    @property
    def about(self) -> dict[str, Any]:
        return dict(self._following.standing.about)

    @property
    def name(self) -> str:
        """The user's name for the run; known before its log is read."""
        return str(self.about.get("name", self.path.name))

    @property
    def planned(self) -> float | None:
        """The peak memory in bytes that the plan predicted, or None."""
        told: Any = self.about.get("facts", {}).get("memory") or {}
        peak = told.get("peak")
        return float(peak) if isinstance(peak, int | float) else None

    def stepped(self, name: str) -> NDArray[np.float64]:
        """A value of every step: float64[steps], not a number if it is unknown."""
        return np.array(self._stepped[name])

    def held(self, name: str) -> NDArray[np.float64]:
        """A value of every evaluation."""
        return np.array(self._held[name])

    def losses(self, most: int = 400) -> list[float]:
        """The losses, every n-th of them, at most ``most``."""
        losses = self._stepped["loss"]
        return list(losses[:: max(1, len(losses) // most)])

    @property
    def scores(self) -> list[tuple[int, dict[str, float]]]:
        return self._scores

    def samples(self) -> list[dict[str, Any]]:
        """Its sample answers, read again only after another event."""
        if self._samples[0] != self._events:
            self._samples = (self._events, read_samples(self.path))
        return self._samples[1]

    def _take(self, events: Sequence[EventRecord]) -> None:
        """Take in events in their order. Steps without other events between them are taken in one go, because
        there are many."""
        self._events += len(events)
        for kind, group in groupby(events, key=itemgetter("kind")):
            if kind == "stepped":
                self._take_steps(list(group))
            elif kind == "evaluated":
                for event in group:
                    self._take_evaluation(event)
            else:
                self.notes.extend(group)

    def _take_steps(self, events: Sequence[EventRecord]) -> None:
        told = [event["data"] for event in events]
        seconds, tokens = _values(told, "seconds", 0.0), _values(told, "num_tokens", 0.0)
        spent, read = (list(accumulate(new, initial=old))[1:] for new, old in
                       ((seconds, self._seconds), (tokens, self._tokens)))  # fmt: skip
        self._seconds, self._tokens = spent[-1], read[-1]
        self._put(
            self._stepped,
            {
                **{name: _values(told, name) for name in ("loss", "lr", "grad_norm", "peak_bytes")},
                "step": [float(event["step"]) for event in events],
                "epoch": _values(told, "epoch", 0.0),
                "tokens": read,
                "seconds": spent,
                "rate": [n / s if s else nan for n, s in zip(tokens, seconds, strict=True)],
            },
        )

    def _take_evaluation(self, event: EventRecord) -> None:
        data, epochs = event["data"], self._stepped["epoch"]
        self._seconds += data.get("seconds") or 0.0
        at = {"step": event["step"], "epoch": epochs[-1] if epochs else 0.0, "tokens": self._tokens}
        known = {**at, "seconds": self._seconds, "loss": _values([data], "loss")[0]}
        self._put(self._held, {name: [float(value)] for name, value in known.items()})
        if data.get("scores"):
            self._scores.append((event["step"], data["scores"]))

    def _put(self, columns: dict[str, array[float]], values: Mapping[str, Sequence[float]]) -> None:
        """Append lines. If a step is recorded twice, the later one counts."""
        fresh = max(0, len(columns["step"]) - 1)
        for name, column in columns.items():
            column.extend(values[name])
        steps = np.array(columns["step"][fresh:])
        if len(steps) > 1 and (steps[1:] <= steps[:-1]).any():
            keep = np.append(steps[:-1] < steps[1:], True)
            for name, column in columns.items():
                columns[name] = column[:fresh] + array("d", np.array(column[fresh:])[keep].tolist())

    def _left(self, summary: RunSummary, pulse: Pulse) -> float | None:
        if pulse.condition != "running" or not summary.total_steps or not summary.step:
            return None
        return (summary.total_steps - summary.step) * summary.seconds / summary.step


def _values(told: Sequence[dict[str, Any]], name: str, unknown: float = nan) -> list[float]:
    """That value of each event, ``unknown`` if it has none."""
    return [unknown if (value := data.get(name)) is None else value for data in told]


def title_of(path: Path) -> str:
    """A run as a person tells it from others: its name, and when it was made."""
    try:
        about = standing(path).about
        made = datetime.fromisoformat(str(about.get("created"))).astimezone()
    except (SapwoodError, ValueError):
        return path.name
    return f"{about.get('name', path.name)} · {made:%Y-%m-%d %H:%M}"


class LiveRuns:
    """The runs of a folder, each opened once."""

    def __init__(self, runs: Path) -> None:
        self.folder = runs
        self._open: dict[Path, LiveRun] = {}
        self._lock = threading.Lock()

    def get(self, path: Path) -> LiveRun:
        """Raises StorageError if it is no run."""
        with self._lock:
            found = self._open.get(path)
        if found is None:
            made = LiveRun(path)
            with self._lock:
                found = self._open.setdefault(path, made)
        return found

    def all(self) -> list[tuple[LiveRun, Seen]]:
        """Newest first; a run that can't be read is left out."""
        found: list[tuple[LiveRun, Seen]] = []
        for path in reversed(run_folders(self.folder)):
            with contextlib.suppress(SapwoodError, OSError):
                run = self.get(path)
                found.append((run, run.look()))
        return found
