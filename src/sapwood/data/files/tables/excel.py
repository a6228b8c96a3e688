"""Workbooks of Excel: the rows below the header of one sheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from sapwood.data.files.tables.header import Header, header_of_cells
from sapwood.data.problems import ProblemLog, names, printable
from sapwood.errors import DataError, Problem, brief
from sapwood.types import Row, RowId

MAX_CELLS = 50_000_000  # a sheet is in memory as a whole


def read_excel(stream: BinaryIO, source: str, log: ProblemLog, sheet: str | None) -> Iterator[Row]:
    """The rows of the one sheet that holds any, or of ``sheet``. Text is taken as it is, numbers as numbers;
    dates are refused if text is needed. Raises DataError."""
    import python_calamine

    where = printable(source)
    try:
        book = python_calamine.CalamineWorkbook.from_filelike(stream)
        name = _sheet(book, sheet, where)
        found = book.get_sheet_by_name(name)
        if found.height * found.width > MAX_CELLS:
            raise DataError("the sheet is too large", where, f"{found.height:,} rows", "save it as CSV")
        cells = found.to_python(skip_empty_area=False)
    except (python_calamine.CalamineError, OSError, ValueError, KeyError) as error:
        why = printable(brief(error))
        raise DataError("the workbook can't be read", where, why, "save the sheet as CSV") from None
    yield from _rows(cells, source, log)


def _sheet(book: Any, wanted: str | None, where: str) -> str:
    sheets: list[str] = list(book.sheet_names)
    if wanted is not None:
        if wanted not in sheets:
            raise DataError(
                f"no sheet '{printable(wanted)}'", where, f"sheets: {names(sheets)}", "see data.records"
            )
        return wanted
    filled = [name for name in sheets if book.get_sheet_by_name(name).height > 0]
    if len(filled) > 1:
        answers = " or ".join(f"data.records={printable(name)}" for name in filled[:8])
        why = "it is not clear which sheet holds the rows"
        raise DataError(f"the workbook has {len(filled)} sheets", where, why, f"say which: {answers}")
    if not filled:
        raise DataError("the file is empty", where, "there is no row in it")
    return filled[0]


def _rows(lines: Sequence[Sequence[Any]], source: str, log: ProblemLog) -> Iterator[Row]:
    header: Header | None = None
    index = 0
    for number, cells in enumerate(lines, 1):
        values = [_plain(cell) for cell in cells]
        if all(value is None for value in values):
            log.counts["of the table are blank, and left out"] += header is not None
            continue
        if header is None:
            header = header_of_cells([str(value or "") for value in values], f"{printable(source)}:{number}")
            continue
        odd = header.stray(values)
        if odd is not None:
            log.bad_row(
                Problem(odd, f"{printable(source)}:{number}", mend="name the column, or clear the cell")
            )
        else:
            yield Row(RowId(source, index, number), header.row(values))
        index += 1


def _plain(cell: Any) -> Any:
    """A cell's value: None for an empty one, a whole number without the point that Excel's numbers have."""
    if cell == "":
        return None
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return int(cell)
    return cell
