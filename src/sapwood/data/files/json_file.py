"""A JSON document as rows: an array, row by row; an object that wraps one; or one row."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import BinaryIO, NoReturn

from sapwood.data.files.json_text import JsonFault
from sapwood.data.files.json_walk import SHOWN, array_items, decode_in, object_outline, skip_in
from sapwood.data.files.window import Window
from sapwood.data.problems import ProblemLog, excerpt, names, printable
from sapwood.data.shapes.match import matching_shapes
from sapwood.errors import DataError, Problem
from sapwood.types import Row, RowId

MAX_FAULTS = 100  # in one document: behind so many, one more tells nobody anything


def read_json(stream: BinaryIO, source: str, log: ProblemLog, records: str | None) -> Iterator[Row]:
    """The rows; what is wrong goes to the log. ``records``: which list of a wrapping object.

    ``stream`` must seek: a wrapping object is read twice, so that it need not be held.
    """
    window = Window(stream, source)
    start = skip_in(window, 0)
    try:
        if window.text[start] == "[":
            end = yield from _array_rows(window, start, source, log)
            if end is not None:
                _refuse_more(window, end, source)
            return
        key = _wrapped(window, start, source, records)
        stream.seek(0)
        window = Window(stream, source)
        start = skip_in(window, 0)
        if key is not None:
            yield from _member_rows(window, start, key, source, log)
            return
        value, end = decode_in(window, start)
        yield Row(RowId(source, 0, window.line(start)), value)
        _refuse_more(window, end, source)
    except JsonFault as fault:
        log.add(_problem(window, fault, source))


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


def _wrapped(window: Window, start: int, source: str, records: str | None) -> str | None:
    """The key of the list that holds the rows if the object is a wrapper; None if it is itself a row. Raises
    DataError."""
    members, lists = _members(window, start, source)
    shapes = matching_formats(members)
    if records is not None:
        lists = [records] if records in lists else _no_records(records, lists, source)
        shapes = []
    columns = len(lists) == len(members) > 1  # {"instruction": […], "output": […]}
    if not lists or (shapes and not (columns and PAIRS.keys() >= {*shapes})):
        return None
    if len(lists) > 1:
        mend = f"say which: data.records={printable(lists[0])}"
        if columns:
            mend = f"{mend}; if these are columns, write rows: frame.to_json(FILE, orient='records')"
        why = f"lists under {names(lists)}: it is not clear which holds the rows"
        raise DataError("the file is one object with several lists", printable(source), why, mend)
    return lists[0]


def _members(window: Window, start: int, source: str) -> tuple[dict[str, str], list[str]]:
    """The first character of each key's value, and the keys of lists. What is no list must be JSON, or the
    walk over it proves nothing; the lists' own items are checked when they are read."""
    members: dict[str, str] = {}
    outline = object_outline(window, start)
    told = None
    while True:
        try:
            key, at = outline.send(told) if told is not None else next(outline)
        except StopIteration as stop:
            _refuse_more(window, stop.value, source)
            return members, [key for key, mark in members.items() if mark == "["]
        members[key] = window.text[at : at + 1]
        told = None if members[key] == "[" else decode_in(window, at)[1]


def _no_records(records: str, lists: Sequence[str], source: str) -> NoReturn:
    there = f"lists: {names(lists)}" if lists else "no list is in it"
    raise DataError(f"no list is under '{printable(records)}'", printable(source), there, "see data.records")


def _refuse_more(window: Window, end: int, source: str) -> None:
    """Raises JsonFault where something follows the document."""
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
