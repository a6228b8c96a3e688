"""CSV and TSV: every cell is text, every row is as long as the header."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import PurePath
from typing import BinaryIO

from sapwood.data.files.encoding import MAX_ROW_BYTES, decode, read_lines
from sapwood.data.problems import ProblemLog, names, printable
from sapwood.errors import DataError, Problem
from sapwood.types import Row, RowId

TABLE_SUFFIXES = (".csv", ".tsv", ".tab")

_DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}


def header_of(line: str, suffix: str) -> tuple[list[str], str]:
    """(column names, delimiter): the delimiter that makes most columns; of equals, the suffix's."""
    first = "," if suffix == ".csv" else "\t"
    order = sorted(_DELIMITERS, key=lambda delimiter: delimiter != first)
    cut = {delimiter: next(csv.reader([line], delimiter=delimiter), []) for delimiter in order}
    best = max(order, key=lambda delimiter: len(cut[delimiter]))  # the first of equals
    return [name.strip() for name in cut[best]], best


def read_table(stream: BinaryIO, source: str, log: ProblemLog) -> Iterator[Row]:
    """The rows below the header. Bad rows go to the log; a header that can't be right raises DataError."""
    lines = _Lines(stream, source, log)
    where = printable(source)
    header_line = next((line for line in lines if line.strip()), "")
    header, delimiter = header_of(header_line, PurePath(source).suffix.lower())
    twice = {name for name in header if header.count(name) > 1}
    at = f"{where}:{lines.number}"
    if twice:
        why = "only one of the columns could be kept"
        raise DataError(f"column {names(sorted(twice))} occurs twice", at, why, "rename or delete one")
    # The module's own limit, 131,072 characters a cell, is below ours, and it has no other switch.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    index = 0
    while True:
        lines.start_row()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            log.add(_quote_problem(error, where, lines, delimiter))
            if lines.too_long:
                return
            cells = []
        if cells is None:
            return
        if not cells:
            continue
        if len(cells) == len(header):
            yield Row(RowId(source, index, lines.row), dict(zip(header, cells, strict=True)))
        else:
            log.add(_ragged_problem(cells, header, where, lines.row, delimiter))
        index += 1


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
                self._log.add(*error.problems)
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


def _ragged_problem(cells: list[str], header: list[str], where: str, line: int, delimiter: str) -> Problem:
    what = f"row has {len(cells)} cells, the header has {len(header)}"
    why = f"cells end at each {_DELIMITERS[delimiter]} outside quotes"
    return Problem(
        what, f"{where}:{line}", why, f"columns: {names(header)}; quote cells that hold a delimiter"
    )
