"""One row while it is read: hands out values by key, checks their kind, remembers what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sapwood.data.problems import excerpt, kind, printable
from sapwood.data.shapes import repair
from sapwood.errors import Problem
from sapwood.types import Row


class Record:
    """A row under inspection. ``problems`` grows; nothing here raises for what the row holds."""

    def __init__(self, row: Row) -> None:
        self.value: Mapping[str, Any] = row.value if isinstance(row.value, dict) else {}
        self.problems: list[Problem] = []
        self._row = row.id
        self._read: set[str] = set()
        self._unread: set[str] = set()

    def fault(self, what: str, why: str = "", mend: str = "") -> None:
        what, why, mend = (printable(part) for part in (what, why, mend))  # keys of the row are in them
        self.problems.append(Problem(what, printable(str(self._row)), why, mend))

    def unread_keys(self) -> list[str]:
        """Keys that nothing asked for; those inside turns as ``messages[].key``."""
        return sorted({*self.value.keys() - self._read, *self._unread})

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
            self.fault(f"'{key}' is null", "there is nothing to learn", "write the text, or delete the row")
        return self.value.get(key)

    def text(self, value: Any, path: str) -> str | None:
        """The value as text. None stays None; any other kind is a fault, never turned into text."""
        if value is None or isinstance(value, str):
            return value
        mend = "put it in quotes" if isinstance(value, int | float) else "a string is needed"
        self.fault(f"'{path}' is {kind(value)}, not text", f"found {excerpt(value)}", mend)
        return None

    def filled(self, value: Any, path: str) -> str | None:
        """The value as text that isn't blank; None behind a fault."""
        text = self.text(value, path)
        if text is None or text.strip():
            return text
        why = "it holds only white space" if text else ""
        self.fault(f"'{path}' is empty", why, "write the text, or delete the row")
        return None
