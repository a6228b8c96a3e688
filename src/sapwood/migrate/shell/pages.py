"""Files that are read together, as one list of lines; and the place of a file that one of them names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

PARENTS = 2  # folders above the file's own: scripts are often started from the repository's root


@dataclass(slots=True)
class Pages:
    """path: of the file that was brought, which comes first. labels: what a person calls each line."""

    path: Path
    lines: list[str] = field(default_factory=list[str])
    labels: list[str] = field(default_factory=list[str])
    before: dict[Path, int] = field(default_factory=dict[Path, int])

    def add(self, path: Path, lines: Sequence[str], labels: Sequence[str] = ()) -> int:
        """The number of lines before the file's own; a file that is there already keeps its place."""
        if path in self.before:
            return self.before[path]
        self.before[path] = len(self.lines)
        here = path == self.path
        name = "" if here else f"{self._name(path) if path.exists() else path} "
        own = labels or [f"line {i + 1}" for i in range(len(lines))]
        self.lines += lines
        self.labels += [name + label for label in own]
        return self.before[path]

    def _name(self, path: Path) -> str:
        try:
            return os.path.relpath(path, self.path.parent)
        except ValueError:  # another drive
            return path.name

    def folders(self) -> list[Path]:
        """Folders in which names are looked up: that of the file, those above it, and the working
        directory."""
        beside = self.path.parent.absolute()
        return [self.path.parent, *beside.parents[:PARENTS], Path()]


def find(name: str, folders: Sequence[Path]) -> Path | None:
    """The first file of that name; None if there is none, or if its name is no path."""
    if not name or "\0" in name or len(name) > 1024:
        return None
    for folder in folders:
        path = folder / name
        try:
            if path.is_file():
                return Path(os.path.normpath(path))
        except OSError:
            continue
    return None
