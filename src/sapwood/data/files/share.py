"""Which rows of a file are whose, where several processes read it."""

from __future__ import annotations

from dataclasses import dataclass

BLOCK = 1024  # rows in turn: as many as are prepared together


@dataclass(frozen=True, slots=True)
class Share:
    """Blocks of rows in turn: those of process ``index`` of ``count``."""

    index: int = 0
    count: int = 1

    def has(self, row: int) -> bool:
        """Is the row of this number in its file one of ours?"""
        return row // BLOCK % self.count == self.index


ALL = Share()
