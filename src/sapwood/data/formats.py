"""Rows to conversations: each shape's own reading, the rules that all share, and the pass over all files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sapwood.config.sections import DataConfig
from sapwood.data.columns import rename
from sapwood.data.files.sources import stream_rows
from sapwood.data.pairs import read_pair
from sapwood.data.problems import ProblemLog, names, printable
from sapwood.data.record import Record
from sapwood.data.shapes import FORMATS, PAIRS, TEXT, TURNS, advice, detect_format, matching_formats
from sapwood.data.turns import read_tools, read_turns
from sapwood.errors import DataError, Problem
from sapwood.types import Conversation, Message, Row, RowId

__all__ = ["ReadReport", "detect_format", "read_conversations", "to_conversation"]

ALPACA, BARE = "alpaca", "input-output"  # the second is the first without an instruction
MAX_KEYS = 1000  # sets of keys whose formats are remembered
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # tab, line feed and carriage return are text


@dataclass(slots=True)
class ReadReport:
    """What a person may want to know about rows that are fine.

    Attributes:
        rows: conversations read.
        formats: source -> the format of its rows.
        ignored_keys: key -> rows that have it and for which it means nothing.
        control_rows: rows with control characters other than tab and line ends; they are kept.
        bare_rows: rows without an instruction, in files where others have one; their input is the prompt.
    """

    rows: int = 0
    formats: dict[str, str] = field(default_factory=dict[str, str])
    ignored_keys: dict[str, int] = field(default_factory=dict[str, int])
    control_rows: int = 0
    bare_rows: int = 0

    def notes(self) -> list[str]:
        """One sentence for each fact worth a line."""
        notes: list[str] = []
        if self.ignored_keys:
            most = max(self.ignored_keys.values())
            notes.append(f"ignored keys: {names(self.ignored_keys)} (in up to {most:,} rows)")
        if self.control_rows:
            notes.append(f"{self.control_rows:,} rows hold control characters; they are kept as they are")
        if self.bare_rows:
            notes.append(f"{self.bare_rows:,} rows have no instruction; their input is the prompt")
        return notes


def to_conversation(
    row: Row, format: str, *, system: str | None, report: ReadReport | None = None
) -> Conversation:
    """One row as a conversation; its text is kept character by character.

    Args:
        row: its value is a mapping.
        format: one of `FORMATS`.
        system: put first where the row brings no system prompt of its own.
        report: counts the row in, if given.

    Raises DataError with every problem of the row.
    """
    if format not in FORMATS:
        raise ValueError(f"{format!r} is not one of {FORMATS}")
    record = Record(row)
    tools: tuple[Mapping[str, Any], ...] = ()
    if not isinstance(row.value, dict):
        record.fault("row is not an object", mend='a row is like {"instruction": "…", "output": "…"}')
        messages: list[Message] = []
    elif format in PAIRS:
        messages = read_pair(record, format)
    elif format == TEXT:
        messages = []
        if system:
            record.fault(
                "data.system can't be put into text that is rendered already", mend="remove data.system"
            )
    else:
        messages = read_turns(record, TURNS[format])
        tools = read_tools(record)
    text = (
        record.filled(record.required(TEXT), TEXT) if format == TEXT and isinstance(row.value, dict) else None
    )
    if record.problems:
        raise DataError(record.problems)
    if system and format != TEXT and messages[0].role != "system":
        messages.insert(0, Message("system", system))
    conversation = Conversation(row.id, tuple(messages), tools, text)
    if report is not None:
        _count(report, conversation, record)
    return conversation


def read_conversations(
    config: DataConfig,
    paths: Sequence[str] | None = None,
    root: Path | None = None,
    report: ReadReport | None = None,
) -> Iterator[Conversation]:
    """The conversations of ``paths``, in order; of ``config.train`` if None.

    Raises DataError behind the last good row, with the problems of all rows and files: take what it yields
    for good only when it has come to its end.
    """
    log = ProblemLog()
    shapes = _Shapes(config.format, log)
    for row in stream_rows(config.train if paths is None else paths, root, log, config.records):
        try:
            row = rename(row, config.columns)
            format = shapes.of(row)
            if format is None:
                continue
            yield to_conversation(row, format, system=config.system, report=report)
        except DataError as error:
            log.add(*error.problems)
    shapes.check()
    if report is not None:
        report.formats.update(shapes.by_source)
        report.bare_rows += shapes.bare_rows
    log.raise_any()


class _Shapes:
    """The format of each row, and a watch that one file keeps to one."""

    def __init__(self, format: str, log: ProblemLog) -> None:
        self._format = format
        self._log = log
        self.found: dict[str, dict[str, RowId]] = {}  # source -> format -> first row of it
        self._bare: Counter[str] = Counter()  # source -> rows of `BARE`
        self._matches: dict[tuple[str | bool, ...], list[str]] = {}

    @property
    def by_source(self) -> dict[str, str]:
        """The format of each source that has rows; alpaca where some of its rows have no instruction."""
        return {
            source: ALPACA if found.keys() == {ALPACA, BARE} else next(iter(found))
            for source, found in self.found.items()
            if found
        }

    @property
    def bare_rows(self) -> int:
        """Rows without an instruction, in files where others have one."""
        return sum(self._bare[source] for source, found in self.found.items() if ALPACA in found)

    def of(self, row: Row) -> str | None:
        """The row's format; None, and a problem in the log, where there isn't exactly one."""
        found = self.found.setdefault(row.id.source, {})
        if self._format != "auto":
            found.setdefault(self._format, row.id)
            return self._format
        keys = *row.value, row.value.get("instruction") is None  # all that decides
        if (matches := self._matches.get(keys)) is None:
            if len(self._matches) == MAX_KEYS:
                self._matches.clear()
            matches = self._matches[keys] = matching_formats(row.value)
        if len(matches) == 1:
            found.setdefault(matches[0], row.id)
            self._bare[row.id.source] += matches[0] == BARE
            return matches[0]
        if not matches and found:  # the file has shown its shape: the row lacks a key of it
            return next(iter(found))
        self._log.add(_no_format(row, matches))
        return None

    def check(self) -> None:
        """Adds a problem for each file with rows of several formats."""
        for source, found in self.found.items():
            if len(found) > 1 and found.keys() != {ALPACA, BARE}:
                where = [f"{name} first at {printable(str(row))}" for name, row in found.items()]
                what = f"rows of {len(found)} formats in one file"
                mend = "split the file, or give all rows the same keys"
                self._log.add(Problem(what, printable(source), ", ".join(where), mend))


def _no_format(row: Row, matches: list[str]) -> Problem:
    where = printable(str(row.id))
    if matches:
        what = f"row has the keys of several formats: {', '.join(matches)}"
        return Problem(what, where, mend=f"say which: data.format={matches[0]}")
    why = f"its keys: {names(row.value)}" if row.value else "it has no keys"
    return Problem("row has the keys of no known format", where, why, advice(row.value))


def _count(report: ReadReport, conversation: Conversation, record: Record) -> None:
    report.rows += 1
    for key in record.unread_keys():
        report.ignored_keys[key] = report.ignored_keys.get(key, 0) + 1
    turns = (text for message in conversation.messages for text in (message.content, message.reasoning))
    texts = (*turns, conversation.text)
    report.control_rows += any(text is not None and _CONTROL.search(text) is not None for text in texts)
