"""LLaMA-Factory's dataset_info.json beside a file: what its columns, its turns and its roles are called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from sapwood.data.problems import printable
from sapwood.errors import DataError
from sapwood.types import Row

NAME = "dataset_info.json"
MAX_BYTES = 4_000_000
_COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "history": "history",
    "system": "system",
    "tools": "tools",
    "messages": "conversations",
    "kto_tag": "label",
}
_TURN_KEYS = {"role_tag": "role", "content_tag": "content"}
_ROLES = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function_call",
    "system_tag": "system",
}


@dataclass(frozen=True, slots=True)
class Described:
    """What a description says of a file. columns: our key -> the file's column, of those that go by another
    name; turn_keys: the file's key of a turn -> ours; roles: the file's name of a role -> ours; compared: how
    to learn the better one of the two answers that a row of a ranking has, None for other files."""

    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    turn_keys: Mapping[str, str] = field(default_factory=dict[str, str])
    roles: Mapping[str, str] = field(default_factory=dict[str, str])
    compared: str | None = None

    def told(self) -> str:
        """What the description changes, for a person; empty if it changes nothing."""
        named = {**{theirs: ours for ours, theirs in self.columns.items()}, **self.turn_keys, **self.roles}
        return ", ".join(f"'{printable(theirs)}' as '{ours}'" for theirs, ours in named.items())

    def read(self, row: Row) -> Row:
        """The row, whose columns have our keys already, with our keys and roles in its turns. Raises
        DataError for a ranking."""
        if self.compared is not None:
            why = "dataset_info.json says ranking: sapwood learns examples, and could learn the chosen one"
            what = "row is a pair of answers to compare"
            raise DataError(what, printable(str(row.id)), why, self.compared)
        turns = row.value.get("conversations")
        if not isinstance(turns, list) or not (self.turn_keys or self.roles):
            return row
        return Row(
            row.id, {**row.value, "conversations": [self._turn(turn) for turn in cast(list[Any], turns)]}
        )

    def _turn(self, turn: Any) -> Any:
        if not isinstance(turn, dict):
            return turn
        found = {self.turn_keys.get(key, key): value for key, value in cast(dict[str, Any], turn).items()}
        key = "role" if "role" in found else "from"
        name = found.get(key)
        if isinstance(name, str) and name in self.roles:
            found[key] = self.roles[name]
        return found


def described(source: str, root: Path) -> Described:
    """The description of a file; an empty one if none is beside it, or if it doesn't name the file."""
    try:
        path = root / Path(source).expanduser()
        beside = path.with_name(NAME)
        if not beside.is_file() or beside.stat().st_size > MAX_BYTES:
            return Described()
        told = json.loads(beside.read_bytes())
    except (OSError, ValueError, RuntimeError):  # RuntimeError: no home, or nested too deep
        return Described()
    for entry in cast(Mapping[str, Any], told).values() if isinstance(told, dict) else ():
        if isinstance(entry, dict) and cast(Mapping[str, Any], entry).get("file_name") == path.name:
            return _read(cast(Mapping[str, Any], entry))
    return Described()


def _read(entry: Mapping[str, Any]) -> Described:
    named, tags = (_texts(entry.get(key)) for key in ("columns", "tags"))
    columns = {ours: named[theirs] for theirs, ours in _COLUMNS.items() if named.get(theirs, ours) != ours}
    turn_keys, roles = (
        {tags[theirs]: ours for theirs, ours in known.items() if tags.get(theirs, ours) != ours}
        for known in (_TURN_KEYS, _ROLES)
    )
    return Described(columns, turn_keys, roles, _compared(named) if entry.get("ranking") is True else None)


def _compared(named: Mapping[str, str]) -> str:
    asked = (
        named.get("messages", "conversations") if "messages" in named else named.get("prompt", "instruction")
    )
    best = named.get("chosen", "chosen")
    return f"data.columns.prompt={printable(asked)} data.columns.completion={printable(best)}"


def _texts(value: Any) -> dict[str, str]:
    found = cast(Mapping[str, Any], value) if isinstance(value, dict) else {}
    return {key: text for key, text in found.items() if isinstance(text, str)}
