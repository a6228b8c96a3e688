"""Rows to conversations: the shape of each row, its reading, and the pass over all files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from sapwood.config.sections import DataConfig
from sapwood.data.columns import rename
from sapwood.data.described import Described, described
from sapwood.data.doubts import UNCERTAIN, check_unread
from sapwood.data.files.folder import split_named
from sapwood.data.files.sources import stream_rows
from sapwood.data.guess import ROWS, Guess, guess_columns
from sapwood.data.problems import ProblemLog, printable
from sapwood.data.report import ReadReport
from sapwood.data.shapes.calls import read_tools, without_filling
from sapwood.data.shapes.marks import row_weight
from sapwood.data.shapes.match import Match, closest, detect_format, matches, no_shape
from sapwood.data.shapes.names import MARKS, TEXT, VERDICTS, renamed
from sapwood.data.shapes.pairs import read_pair
from sapwood.data.shapes.record import BlankError, Options, Record
from sapwood.data.shapes.table import SHAPES
from sapwood.data.shapes.turns import read_turns
from sapwood.errors import DataError, Problem
from sapwood.types import Conversation, Message, Row, RowId

__all__ = ["ReadReport", "detect_format", "read_conversations", "to_conversation"]

FORMATS = tuple(SHAPES)
TURNS = Match(SHAPES["messages"], ("messages",))
ALPACA, BARE = "alpaca", "input-output"  # the second is the first without an instruction
NOTABLE = {*MARKS, *VERDICTS, *UNCERTAIN}
MAX_KEYS = 1000  # sets of keys whose shapes are remembered
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # tab, line feed and carriage return are text


def to_conversation(
    row: Row,
    format: str | Match,
    *,
    system: str | None = None,
    options: Options | None = None,
    report: ReadReport | None = None,
) -> Conversation:
    """One row as a conversation; its text is kept character by character.

    Args:
        row: its value is a mapping, under canonical keys.
        format: its shape: one of `FORMATS`, or what `matches` found.
        system: put first if the row brings no system prompt of its own.
        options: what the config says about the reading of rows.
        report: counts the row in, if given.

    Raises DataError with every problem of the row, BlankError if its only fault is that nothing is there.
    """
    match = _fixed(row, format) if isinstance(format, str) else format
    record = Record(row, options)
    shape = match.shape
    tools: tuple[Mapping[str, Any], ...] = ()
    messages: list[Message] = []
    text: str | None = None
    if not isinstance(row.value, dict):
        record.fault("row is not an object", mend='a row is like {"instruction": "…", "output": "…"}')
    elif shape.name == TEXT:
        text = record.filled(record.required(TEXT), TEXT)
        if system:
            what = "data.system can't be put into text that is rendered already"
            record.fault(what, mend="remove data.system")
    else:
        messages = shape.read(record, match.keys)
        if "tools" in row.value or "functions" in row.value:
            tools = read_tools(record)
            without_filling(record, tools, (call for turn in messages for call in turn.tool_calls))
    weight: float | None = None
    if not record.value.keys().isdisjoint(NOTABLE):
        weight = row_weight(record)
        check_unread(record, is_pair=shape.read is read_pair)
    if record.options.mapped:
        _check_mapped(record)
    if record.problems:
        raise (BlankError if record.is_blank else DataError)(record.problems)
    if system and text is None and messages[0].role != "system":
        messages.insert(0, Message("system", system))
    conversation = Conversation(row.id, tuple(messages), tools, text, weight)
    if report is not None:
        _count(report, conversation, record)
    return conversation


def _fixed(row: Row, name: str) -> Match:
    """The reading of a row in the shape of this name."""
    if name not in SHAPES:
        raise ValueError(f"{name!r} is not one of {FORMATS}")
    keys = row.value.keys() if isinstance(row.value, dict) else set[str]()
    shape = SHAPES[name]
    there = [one for one in shape.keys if keys >= {*one}]
    return Match(shape, there[0] if there else closest(keys, shape))


def _check_mapped(record: Record) -> None:
    """A column that data.columns maps must be used."""
    for key in record.options.mapped.intersection(record.unread_keys()):
        why = "rows of this shape have no place for it"
        record.fault(f"'{key}' is mapped by data.columns and not used", why, f"remove data.columns.{key}")


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
    log = ProblemLog(drop=config.bad_rows == "drop", drop_blank=config.empty == "drop")
    shapes = _Shapes(config, log, root if root is not None else Path.cwd())
    options = Options.of(config)
    for row in stream_rows(config.train if paths is None else paths, root, log, config):
        try:
            for one, match in shapes.of(row):
                yield to_conversation(one, match, system=config.system, options=options, report=report)
        except BlankError as error:
            log.blank_row(*error.problems)
        except DataError as error:
            log.bad_row(*error.problems)
    shapes.check()
    if report is not None:
        report.formats.update(shapes.by_source)
        report.bare_rows += shapes.bare_rows
        report.take(log)
    log.raise_any()


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is known of rows with the same columns: the columns that have another name, and the possible
    readings."""

    renames: Mapping[str, str]
    found: list[Match]


@dataclass(slots=True)
class _Source:
    """What the rows of one file were. found: shape -> first row of it; bare: rows of `BARE`; moved: rows that
    came in by the unfolding of others; last: how the last row was read; columns: key -> the file's own name
    of it; guess: its columns, if they were asked for; splits: name of a split -> its first row."""

    found: dict[str, RowId] = field(default_factory=dict[str, RowId])
    bare: int = 0
    moved: int = 0
    last: Match | None = None
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    described: Described = field(default_factory=Described)
    asked: bool = False
    guess: Guess | None = None
    splits: dict[str, RowId] = field(default_factory=dict[str, RowId])


class _Shapes:
    """The shape of each row, and a watch that one file keeps to one."""

    def __init__(self, config: DataConfig, log: ProblemLog, root: Path) -> None:
        self._config = config
        self._root = root
        self._log = log
        self._sources: dict[str, _Source] = {}
        self._plans: dict[tuple[str | bool, ...], _Plan] = {}

    @property
    def by_source(self) -> dict[str, str]:
        """The shape of each source that has rows; alpaca if some of its rows have no instruction."""
        return {
            name: ALPACA if source.found.keys() == {ALPACA, BARE} else next(iter(source.found))
            for name, source in self._sources.items()
            if source.found
        }

    @property
    def bare_rows(self) -> int:
        """Rows without an instruction, in files where others have one."""
        return sum(source.bare for source in self._sources.values() if ALPACA in source.found)

    def of(self, row: Row) -> list[tuple[Row, Match]]:
        """The row under canonical keys, and its reading; the rows that it holds, if it holds several.
        Raises DataError if there isn't exactly one reading."""
        source = self._sources.get(row.id.source)
        if source is None:
            source = self._sources[row.id.source] = self._new_source(row.id.source)
        if source.columns:
            row = rename(row, source.columns)
        row = source.described.read(row)
        plan = self._plan(row, source)
        if plan.renames:
            row = Row(row.id, {plan.renames.get(key, key): value for key, value in row.value.items()})
            told = ", ".join(f"'{printable(old)}' as '{new}'" for old, new in plan.renames.items())
            self._log.say(f"columns are read by their meaning: {told}")
        if "split" in row.value and (split := split_named(row.value["split"])) is not None:
            source.splits.setdefault(split, row.id)
        match = self._match(row, plan.found, source)
        if match is not source.last:
            source.found.setdefault(match.shape.name, row.id)
            source.last = match
        source.bare += match.shape.name == BARE
        if match.shape.unfold is None:
            return [(_moved(row, source), match)]
        parts: list[tuple[Row, Match]] = []
        for value in match.shape.unfold(row.value, self._config.paths == "all"):
            source.moved += bool(parts)
            parts.append((_moved(Row(row.id, value), source), TURNS))
        return parts

    def _new_source(self, name: str) -> _Source:
        """Columns as data.columns maps them, or else as a description beside the file does."""
        if self._config.columns:
            return _Source(columns={**self._config.columns})
        found = described(name, self._root)
        if told := found.told():
            self._log.say(f"{printable(name)}: dataset_info.json beside it has columns read: {told}")
        return _Source(columns=found.columns, described=found)

    def _plan(self, row: Row, source: _Source) -> _Plan:
        bare = row.value.get("instruction", "") is None
        keys = *row.value, bare, *source.columns  # all that decides the reading
        plan = self._plans.get(keys)
        if plan is None:
            if len(self._plans) == MAX_KEYS:
                self._plans.clear()
            renames = renamed(row.value)
            columns: list[str] = [*row.value]
            names = {renames.get(key, key) for key in columns}
            found = matches(names, no_instruction=bare, mapped={*source.columns})
            plan = self._plans[keys] = _Plan(renames, found)
        return plan

    def _match(self, row: Row, found: list[Match], source: _Source) -> Match:
        if self._config.format != "auto":
            shape = SHAPES[self._config.format]
            of_it = [match for match in found if match.shape is shape]
            if not of_it and shape.read is read_pair:
                of_it = [match for match in found if match.shape.read is read_pair]
            if len(of_it) <= 1:
                return of_it[0] if of_it else Match(shape, closest(row.value.keys(), shape))
            found = of_it
        if len(found) == 1:
            if _is_prose(row, found[0]):
                raise DataError([no_shape(str(row.id), row.value, [], lambda: self._guess(source, row))])
            return found[0]
        if not found and source.last is not None:  # the file's shape is known: the row lacks one of its keys
            return source.last
        raise DataError([no_shape(str(row.id), row.value, found, lambda: self._guess(source, row))])

    def _guess(self, source: _Source, row: Row) -> Guess | None:
        """The columns of the file, by its first rows, which are read once more for that."""
        if not source.asked:
            again = stream_rows([row.id.source], self._root, ProblemLog(), self._config)
            source.guess = guess_columns([one.value for one in islice(again, ROWS)] or [row.value])
            source.asked = True
        return source.guess

    def check(self) -> None:
        """Adds a problem for each file with rows of several shapes, or of several splits."""
        for name, source in self._sources.items():
            if len(source.splits) > 1 and "split" not in self._config.ignore:
                self._log.add(_several_splits(name, source.splits))
            found = source.found
            if len(found) > 1 and found.keys() != {ALPACA, BARE}:
                where = [f"{shape} first at {printable(str(row))}" for shape, row in found.items()]
                what = f"rows of {len(found)} formats in one file"
                mend = "split the file, or give all rows the same keys"
                self._log.add(Problem(what, printable(name), ", ".join(where), mend))


def _several_splits(name: str, splits: Mapping[str, RowId]) -> Problem:
    where = [f"{split} first at {printable(str(row))}" for split, row in splits.items()]
    mend = "make a file of each split, or data.ignore=split learns them all"
    return Problem(f"rows of {len(splits)} splits in one file", printable(name), ", ".join(where), mend)


def _is_prose(row: Row, match: Match) -> bool:
    """Whether a key of turns holds plain text, for example the dialogue of a summary."""
    value = row.value.get(match.keys[0]) if match.shape.read is read_turns else None
    if match.shape.unfold is not None or not isinstance(value, str):
        return False
    return len(value.split()) > 1 and value.lstrip()[0] not in '[{"'


def _moved(row: Row, source: _Source) -> Row:
    """The row with its number, counted behind the rows that earlier rows were unfolded to."""
    if not source.moved:
        return row
    return Row(RowId(row.id.source, row.id.index + source.moved, row.id.line), row.value)


def _count(report: ReadReport, conversation: Conversation, record: Record) -> None:
    report.rows += 1
    for key in record.unread_keys():
        report.ignored_keys[key] = report.ignored_keys.get(key, 0) + 1
    for what in record.counts:
        report.counts[what] = report.counts.get(what, 0) + 1
    turns = (text for message in conversation.messages for text in (message.content, message.reasoning))
    texts = (*turns, conversation.text)
    report.control_rows += any(text is not None and _CONTROL.search(text) is not None for text in texts)
