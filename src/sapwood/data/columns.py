"""A file's own column names to the keys that make a row, as ``data.columns`` says."""

from __future__ import annotations

from collections.abc import Mapping

from sapwood.data.problems import names, nearest, printable
from sapwood.errors import DataError, Problem
from sapwood.types import Row

OPTIONAL = {
    "system",
    "history",
    "tools",
    "input",
    "context",
    "reasoning",
    "label",
    "weight",
}  # a row may do without


def rename(row: Row, columns: Mapping[str, str]) -> Row:
    """The row under the keys of ``columns`` (key -> the file's column), and its other columns as they are.

    A column that stands for a key hides a column that has the key's name by chance. Raises DataError naming
    each column that isn't there.
    """
    if not columns:
        return row
    there = dict(row.value)
    problems = [
        _missing(row, key, column, there)
        for key, column in columns.items()
        if column not in there and key not in OPTIONAL
    ]
    if problems:
        raise DataError(problems)
    taken = {*columns, *columns.values()}
    rest = {key: value for key, value in there.items() if key not in taken}
    found = {key: there[column] for key, column in columns.items() if column in there}
    return Row(row.id, {**found, **rest})


def _missing(row: Row, key: str, column: str, there: Mapping[str, object]) -> Problem:
    near = nearest(column, there)
    mend = f"set data.columns.{key}={printable(near)}" if near is not None else f"columns: {names(there)}"
    return Problem(
        f"column '{printable(column)}' is missing",
        printable(str(row.id)),
        f"data.columns reads '{key}' from it",
        mend,
    )
