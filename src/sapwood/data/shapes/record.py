"""One row while it is read: hands out values by key, checks their kind, remembers what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sapwood.config.sections import DataConfig
from sapwood.config.words import Role
from sapwood.data.files.json_text import Decimal
from sapwood.data.problems import excerpt, kind, printable
from sapwood.data.shapes.names import repair
from sapwood.errors import DataError, Problem
from sapwood.types import Row

DROP = "data.bad_rows=drop leaves such rows out"
DROP_BLANK = "data.empty=drop leaves such rows out"


class BlankError(DataError):
    """A row lacks its prompt or its answer, and nothing else is wrong with it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the config says about the reading of a row. ``mapped``: keys that data.columns names."""

    roles: Mapping[str, Role] = field(default_factory=dict[str, Role])
    ignore: frozenset[str] = frozenset()
    first_answer: bool = False
    mapped: frozenset[str] = frozenset()

    @classmethod
    def of(cls, config: DataConfig) -> Options:
        roles: dict[str, Role] = {name.strip().casefold(): role for name, role in config.roles.items()}
        return cls(roles, frozenset(config.ignore), config.answers == "first", frozenset(config.columns))


class Record:
    """A row under inspection. ``problems`` and ``counts`` (what was done with it, in words) grow; nothing
    here raises for what the row holds."""

    __slots__ = ("_blanks", "_read", "_row", "_unread", "counts", "options", "problems", "value")

    def __init__(self, row: Row, options: Options | None = None) -> None:
        self.value: Mapping[str, Any] = row.value if isinstance(row.value, dict) else {}
        self.options = options or Options()
        self.problems: list[Problem] = []
        self.counts: set[str] = set()
        self._row = row.id
        self._blanks = 0
        self._read: set[str] = set()
        self._unread: set[str] = set()

    def blank(self, what: str, why: str = "", mend: str = f"write the text, or {DROP_BLANK}") -> None:
        """A fault: there is nothing where something is to be learnt, or to be asked."""
        self._blanks += 1
        self.fault(what, why, mend)

    @property
    def is_blank(self) -> bool:
        """Whether blank texts are all that is wrong."""
        return len(self.problems) == self._blanks > 0

    def fault(self, what: str, why: str = "", mend: str = "") -> None:
        what, why, mend = (printable(part) for part in (what, why, mend))  # keys of the row are in them
        self.problems.append(Problem(what, printable(str(self._row)), why, mend))

    def count(self, what: str) -> None:
        """Something was done with the row that a person may want to know."""
        self.counts.add(what)

    def unread_keys(self) -> list[str]:
        """Keys that nothing asked for; those inside turns as ``messages[].key``."""
        if not self._unread and self.value.keys() <= self._read:
            return []
        return sorted({*self.value.keys() - self._read, *self._unread} - self.options.ignore)

    def note_unread(self, path: str) -> None:
        self._unread.add(path)

    def optional(self, key: str) -> Any:
        """The value of a key that may be absent; null means absent too."""
        self._read.add(key)
        return self.value.get(key)

    def required(self, key: str) -> Any:
        """The value of a key that must be there and not null; None behind a fault."""
        self._read.add(key)
        if key not in self.value:
            self.fault(f"'{key}' is missing", mend=repair(key, self.value.keys()))
        elif self.value[key] is None:
            self.blank(f"'{key}' is null", "there is nothing to learn")
        return self.value.get(key)

    def text(self, value: Any, path: str) -> str | None:
        """The value as text: numbers and booleans as the file writes them, counted. None stays None; any
        other kind is a fault, never turned into text."""
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool | int | float):
            self.count("have numbers, true or false where text is expected: taken as the file writes them")
            return written(value)
        self.fault(f"'{path}' is {kind(value)}, not text", f"found {excerpt(value)}", "a string is needed")
        return None

    def filled(self, value: Any, path: str) -> str | None:
        """The value as text that isn't blank; None behind a fault."""
        text = self.text(value, path)
        if text is None or text.strip():
            return text
        why = "it holds only white space" if text else ""
        self.blank(f"'{path}' is empty", why)
        return None


def written(value: bool | int | float) -> str:
    """A number or a boolean as JSON writes it; a fraction digit for digit as the file has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.text if isinstance(value, Decimal) else str(value)
