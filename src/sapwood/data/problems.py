"""What is wrong with the data: collected within bounds, and shown without harm to the terminal."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sapwood.errors import DataError, Problem

MAX_KEPT = 1000  # memory stays flat when every line of a huge file is bad in a way of its own
EXAMPLES = 3  # places of one fault that are named
_NUMBER = re.compile(r"\d+")

# Controls, zero-width and bidirectional formatting, line separators, lone surrogates, tag characters: what
# could move a cursor, recolour a terminal or reorder a line. Joiners of emoji and Indic scripts stay.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    """The text with every character that could act on a terminal written as an escape."""
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    code = ord(char)
    return _SHORT.get(char) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{{{code:x}}}")


def excerpt(value: Any, width: int = 60) -> str:
    """A value as one short, safe piece of a message."""
    if isinstance(value, str):
        cut = "…" if len(value) > width else ""
        return f'"{printable(value[:width])}{cut}"'
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object with {names(value)}" if value else "an empty object"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    return text if len(text) <= width else f"{text[:width]}…"


def kind(value: Any) -> str:
    """What a value is, in words."""
    for types, word in ((str, "text"), (bool, "true or false"), (int | float, "a number"), (list, "a list")):
        if isinstance(value, types):
            return word
    if value is None or isinstance(value, dict):
        return "null" if value is None else "an object"
    return f"a {type(value).__name__}"  # Parquet has dates, decimals and bytes


def names(keys: Iterable[str], most: int = 8) -> str:
    """Keys as a short list: ``'a', 'b' and 3 more``."""
    shown = [f"'{printable(str(key)[:40])}'" for key in keys]
    rest = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {rest} more" if rest > 0 else "")


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that a person probably meant: the same apart from case and edges, or of a close
    spelling."""
    folded = {candidate.strip().casefold(): candidate for candidate in candidates}
    close = difflib.get_close_matches(name.strip().casefold(), list(folded), n=1, cutoff=0.7)
    return folded[close[0]] if close else None


@dataclass(slots=True)
class _Fault:
    """One fault: its first problems, each with its place among all, and how often it occurred."""

    first: list[tuple[int, Problem]] = field(default_factory=list[tuple[int, Problem]])
    count: int = 0

    def told(self) -> list[tuple[int, Problem]]:
        """Each problem for itself; one with a count and examples if there are more than `EXAMPLES`."""
        if self.count <= EXAMPLES:
            return self.first
        (at, one), *_ = self.first
        where = f"{', '.join(problem.where for _, problem in self.first)} and {self.count - EXAMPLES:,} more"
        return [(at, Problem(f"{one.what} ({self.count:,} times)", where, one.why, one.mend))]


def _kind(problem: Problem) -> tuple[str, str]:
    """What problems of one fault have in common. For a template's refusal that is only the beginning: the
    words are the template's, and the mend names the roles of the row."""
    other = problem.why if problem.what.startswith("[template]") else problem.mend
    return _NUMBER.sub("#", problem.what), _NUMBER.sub("#", other)


def _short(problems: Sequence[Problem]) -> str:
    return "; ".join(f"{problem.where}: {problem.what}" for problem in problems)


class ProblemLog:
    """Problems in the order in which they were met. One fault of many rows is one problem with a count;
    `MAX_KEPT` faults are told apart, and all are counted.

    ``counts``: what was done with rows that are read, and with how many. ``said``: facts about whole files,
    in order. ``dropped``: what is wrong with the rows
    that were left out, if ``drop`` asks for that; ``blank`` the same of rows without prompt or answer,
    if ``drop_blank`` asks for that.
    """

    def __init__(self, *, drop: bool = False, drop_blank: bool = False) -> None:
        self.total = 0
        self.counts: Counter[str] = Counter()
        self.said: dict[str, None] = {}
        self.dropped: list[str] = []
        self.num_dropped = 0
        self.blank: list[str] = []
        self.num_blank = 0
        self._drop, self._drop_blank = drop, drop_blank
        self._faults: dict[tuple[str, str], _Fault] = {}

    def add(self, *problems: Problem) -> None:
        for problem in problems:
            self.total += 1
            key = _kind(problem)
            fault = self._faults.get(key)
            if fault is None:
                if len(self._faults) == MAX_KEPT:
                    continue
                fault = self._faults[key] = _Fault()
            fault.count += 1
            if fault.count <= EXAMPLES:
                fault.first.append((self.total, problem))

    def say(self, fact: str) -> None:
        """A fact about a whole file, told once."""
        self.said.setdefault(fact)

    def bad_row(self, *problems: Problem) -> None:
        """What is wrong with one row: an error, or the reason why it is left out."""
        if not self._drop:
            self.add(*problems)
            return
        self.num_dropped += 1
        if len(self.dropped) < MAX_KEPT:
            self.dropped.append(_short(problems))

    def blank_row(self, *problems: Problem) -> None:
        """A row that lacks its prompt or its answer: an error, or the reason why it is left out."""
        if not self._drop_blank:
            self.bad_row(*problems)
            return
        self.num_blank += 1
        if len(self.blank) < MAX_KEPT:
            self.blank.append(_short(problems))

    @property
    def kept(self) -> list[Problem]:
        told = [one for fault in self._faults.values() for one in fault.told()]
        return [problem for _, problem in sorted(told, key=lambda one: one[0])]

    def raise_any(self) -> None:
        """Raises DataError with everything that was added; returns if nothing was."""
        kept = self.kept
        if not kept:
            return
        untold = self.total - sum(fault.count for fault in self._faults.values())
        if untold:
            why = f"only the first {MAX_KEPT:,} kinds are listed"
            kept.append(Problem(f"{untold:,} more problems of other kinds", why=why))
        raise DataError(kept)
