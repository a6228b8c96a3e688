"""CSV and TSV: every cell is text, every row is as long as the header."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO

from sapwood.data.files.encoding import MAX_ROW_BYTES, decode, read_lines
from sapwood.data.files.tables.header import Header, header_of_cells
from sapwood.data.problems import ProblemLog, names, printable
from sapwood.errors import DataError, Problem
from sapwood.types import Row, RowId

TABLE_SUFFIXES = (".csv", ".tsv", ".tab")

_DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
_SEP = re.compile(r"sep=([,;\t|])\s*")  # what Excel writes before the header, and reads
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
MERGED = "have a cell with a tab and a line break between its quotes"
BLANK = "of the table are blank, and left out"


def header_of(line: str, suffix: str) -> tuple[list[str], str]:
    """(column names, delimiter): the delimiter that makes most columns; of equals, the suffix's."""
    first = "," if suffix == ".csv" else "\t"
    order = sorted(_DELIMITERS, key=lambda delimiter: delimiter != first)
    cut = {delimiter: next(csv.reader([line], delimiter=delimiter), []) for delimiter in order}
    best = max(order, key=lambda delimiter: len(cut[delimiter]))  # the first of equals
    return [name.strip() for name in cut[best]], best


@dataclass(frozen=True, slots=True)
class _Table:
    """What the first lines say: the header, the delimiter, and whether quotes are quotes or text."""

    header: Header
    delimiter: str
    quoted: bool


def read_table(stream: BinaryIO, source: str, log: ProblemLog) -> Iterator[Row]:
    """The rows below the header. Bad rows go to the log; a header that can't be right raises DataError."""
    start = stream.tell()
    table = _table(_Lines(stream, source, log), stream, source)
    if not table.quoted:
        log.say(
            f"{printable(source)}: quotes don't balance in every row, so they are text, and a line is a row"
        )
    stream.seek(start)
    lines = _Lines(stream, source, log)
    _skip_header(lines)
    # The module's own limit, 131,072 characters a cell, is below ours, and it has no other switch.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
    quoting = csv.QUOTE_MINIMAL if table.quoted else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=table.delimiter, strict=True, quoting=quoting)
    yield from _rows(reader, lines, table, source, log)


def _rows(
    reader: Iterator[list[str]], lines: _Lines, table: _Table, source: str, log: ProblemLog
) -> Iterator[Row]:
    where, header, index = printable(source), table.header, 0
    plain = header.names if all(header.names) else None
    while True:
        lines.start_row()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            log.bad_row(_quote_problem(error, where, lines, table.delimiter))
            if lines.too_long:
                return
            cells = []
        if cells is None:
            return
        if not cells:
            continue
        if lines.number > lines.row and _is_merged(cells, table.delimiter):
            log.counts[MERGED] += 1
        if len(cells) == len(header) and any(cells):
            if plain is not None:
                yield Row(RowId(source, index, lines.row), dict(zip(plain, cells, strict=True)))
            elif (stray := header.stray(cells)) is None:
                yield Row(RowId(source, index, lines.row), header.row(cells))
            else:
                mend = "name the column, or delete the cell"
                log.bad_row(Problem(stray, f"{where}:{lines.row}", mend=mend))
        elif not any(cell.strip() for cell in cells):
            log.counts[BLANK] += 1
            continue
        elif not any(cells[len(header) :]) and len(cells) > len(header):
            value = header.row(cells[: len(header)])
            yield Row(RowId(source, index, lines.row), value)
        else:
            log.bad_row(_ragged_problem(cells, header, where, lines.row, table.delimiter))
        index += 1


def _is_merged(cells: list[str], delimiter: str) -> bool:
    """Whether two rows may have become one: in a file of tabs a quote may have been text."""
    return delimiter == "\t" and any("\t" in cell and "\n" in cell for cell in cells)


def _table(lines: _Lines, stream: BinaryIO, source: str) -> _Table:
    told, first = _skip_header(lines)
    number = lines.number
    suffix = PurePath(source).suffix.lower()
    cells, delimiter = header_of(first, suffix)
    if told is not None:
        cells, delimiter = next(csv.reader([first], delimiter=told), []), told
    header = header_of_cells(cells, f"{printable(source)}:{number}")
    return _Table(header, delimiter, delimiter != "\t" or _quotes_balance(lines, len(header)))


def _skip_header(lines: _Lines) -> tuple[str | None, str]:
    """(the delimiter of Excel's ``sep=`` line if there is one, the header's line)."""
    first = next((line for line in lines if line.strip()), "")
    match = _SEP.fullmatch(first)
    return (match.group(1), next((line for line in lines if line.strip()), "")) if match else (None, first)


def _quotes_balance(lines: _Lines, columns: int) -> bool:
    """Whether quotes in a file of tabs are quotes. They are text if each line is a row by itself, and if some
    cell that begins with a quote isn't quoted as a whole."""
    balanced = True
    while True:
        try:
            lines.start_row()
            line = next(lines, None)
        except csv.Error:
            return True
        if line is None:
            return balanced
        if '"' not in line and line.count("\t") == columns - 1:
            continue
        cells = line.rstrip("\r\n").split("\t")
        if cells != [""] and len(cells) != columns:
            return True
        balanced = balanced and all(_QUOTED.fullmatch(cell) or cell[:1] != '"' for cell in cells)


class _Lines:
    """Decoded lines for the csv module, which can't say where a row of several lines began."""

    def __init__(self, stream: BinaryIO, source: str, log: ProblemLog) -> None:
        self._lines = read_lines(stream)
        self._source = source
        self._log = log
        self._size = 0
        self.number = 0
        self.row = 1
        self.too_long = False

    def start_row(self) -> None:
        self._size = 0
        self.row = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while True:
            line = next(self._lines)
            self.number = line.number
            self.row = self.row or line.number
            self._size += MAX_ROW_BYTES + 1 if line.raw is None else len(line.raw)
            if line.raw is None or self._size > MAX_ROW_BYTES:
                self.too_long = True
                raise csv.Error(f"the row is larger than {MAX_ROW_BYTES:,} bytes")
            try:
                return decode(line.raw, self._source, line.number, line.offset)
            except DataError as error:
                self._log.bad_row(*error.problems)
                if self.row == line.number:
                    self.row = 0


def _quote_problem(error: csv.Error, where: str, lines: _Lines, delimiter: str) -> Problem:
    at = f"{where}:{lines.row or lines.number}"
    mend = 'close the quote; a quote inside a quoted cell is written ""'
    if lines.too_long:
        return Problem(
            str(error), at, "a quote in it may never close; the rest of the file is not read", mend
        )
    if "unexpected end of data" in str(error):
        return Problem("a quote in this row never closes", at, "it runs to the end of the file", mend)
    name = _DELIMITERS[delimiter]
    why = f"at line {lines.number} a closing quote is followed by neither {name} nor line end"
    return Problem("unbalanced quote in this row", at, why, mend)


def _ragged_problem(cells: list[str], header: Header, where: str, line: int, delimiter: str) -> Problem:
    what = f"row has {len(cells)} cells, the header has {len(header)}"
    why = f"cells end at each {_DELIMITERS[delimiter]} outside quotes"
    return Problem(
        what, f"{where}:{line}", why, f"columns: {names(header.names)}; quote cells that hold a delimiter"
    )
