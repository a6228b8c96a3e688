"""The header of a table: which columns have a name, and what a column without a name means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sapwood.data.problems import names
from sapwood.errors import DataError


@dataclass(frozen=True, slots=True)
class Header:
    """names: of the columns, "" for one without. A first column without a name is pandas' index, and means
    nothing; another may hold no cell."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def stray(self, cells: Sequence[Any]) -> str | None:
        """What is wrong with a row that has a cell in a column without a name; None if the row has no such
        cell."""
        odd = [
            at for at, name in enumerate(self.names) if not name and at > 0 and cells[at] not in (None, "")
        ]
        return f"a cell in column {odd[0] + 1}, which has no name" if odd else None

    def row(self, cells: Sequence[Any]) -> dict[str, Any]:
        return {name: cell for name, cell in zip(self.names, cells, strict=True) if name}


def header_of_cells(cells: Sequence[str], where: str) -> Header:
    """Raises DataError if a name occurs twice."""
    found = tuple(cell.strip() for cell in cells)
    twice = {name for name in found if name and found.count(name) > 1}
    if twice:
        why = "only one of the columns could be kept"
        raise DataError(f"column {names(sorted(twice))} occurs twice", where, why, "rename or delete one")
    return Header(found)
