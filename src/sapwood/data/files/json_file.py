"""A JSON document as rows: an array, row by row; an object that wraps one; or one row."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from sapwood.data.files.encoding import BOM, decode
from sapwood.data.files.json_text import TOO_LARGE, JsonFault, decode_whole
from sapwood.data.files.json_walk import SHOWN, array_items, decode_in, object_outline, skip_in
from sapwood.data.files.lenient import is_printed
from sapwood.data.files.window import Window
from sapwood.data.problems import ProblemLog, excerpt, names, printable
from sapwood.data.shapes.match import detect_format, matching_shapes
from sapwood.data.shapes.pairs import read_pair
from sapwood.data.shapes.table import SHAPES
from sapwood.errors import DataError, Problem
from sapwood.types import Row, RowId

MAX_COLUMNS_BYTES = 1 << 30  # of a document that is read as a whole
WRAPPERS = ("ultrachat", "text")  # shapes whose key wraps the rows of a document as well
MAX_FAULTS = 100  # in one document: after so many, another one helps nobody


def read_json(stream: BinaryIO, source: str, log: ProblemLog, records: str | None) -> Iterator[Row]:
    """The rows; what is wrong goes to the log. ``records``: which list of a wrapping object.

    ``stream`` must seek: a wrapping object is read twice, so that it need not be held.
    """
    begin = stream.tell()
    window = Window(stream, source)
    start = skip_in(window, 0)
    try:
        if window.text[start] == "[":
            end = yield from _array_rows(window, start, source, log)
            if end is not None:
                _refuse_more(window, end, source)
            return
        if is_printed(window.text, start):
            yield from _object_rows(window, start, source, log)
            return
        outline = _outline(window, start, source)
        stream.seek(begin)
        if outline.by_columns:
            yield from _column_rows(stream, source, log)
            return
        window = Window(stream, source)
        start = skip_in(window, 0)
        if outline.goes_on:
            yield from _object_rows(window, start, source, log)
        elif outline.by_id:
            log.say(f"{printable(source)} is an object of rows by their names: each is a row")
            yield from _named_rows(window, start, source)
        elif (key := _wrapped(outline, source, records)) is not None:
            yield from _member_rows(window, start, key, source, log)
        else:
            value, end = decode_in(window, start)
            yield Row(RowId(source, 0, window.line(start)), value)
            _refuse_more(window, end, source)
    except JsonFault as fault:
        log.add(_problem(window, fault, source))
    finally:
        log.counts.update(window.forgiven)


@dataclass(frozen=True, slots=True)
class _Outline:
    """An object at the beginning of a document. members: the first character of each key's value. lists:
    keys of lists. texts: those of them that begin with a text. goes_on: another object follows. by_id: its
    values are the rows. by_columns: they are columns."""

    members: Mapping[str, str]
    lists: Sequence[str]
    texts: Sequence[str]
    goes_on: bool
    by_id: bool
    by_columns: bool


def _object_rows(window: Window, start: int, source: str, log: ProblemLog) -> Iterator[Row]:
    """Objects one behind the other, perhaps with commas between them."""
    index = 0
    while True:
        start = window.drop(start)
        value, end = decode_in(window, start)
        yield Row(RowId(source, index, window.line(start)), value)
        index += 1
        following = _next_object(window, end)
        if following is None:
            _refuse_more(window, end, source)
            return
        log.say(f"{printable(source)} holds objects one behind the other: each is a row")
        start = following


def _next_object(window: Window, end: int) -> int | None:
    """Where an object begins behind another; None if none does."""
    at = skip_in(window, end)
    if window.text[at : at + 1] == ",":
        at = skip_in(window, at + 1)
    return at if window.text[at : at + 1] == "{" else None


def _named_rows(window: Window, start: int, source: str) -> Iterator[Row]:
    """The values of an object as rows."""
    outline = object_outline(window, start)
    told = None
    index = 0
    while True:
        try:
            _, at = outline.send(told) if told is not None else next(outline)
        except StopIteration as stop:
            _refuse_more(window, stop.value, source)
            return
        value, told = decode_in(window, at)
        yield Row(RowId(source, index, window.line(at)), value)
        index += 1


def _column_rows(stream: BinaryIO, source: str, log: ProblemLog) -> Iterator[Row]:
    """The rows of an object of columns, as pandas writes it by default, or of lists of one length."""
    where = printable(source)
    raw = stream.read(MAX_COLUMNS_BYTES + 1)
    if len(raw) > MAX_COLUMNS_BYTES:
        mend = "frame.to_json(FILE, orient='records', lines=True)"
        raise DataError("the file is too large to be read by columns", where, mend=mend)
    columns: dict[str, Any] = decode_whole(decode(raw.removeprefix(BOM), source).strip())
    if any(isinstance(c, list) and c and isinstance(c[0], dict) for c in columns.values()):
        yield Row(RowId(source, 0, 1), columns)  # prompt and completion as lists of turns
        return
    keys = {name: [*range(len(c))] if isinstance(c, list) else [*c] for name, c in columns.items()}
    first, *others = keys.values()
    if any(other != first for other in others):
        why = ", ".join(f"'{printable(name)}' has {len(one):,}" for name, one in keys.items())
        raise DataError("columns of different lengths", where, why, "write rows: orient='records'")
    log.say(f"{where} is an object of columns: read row by row")
    for index, key in enumerate(first):
        yield Row(RowId(source, index), {name: column[key] for name, column in columns.items()})


def _member_rows(window: Window, start: int, key: str, source: str, log: ProblemLog) -> Iterator[Row]:
    """The rows of the list under ``key``; the object was walked to its end before."""
    for name, at in object_outline(window, start):
        if name == key:
            yield from _array_rows(window, at, source, log)
            return


def _array_rows(window: Window, start: int, source: str, log: ProblemLog) -> Generator[Row, None, int | None]:
    """The rows of the array at ``start``; returns the index behind it, None if it wasn't read to its end."""
    items = array_items(window, start)
    index = faults = 0
    while True:
        try:
            position, value = next(items)
        except StopIteration as stop:
            return stop.value
        if not isinstance(value, JsonFault):
            yield Row(RowId(source, index, window.line(position)), value)
        elif faults < MAX_FAULTS:
            log.add(_problem(window, value, source))
            faults += 1
        else:
            what = f"more than {MAX_FAULTS} faults in one document; the rest is not read"
            log.add(Problem(what, f"{printable(source)}:{window.line(position)}"))
            return None
        index += 1


def _wrapped(outline: _Outline, source: str, records: str | None) -> str | None:
    """The key of the list that holds the rows if the object is a wrapper; None if it is itself a row. Raises
    DataError."""
    lists = outline.lists
    shapes = [
        name
        for name in matching_shapes(outline.members)
        if name not in WRAPPERS or (name == "ultrachat" and "data" in outline.texts)
    ]
    if records is not None:
        lists = [records] if records in lists else _no_records(records, lists, source)
        shapes = []
    if not lists or shapes:
        return None
    if {*lists} >= {"columns", "data"}:
        why = "pandas wrote it with orient='split': a row's values are apart from their names"
        mend = "frame.to_json(FILE, orient='records', lines=True)"
        raise DataError("the file holds no rows with names", printable(source), why, mend)
    if len(lists) > 1:
        mend = f"say which: {' or '.join(f'data.records={printable(name)}' for name in lists[:8])}"
        why = f"lists under {names(lists)}: it is not clear which holds the rows"
        raise DataError("the file is one object with several lists", printable(source), why, mend)
    return lists[0]


def _outline(window: Window, start: int, source: str) -> _Outline:
    """Walks over the object. What is no list must be JSON, or the walk over it proves nothing; the lists' own
    items are checked when they are read. Raises JsonFault."""
    members: dict[str, str] = {}
    texts: list[str] = []
    outline = object_outline(window, start)
    told = None
    inner: Any = None  # the first value, if it is an object
    while True:
        try:
            key, at = outline.send(told) if told is not None else next(outline)
        except StopIteration as stop:
            goes_on = _next_object(window, stop.value) is not None
            if not goes_on:
                _refuse_more(window, stop.value, source)
            break
        members[key] = mark = window.text[at : at + 1]
        if mark == "[":
            first = skip_in(window, at + 1)
            if window.text[first : first + 1] == '"':
                texts.append(key)
        if mark == "[" or (mark == "{" and members and {*members.values()} == {"{"} and len(members) > 1):
            told = None
        else:
            try:
                value, told = decode_in(window, at)
            except JsonFault as fault:
                if fault.what != TOO_LARGE or mark != "{":
                    raise
                value, told = None, None  # a column of a whole table
            inner = value if len(members) == 1 and mark == "{" else inner
    marks = {*members.values()}
    pair = any(SHAPES[name].read is read_pair for name in matching_shapes(members))
    columns = pair and len(members) > 1 and marks in ({"["}, {"{"})
    rows = marks == {"{"} and not matching_shapes(members) and detect_format(inner) is not None
    lists = [key for key, mark in members.items() if mark == "["]
    return _Outline(members, lists, texts, goes_on, rows, columns)


def _no_records(records: str, lists: Sequence[str], source: str) -> NoReturn:
    there = f"lists: {names(lists)}" if lists else "no list is in it"
    raise DataError(f"no list is under '{printable(records)}'", printable(source), there, "see data.records")


def _refuse_more(window: Window, end: int, source: str) -> None:
    """Raises JsonFault if something follows the document."""
    rest = skip_in(window, end)
    window.reach(rest + SHOWN)
    text = window.text
    if rest == len(text):
        return
    if text[rest] in "{[":
        mend = f"write one row on each line: jq -c . '{printable(source)}' > data.jsonl"
        raise JsonFault("a second value behind the first", rest, "a JSON file holds one", mend)
    raise JsonFault("text after the value", rest, f"found {excerpt(text[rest : rest + 30])}", "delete it")


def _problem(window: Window, fault: JsonFault, source: str) -> Problem:
    where = f"{printable(source)}:{window.line(fault.position)}:{window.column(fault.position)}"
    return Problem(fault.what, where, fault.why, fault.mend)
