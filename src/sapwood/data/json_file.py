"""A JSON document as rows: an array, row by row; an object that wraps one; or one row."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import BinaryIO, NoReturn

from sapwood.data.json_text import SHOWN, JsonFault, array_items, decode_at, object_members, skip_in
from sapwood.data.problems import ProblemLog, excerpt, names, printable
from sapwood.data.shapes import PAIRS, matching_formats
from sapwood.data.window import Window
from sapwood.errors import DataError, Problem
from sapwood.types import Row, RowId

MAX_OBJECT_CHARACTERS = 1 << 30  # an object is held in memory; an array is not, and has no limit
MAX_FAULTS = 100  # in one document: behind so many, one more tells nobody anything


def read_json(stream: BinaryIO, source: str, log: ProblemLog, records: str | None) -> Iterator[Row]:
    """The rows; what is wrong goes to the log. ``records``: which list of a wrapping object."""
    window = Window(stream, source)
    start = skip_in(window, 0)
    try:
        if window.text[start] == "[":
            end = yield from _array_rows(window, start, source, log)
            if end is not None:
                _refuse_more(window, end, source)
            return
        _hold_all(window, source)
        array = _wrapped_array(window, start, source, records)
        if array is not None:
            yield from _array_rows(window, array, source, log)  # the wrapper was walked to its end before
        else:
            value, end = decode_at(window.text, start)
            yield Row(RowId(source, 0, window.line(start)), value)
            _refuse_more(window, end, source)
    except JsonFault as fault:
        log.add(_problem(window, fault, source))


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


def _hold_all(window: Window, source: str) -> None:
    while window.more():
        if len(window.text) > MAX_OBJECT_CHARACTERS:
            why = f"a JSON object of more than {MAX_OBJECT_CHARACTERS >> 30} GiB would fill the memory"
            mend = f"as JSONL it is read row by row: jq -c '.[]' '{printable(source)}' > data.jsonl"
            raise DataError("the file is too large", printable(source), why, mend)


def _wrapped_array(window: Window, start: int, source: str, records: str | None) -> int | None:
    """Where the list begins if the object is a wrapper; None if it is itself a row. Raises DataError."""
    text = window.text
    members, end = object_members(text, start)
    lists = {key: at for key, at in members.items() if text[at] == "["}
    shapes = matching_formats(members)
    if records is not None:
        lists = {records: lists[records]} if records in lists else _no_records(records, lists, source)
        shapes = []
    columns = len(lists) == len(members) > 1  # {"instruction": […], "output": […]}
    if not lists or (shapes and not (columns and PAIRS.keys() >= {*shapes})):
        return None
    if len(lists) > 1:
        first = next(iter(lists))
        mend = f"say which: data.records={printable(first)}"
        if columns:
            mend = f"{mend}; if these are columns, write rows: frame.to_json(FILE, orient='records')"
        why = f"lists under {names(lists)}: it is not clear which holds the rows"
        raise DataError("the file is one object with several lists", printable(source), why, mend)
    for key, at in members.items():
        if key not in lists:
            decode_at(text, at)  # what isn't used must be JSON too, or the walk over it proves nothing
    _refuse_more(window, end, source)
    return next(iter(lists.values()))


def _no_records(records: str, lists: Mapping[str, int], source: str) -> NoReturn:
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
