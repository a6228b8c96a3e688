"""What a tracker is to sapwood: somewhere to put a run's config, its curves and its sample answers.

A tracker is only ever opened in a process of its own (`trackers.follow`). Whatever its library does to
signals, to threads or to the exit of the process, it does not do to a training.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapwood.errors import ConfigError
from sapwood.machine.extras import install

Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Subject:
    """The run that a tracker is told about.

    Attributes:
        id: of the run; a tracker keeps it, so that a resumed run goes on where it was.
        config: the resolved config by key path.
        run: the run's folder.
        shared: a folder of the tracker's own, beside the runs, for what holds several of them.
        cloud: True if what is written may leave this machine.
    """

    id: str
    name: str
    project: str
    config: Mapping[str, Any]
    run: Path
    shared: Path
    cloud: bool


class Tracker(ABC):
    """An open run at a tracker. A method may raise whatever the tracker's library raises.

    Attributes:
        place: where a person finds what was written.
        see: the command, or the sentence, that shows it.
    """

    place: str
    see: str

    @abstractmethod
    def __init__(self, subject: Subject) -> None: ...

    @abstractmethod
    def figures(self, step: int, time: float, values: Figures) -> None:
        """Points of curves after ``step`` optimizer steps; ``time`` in seconds since 1970."""

    @abstractmethod
    def samples(self, step: int, time: float, answers: Sequence[Mapping[str, Any]]) -> None:
        """Sample answers, as lines of samples.jsonl."""

    @abstractmethod
    def close(self, finished: bool) -> None:
        """Write what is held back. ``finished``: the run came to its end."""


def open_tracker(name: str, subject: Subject) -> Tracker:
    """The tracker of that name, with the run begun in it.

    Raises ConfigError if its library isn't installed, and whatever the library raises.
    """
    try:
        module = importlib.import_module(f"sapwood.trackers.{name}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{name} can't be loaded",
            f"track.to={name}",
            f"no module {error.name}",
            install(name),
        ) from None
    return module.OPEN(subject)


def as_text(answer: Mapping[str, Any]) -> str:
    """A sample answer as Markdown."""
    ended = "stopped by itself" if answer.get("stopped") else f"cut at {answer.get('num_tokens')} tokens"
    parts = [f"**{answer.get('row')}**", f"prompt: {answer.get('prompt')}", f"answer: {answer.get('answer')}"]
    return "\n\n".join([*parts, f"reference: {answer.get('reference')}", f"({ended})"])
