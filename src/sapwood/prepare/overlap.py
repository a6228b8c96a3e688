"""Answers that are held out in a file of their own and learnt all the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sapwood.errors import Problem
from sapwood.prepare.answers import answers_of
from sapwood.types import Conversation, RowId

SHOWN = 3  # pairs of rows that are named


@dataclass(slots=True)
class Overlap:
    """Held-out rows of which an answer is learnt after the same turns. Case, white space and the forms of a
    character (NFKC) make no difference; so conversations that continue one another count as well.

    rows: held-out rows in all. pairs: for each held-out row that is learnt as well, the first row that
    teaches it.
    """

    train_on: str
    rows: int = 0
    pairs: dict[RowId, RowId] = field(default_factory=dict[RowId, RowId])
    _held: dict[bytes, list[RowId]] = field(default_factory=dict[bytes, list[RowId]])

    def hold(self, conversations: Iterable[Conversation]) -> None:
        """Remember the answers of held-out rows."""
        for conversation in conversations:
            self.rows += 1
            for answer in answers_of(conversation, self.train_on):
                self._held.setdefault(answer, []).append(conversation.row)

    def see(self, conversation: Conversation) -> None:
        """Compare a row that is learnt."""
        if self._held:
            for answer in answers_of(conversation, self.train_on):
                for row in self._held.get(answer, ()):
                    self.pairs.setdefault(row, conversation.row)

    def told(self) -> tuple[str, str]:
        """(how many held-out rows are learnt as well, the first of them)."""
        first = ", ".join(f"{held} = {learnt}" for held, learnt in [*self.pairs.items()][:SHOWN])
        more = len(self.pairs) - SHOWN
        return (
            f"{len(self.pairs):,} of {self.rows:,} held-out rows are learnt as well",
            f"{first} and {more:,} more" if more > 0 else first,
        )

    def problem(self) -> Problem:
        what, first = self.told()
        why = "their loss would tell nothing about what was learnt"
        mend = "take them out of one of the files, or set data.overlap=allow, which counts them"
        return Problem(what, first, why, mend)
