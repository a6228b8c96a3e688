"""What a person asks to be served, and how it is called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sapwood.adapter.elsewhere.kind import is_adapter
from sapwood.errors import ConfigError
from sapwood.run.store import RUN
from sapwood.serve.found import MODEL, Place


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person named, perhaps with the name that it is to have."""

    target: str
    name: str | None = None


def short_name(place: Place) -> str:
    """A run's name without the date and the digits of its folder; a folder's last name; a base as named."""
    if place.folder is None:
        return place.name
    last = Path(place.name).name or place.name
    return re.sub(r"^\d{8}-\d{6}-(.+?)-[0-9a-f]{4}\b", r"\1", last)


def parse_wanted(words: Iterable[str]) -> list[Wanted]:
    """``NAME=TARGET`` or ``TARGET``. Raises ConfigError for a name that is given twice."""
    found: list[Wanted] = []
    for word in words:
        name, sign, target = word.partition("=")
        named = bool(sign) and bool(re.fullmatch(r"[\w.:@-]+", name)) and not Path(word).exists()
        found.append(Wanted(target, name) if named else Wanted(word))
    names = [one.name for one in found if one.name is not None]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(
            f"two models are named {min(twice)}", "serve", mend="give each a name of its own: NAME=RUN"
        )
    return found


def expanded(wanted: Sequence[Wanted], runs: Path) -> list[Wanted]:
    """A folder of runs or adapters stands for all of them."""
    found: list[Wanted] = []
    for one in wanted:
        path = Path(one.target)
        if one.name is not None or not path.is_dir() or _is_one(path):
            found.append(one)
            continue
        inside = [child for child in sorted(path.iterdir()) if child.is_dir() and _is_one(child)]
        found += [Wanted(str(child)) for child in inside] or [one]
    return found


def _is_one(path: Path) -> bool:
    return (path / RUN).is_file() or (path / MODEL).is_file() or is_adapter(path)
