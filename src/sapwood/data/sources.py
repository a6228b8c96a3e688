"""Files to numbered rows. Nothing is guessed: dates and numbers stay what they are, and a bad row is named.

A new kind of file is one more entry of `_READERS`, and one more answer of `sniff`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from sapwood.data.delimited import read_table
from sapwood.data.encoding import BOM, decode, read_lines
from sapwood.data.files import BUILTIN, files_of, open_source
from sapwood.data.hub import HUB, hub_files
from sapwood.data.json_text import (
    TOO_LARGE,
    TOO_LARGE_MEND,
    JsonFault,
    array_items,
    decode_at,
    decode_line,
    object_members,
    skip_space,
)
from sapwood.data.parquet import read_parquet
from sapwood.data.problems import ProblemLog, excerpt, kind, names, printable
from sapwood.data.rendered import read_text
from sapwood.data.shapes import PAIRS, matching_formats
from sapwood.data.share import ALL, Share
from sapwood.data.sniff import FileKind, sniff
from sapwood.errors import DataError, Problem
from sapwood.types import Row, RowId

MAX_DOCUMENT_BYTES = 1 << 30  # a JSON document is held in memory; JSONL is not, and has no limit
MAX_FAULTS = 100  # in one document: saying where costs a pass over the text before the fault


def read_rows(paths: Sequence[str], *, root: Path | None = None) -> Iterator[Row]:
    """The rows of the files, in order: JSON, JSONL, CSV, TSV, Parquet or text, by content.

    Args:
        paths: files; folders, which stand for the data files right in them; ``builtin:NAME`` for packaged
            data; ``hf:ORG/NAME[@REVISION][/FILE]`` for files of a hub's dataset. `RowId.source` repeats them.
        root: where relative paths start; the working directory if None.

    A JSON object around a single list of objects stands for that list. Raises DataError behind the last good
    row, with the problems of all files.
    """
    log = ProblemLog()
    yield from stream_rows(paths, root, log)
    log.raise_any()


def stream_rows(
    paths: Sequence[str],
    root: Path | None,
    log: ProblemLog,
    records: str | None = None,
    share: Share = ALL,
) -> Iterator[Row]:
    """`read_rows` that adds to a log what it would raise. ``records``: which list of a wrapping object;
    ``share``: the rows to yield. What is wrong with others is not sure to be found."""
    here = root if root is not None else Path.cwd()
    for path in paths:
        try:
            files = hub_files(path) if path.startswith(HUB) else {name: name for name in files_of(path, here)}
        except DataError as error:
            log.add(*error.problems)
            continue
        for source, file in files.items():
            yield from _read_source(source, file, here, log, records, share)


def digest(paths: Sequence[str], root: Path | None = None) -> str:
    """sha256 over names and bytes of all files. Raises DataError or OSError for one that can't be read."""
    here = root if root is not None else Path.cwd()
    total = hashlib.sha256()
    for path in paths:
        files = hub_files(path) if path.startswith(HUB) else {name: name for name in files_of(path, here)}
        for source, file in files.items():
            with open_source(file, here) if file == source else Path(file).open("rb") as stream:
                bytes_of = hashlib.file_digest(cast(Any, stream), "sha256").hexdigest()
            total.update(f"{len(source)} {source} {bytes_of}\n".encode())
    return total.hexdigest()


def size_of(paths: Sequence[str], root: Path | None = None) -> int:
    """Bytes of all files; 0 for what can't be found, and for a hub's."""
    here = root if root is not None else Path.cwd()
    total = 0
    for path in paths:
        with contextlib.suppress(OSError, DataError):
            names = [] if path.startswith((HUB, BUILTIN)) else files_of(path, here)
            total += sum((here / Path(name).expanduser()).stat().st_size for name in names)
    return total


def _read_source(
    source: str, path: str, root: Path, log: ProblemLog, records: str | None, share: Share
) -> Iterator[Row]:
    strays: dict[str, RowId] = {}  # kinds of rows that aren't objects, and the first of each
    count: Counter[str] = Counter()
    problems, rows = log.total, 0
    try:
        with open_source(path, root) if path == source else Path(path).open("rb") as stream:
            file_kind = sniff(stream, source)
            stream.seek(0)
            if file_kind == "json":
                found = _read_json(stream, source, log, records)
            elif file_kind == "jsonl":
                found = _read_jsonl(stream, source, log, share)
            else:
                found = _READERS[file_kind](stream, source, log)
            for row in found:
                rows += 1
                if not share.has(row.id.index):
                    continue
                if isinstance(row.value, dict):
                    yield row
                else:
                    name = kind(row.value)
                    strays.setdefault(name, row.id)
                    count[name] += 1
    except DataError as error:
        log.add(*error.problems)
    except OSError as error:
        log.add(Problem("the file can't be read", printable(source), (error.strerror or str(error)).lower()))
    for name, first in strays.items():
        log.add(_stray_problem(name, first, count[name]))
    if rows == 0 and log.total == problems and share.has(0):
        log.add(Problem("0 rows", printable(source), "the file holds no example"))


def _stray_problem(name: str, first: RowId, count: int) -> Problem:
    what = "row is" if count == 1 else f"{count:,} rows are"
    mend = 'a row is an object such as {"instruction": "…", "output": "…"}'
    return Problem(
        f"{what} {name}, not an object", printable(str(first)), "" if count == 1 else "the first", mend
    )


def _read_jsonl(stream: BinaryIO, source: str, log: ProblemLog, share: Share) -> Iterator[Row]:
    index = 0
    for line in read_lines(stream):
        if line.raw is not None and not line.raw.strip():
            continue
        index += 1
        if not share.has(index - 1):
            continue
        row = RowId(source, index - 1, line.number)
        if line.raw is None:
            log.add(Problem(TOO_LARGE, printable(str(row)), mend=TOO_LARGE_MEND))
            continue
        try:
            yield Row(row, decode_line(decode(line.raw, source, line.number, line.offset).rstrip()))
        except DataError as error:
            log.add(*error.problems)
        except JsonFault as fault:
            where = f"{printable(source)}:{line.number}:{fault.position + 1}"
            log.add(Problem(fault.what, where, fault.why, fault.mend))


def _read_json(stream: BinaryIO, source: str, log: ProblemLog, records: str | None) -> Iterator[Row]:
    text = _read_document(stream, source)
    places = _Places(text, source)
    start = skip_space(text, 0)
    try:
        if text[start] == "[":
            end = yield from _array_rows(text, start, source, places, log)
        elif (array := _wrapped_array(text, start, source, records)) is not None:
            yield from _array_rows(text, array, source, places, log)
            end = None  # the wrapper was walked to its end before
        else:
            value, end = decode_at(text, start)
            yield Row(RowId(source, 0, places.line(start)), value)
        if end is not None:
            _refuse_more(text, end, source)
    except JsonFault as fault:
        log.add(places.problem(fault))


def _array_rows(
    text: str, start: int, source: str, places: _Places, log: ProblemLog
) -> Generator[Row, None, int | None]:
    """The rows of the array at ``start``; returns the index behind it, None if it wasn't read to its end."""
    items = array_items(text, start)
    index = faults = 0
    while True:
        try:
            position, value = next(items)
        except StopIteration as stop:
            return stop.value
        if not isinstance(value, JsonFault):
            yield Row(RowId(source, index, places.line(position)), value)
        elif faults < MAX_FAULTS:
            log.add(places.problem(value))
            faults += 1
        else:
            what = f"more than {MAX_FAULTS} faults in one document; the rest is not read"
            log.add(Problem(what, f"{printable(source)}:{places.line(position)}"))
            return None
        index += 1


def _read_document(stream: BinaryIO, source: str) -> str:
    raw = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(raw) > MAX_DOCUMENT_BYTES:
        why = f"a JSON document of more than {MAX_DOCUMENT_BYTES >> 30} GiB would fill the memory"
        mend = f"as JSONL it is read row by row: jq -c '.[]' '{printable(source)}' > data.jsonl"
        raise DataError("the file is too large", printable(source), why, mend)
    body = raw.removeprefix(BOM)
    text = decode(body, source, offset=len(raw) - len(body))
    # A raw line end is legal only between tokens, so this changes no row.
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _wrapped_array(text: str, start: int, source: str, records: str | None) -> int | None:
    """Where the list begins if the object is a wrapper; None if it is itself a row. Raises DataError."""
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
    _refuse_more(text, end, source)
    return next(iter(lists.values()))


def _no_records(records: str, lists: Mapping[str, int], source: str) -> NoReturn:
    there = f"lists: {names(lists)}" if lists else "no list is in it"
    raise DataError(f"no list is under '{printable(records)}'", printable(source), there, "see data.records")


def _refuse_more(text: str, end: int, source: str) -> None:
    """Raises JsonFault where something follows the document."""
    rest = skip_space(text, end)
    if rest == len(text):
        return
    if text[rest] in "{[":
        mend = f"write one row on each line: jq -c . '{printable(source)}' > data.jsonl"
        raise JsonFault("a second value behind the first", rest, "a JSON file holds one", mend)
    raise JsonFault("text after the value", rest, f"found {excerpt(text[rest : rest + 30])}", "delete it")


class _Places:
    """Index in a document to line and column. Asked in rising order, it counts each line once."""

    def __init__(self, text: str, source: str) -> None:
        self._text = text
        self._source = printable(source)
        self._counted = 0
        self._line = 1
        self._line_start = 0

    def line(self, position: int) -> int:
        if position < self._counted:
            self._counted, self._line, self._line_start = 0, 1, 0
        self._line += self._text.count("\n", self._counted, position)
        self._line_start = max(self._line_start, self._text.rfind("\n", self._counted, position) + 1)
        self._counted = position
        return self._line

    def problem(self, fault: JsonFault) -> Problem:
        line = self.line(fault.position)
        where = f"{self._source}:{line}:{fault.position - self._line_start + 1}"
        return Problem(fault.what, where, fault.why, fault.mend)


_READERS: dict[FileKind, Callable[[BinaryIO, str, ProblemLog], Iterator[Row]]] = {
    "table": read_table,
    "text": read_text,
    "parquet": read_parquet,
}
