"""Words of a command line, and the variables that they are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_TEXT, MAX_WORDS = 1 << 16, 4096  # characters of one word, words of an array
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True, slots=True)
class Word:
    """known: False if a variable, a command or a placeholder inside of it isn't."""

    text: str
    line: int
    known: bool = True

    def at(self, line: int) -> Word:
        return Word(self.text, line, self.known)


@dataclass(slots=True)
class Names:
    """Variables of a shell: one word each, or an array's. places: $1, $2 … folder: by ``cd``."""

    file: Path
    folder: Path
    values: dict[str, list[Word]] = field(default_factory=dict[str, list[Word]])
    exported: set[str] = field(default_factory=set[str])
    places: list[Word] = field(default_factory=list[Word])

    def get(self, name: str, line: int) -> list[Word] | None:
        """None if it isn't set."""
        if name in ("@", "*"):
            return self.places
        if name.isdigit():
            at = int(name)
            if at == 0:
                return [Word(str(self.file), line)]
            return [self.places[at - 1]] if at <= len(self.places) else None
        if name == "#":
            return [Word(str(len(self.places)), line)]
        if name == "PWD":
            return [Word(".", line)]
        return self.values.get(name)

    def set(self, name: str, words: list[Word]) -> None:
        """An unknown value never replaces a known one."""
        if name in self.values and not all(word.known for word in words):
            return
        self.values[name] = words[:MAX_WORDS]

    def environment(self) -> dict[str, Word]:
        """The variables that a program sees."""
        return {
            name: self.values[name][0]
            for name in sorted(self.exported)
            if len(self.values.get(name, ())) == 1
        }


@dataclass(frozen=True, slots=True)
class Started:
    """A program that is started. folder: where. environment: variables that it sees."""

    words: tuple[Word, ...]
    line: int
    folder: Path
    environment: dict[str, Word]

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)


def split(word: Word) -> list[Word]:
    """As a shell splits what an unquoted variable holds; each piece keeps its own line."""
    out: list[Word] = []
    at, line = 0, word.line
    for match in re.finditer(r"\S+", word.text):
        line += word.text.count("\n", at, match.start())
        at = match.start()
        out.append(Word(match[0], line, word.known))
    return out


def typed(text: str) -> Any:
    """As most tools read a word: a truth value, nothing, a number, a list, or itself."""
    low = text.lower()
    if low in ("true", "false"):
        return low == "true"
    if low in ("none", "null", ""):
        return None
    if re.fullmatch(r"[-+]?\d{1,18}", text):
        return int(text)
    if text.startswith("[") and text.endswith("]"):
        return [typed(part.strip().strip("'\"")) for part in text[1:-1].split(",") if part.strip()]
    return float(text) if _NUMBER.fullmatch(text) else text


def joined(words: Iterable[Word], line: int, between: str = " ") -> Word:
    """A text that grows beyond all measure isn't known."""
    given = list(words)
    text = between.join(word.text for word in given)
    known = len(text) <= MAX_TEXT and all(word.known for word in given)
    return Word(text[:MAX_TEXT], line, known)
