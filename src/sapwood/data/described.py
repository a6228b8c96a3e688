"""LLaMA-Factory's dataset_info.json beside a file: what the file's columns are called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from sapwood.config.words import Column

NAME = "dataset_info.json"
MAX_BYTES = 4_000_000
_COLUMNS: dict[str, Column] = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "history": "history",
    "system": "system",
    "tools": "tools",
    "messages": "conversations",
}


def described_columns(source: str, root: Path) -> dict[Column, str]:
    """Our key -> the file's column, of columns that go by another name; nothing where no description is, or
    where it doesn't name the file."""
    try:
        path = root / Path(source).expanduser()
        beside = path.with_name(NAME)
        if not beside.is_file() or beside.stat().st_size > MAX_BYTES:
            return {}
        told = json.loads(beside.read_bytes())
    except (OSError, ValueError, RuntimeError):  # RuntimeError: no home, or nested too deep
        return {}
    for entry in cast(Mapping[str, Any], told).values() if isinstance(told, dict) else ():
        if isinstance(entry, dict) and cast(Mapping[str, Any], entry).get("file_name") == path.name:
            return _columns(cast(Mapping[str, Any], entry).get("columns"))
    return {}


def _columns(value: Any) -> dict[Column, str]:
    named = cast(Mapping[str, Any], value) if isinstance(value, dict) else {}
    return {
        key: named[theirs]
        for theirs, key in _COLUMNS.items()
        if isinstance(named.get(theirs), str) and named[theirs] != key
    }
