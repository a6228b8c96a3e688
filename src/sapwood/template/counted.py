"""Faults that many rows share, told once: how many rows, the first few, and one mend."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sapwood.errors import Problem
from sapwood.types import RowId

EXAMPLES = 3


@dataclass(slots=True)
class Counted:
    """The rows that failed one check. ``kinds``: by what is at fault, how many rows have it."""

    rows: int = 0
    first: list[RowId] = field(default_factory=list[RowId])
    kinds: Counter[str] = field(default_factory=Counter[str])
    example: str = ""

    def add(self, row: RowId, kinds: set[str], example: str) -> None:
        self.kinds.update(kinds)
        if self.first and self.first[-1] == row:
            return
        self.rows += 1
        if len(self.first) < EXAMPLES:
            self.first.append(row)
        self.example = self.example or example

    def problem(self, code: str, what: str, mend: str) -> Problem:
        """One for all of them."""
        where = ", ".join(map(str, self.first)) + (", …" if self.rows > len(self.first) else "")
        listed = ", ".join(f"{kind} ({rows:,})" for kind, rows in self.kinds.most_common())
        return Problem(
            f"[{code}] {self.rows:,} row{'s' * (self.rows > 1)}: {what}",
            where,
            f"{listed}; {self.example}",
            mend,
        )
