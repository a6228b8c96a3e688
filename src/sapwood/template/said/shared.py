"""Faults that many rows share, told once: how many rows, the first few, and one mend."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sapwood.errors import Problem, row_count
from sapwood.types import RowId

EXAMPLES = 3
MEANING = {  # code -> what is wrong, and the mend
    "content-lost": (
        "what they say is not in the text that the chat template writes",
        "choose a template that has a place for it (template.name), or take it out of the rows; "
        "template.accept=content-lost trains without it",
    ),
    "control-text": (
        "messages hold what a chat template writes, which would be learnt as plain text",
        "data.strip_control_text=true takes it out, and makes turns of a conversation inside a message; "
        "template.accept=control-text learns it as text",
    ),
}


@dataclass(slots=True)
class Shared:
    """The rows that failed one check. ``kinds``: by what is at fault, how many rows have it; ``last``: the
    row that was counted last."""

    rows: int = 0
    first: list[RowId] = field(default_factory=list[RowId])
    kinds: Counter[str] = field(default_factory=Counter[str])
    example: str = ""
    last: RowId | None = None

    def add(self, row: RowId, kinds: set[str], example: str) -> None:
        """Count one more example of a row. The examples of one row come together."""
        if self.first and self.last == row:
            return
        self.kinds.update(kinds)
        self.rows, self.last = self.rows + 1, row
        self.first = [*self.first, row][:EXAMPLES]
        self.example = self.example or example

    def merge(self, other: Shared) -> None:
        """Count in other rows of the same files, or of later ones."""
        self.rows += other.rows
        self.kinds.update(other.kinds)
        both = [*self.first, *other.first]
        files = [*dict.fromkeys(row.source for row in both)]
        before = self.first[:1]
        self.first = sorted(both, key=lambda row: (files.index(row.source), row.index))[:EXAMPLES]
        if self.first[:1] != before:
            self.example = other.example

    def problem(self, code: str) -> Problem:
        """One problem for all rows."""
        what, mend = MEANING[code]
        where = ", ".join(map(str, self.first)) + (", …" if self.rows > len(self.first) else "")
        listed = ", ".join(f"{kind} ({rows:,})" for kind, rows in self.kinds.most_common())
        return Problem(
            f"[{code}] {row_count(self.rows)}: {what}",
            where,
            f"{listed}, for instance {self.example!r}",
            mend,
        )
