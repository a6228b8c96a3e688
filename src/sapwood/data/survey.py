"""A first look at a file: its shape, the columns that can be meant, what is blank, how long rows are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from sapwood.config.sections import DataConfig
from sapwood.data.files.sources import stream_rows
from sapwood.data.formats import ReadReport, read_conversations
from sapwood.data.guess import ROWS, Guess, guess_columns
from sapwood.data.problems import ProblemLog
from sapwood.errors import DataError
from sapwood.types import Conversation

SAMPLE = 200_000  # characters that tell the language


@dataclass(slots=True)
class Survey:
    """What a file holds.

    Attributes:
        data: how to read it: the file, and the keys that it takes. Rows without a prompt or an answer are
            left out there, if there are any.
        guess: the columns that were proposed, None if the file's own names say enough.
        rows: that can be learnt from; blank: without a prompt or an answer; bad: that can't be read, with the
            first of them in words.
        lengths: characters of each row. turns: messages of all.
        first: the first conversation. text: of the first rows.
        notes: how rows are read, in words.
    """

    data: DataConfig
    guess: Guess | None = None
    blank: int = 0
    bad: int = 0
    first_bad: str = ""
    lengths: list[int] = field(default_factory=list[int])
    turns: int = 0
    first: Conversation | None = None
    text: str = ""
    notes: Sequence[str] = ()
    formats: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def rows(self) -> int:
        return len(self.lengths)


def survey(data: DataConfig, root: Path | None = None) -> Survey:
    """Read all of ``data.train``. Raises DataError if it can't be read, or not in one way only."""
    try:
        return _read(data, None, root)
    except DataError:
        guess = _guessed(data, root)
        if guess is None:
            raise
        return _read(data.model_copy(update={"columns": guess.columns()}), guess, root)


def _guessed(data: DataConfig, root: Path | None) -> Guess | None:
    """Columns to propose. None if the config names some, or if no two are like prompt and answer."""
    if data.columns:
        return None
    found = list(islice(stream_rows(data.train, root, ProblemLog(), data), ROWS))
    return guess_columns([row.value for row in found])


def _read(data: DataConfig, guess: Guess | None, root: Path | None) -> Survey:
    report = ReadReport()
    lenient = data.model_copy(update={"empty": "drop", "bad_rows": "drop"})
    found = Survey(data, guess)
    for conversation in read_conversations(lenient, root=root, report=report):
        _add(found, conversation)
    if not found.rows:  # the strict reading then raises what is wrong
        for _ in read_conversations(data, root=root):
            break
        raise DataError("no row has an answer to learn", ", ".join(data.train), mend="add rows with answers")
    found.blank, found.bad = report.num_blank, report.num_dropped
    found.first_bad = report.dropped[0] if report.dropped else ""
    found.formats, found.notes = report.formats, tuple(report.said)
    if found.blank:
        found.data = data.model_copy(update={"empty": "drop"})
    return found


def _add(found: Survey, conversation: Conversation) -> None:
    text = conversation.text or "\n".join(message.text for message in conversation.messages)
    found.lengths.append(len(text))
    found.turns += len(conversation.messages)
    if found.first is None:
        found.first = conversation
    if len(found.text) < SAMPLE:
        found.text += text[:2000] + "\n"
