"""What is wrong with the data: collected within bounds, and shown without harm to the terminal."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from sapwood.errors import DataError, Problem

MAX_KEPT = 1000  # memory stays flat when every line of a huge file is bad

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
    """The candidate that a person probably meant: the same but for case and edges, or a close spelling."""
    folded = {candidate.strip().casefold(): candidate for candidate in candidates}
    close = difflib.get_close_matches(name.strip().casefold(), list(folded), n=1, cutoff=0.7)
    return folded[close[0]] if close else None


class ProblemLog:
    """Problems in the order in which they were met. Keeps the first `MAX_KEPT` and counts all."""

    def __init__(self) -> None:
        self.kept: list[Problem] = []
        self.total = 0

    def add(self, *problems: Problem) -> None:
        self.total += len(problems)
        self.kept += problems[: max(0, MAX_KEPT - len(self.kept))]

    def raise_any(self) -> None:
        """Raises DataError with everything that was added; returns where nothing was."""
        if not self.kept:
            return
        if self.total > len(self.kept):
            what = f"{self.total:,} problems in all"
            last = Problem(what, why=f"only the first {MAX_KEPT - 1:,} are listed before this line")
            raise DataError([*self.kept[: MAX_KEPT - 1], last])
        raise DataError(self.kept)
