"""What is wrong with the rows of a run, learnt and held-out rows together."""

from __future__ import annotations

from sapwood.data.problems import ProblemLog
from sapwood.errors import Problem
from sapwood.prepare.rows import ProvenBatch, Rules, longest_of
from sapwood.template.prove import MAX_PROBLEMS
from sapwood.template.said.shared import Shared
from sapwood.types import RowId


class Faults:
    """``add`` each batch. A fault that many rows share is one problem, whichever side they are on."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._log = ProblemLog()
        self._shared: dict[str, Shared] = {}
        self._longest: list[tuple[RowId, int]] = []
        self._examples = self._dropped = 0

    def add(self, batch: ProvenBatch) -> None:
        self._log.add(*batch.problems)
        for code, found in batch.tally.shared.items():
            self._shared.setdefault(code, Shared()).merge(found)
        self._examples += len(batch.lengths)
        self._dropped += len(batch.dropped)
        self._longest = longest_of([*self._longest, *batch.longest])

    @property
    def hopeless(self) -> bool:
        """Whether there are so many problems that another row wouldn't help."""
        return self._log.total >= MAX_PROBLEMS

    def problems(self) -> list[Problem]:
        """All problems; none if the rows may be learnt."""
        found = [*(shared.problem(code) for code, shared in self._shared.items()), *self._log.kept]
        if self.hopeless:
            found.append(Problem(f"reading stopped after {self._log.total:,} problems"))
        if self._dropped and self._rules.template.overlong == "error":
            found = [self.too_long(), *found]
        return found

    def too_long(self) -> Problem:
        """The examples that have more tokens than they may have."""
        limit, needed = self._rules.max_length, self._longest[0][1]
        shown = ", ".join(f"{row} ({length:,} tokens)" for row, length in self._longest if length > limit)
        fitting = -(-needed // 64) * 64
        return Problem(
            f"[overlong] {self._dropped:,} of {self._examples:,} examples have more than {limit:,} tokens",
            shown,
            "cutting them would take the end of the answer and its stop token",
            f"set pack.length={fitting} (the longest needs {needed:,}), or template.overlong=drop, or =cut",
        )
