"""Values inside values: lists and objects that a table holds as text, as JSON or as Python prints them."""

from __future__ import annotations

import ast
from typing import Any

from sapwood.data.files.json_text import JsonFault, decode_line
from sapwood.data.shapes.record import Record

MAX_PYTHON = 1_000_000  # characters that are given to Python's own parser


def unpacked(record: Record, value: Any, path: str) -> Any:
    """The value; if it is text, the value that this text spells. None behind a fault, and for blank text."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not text:
        return None
    try:
        found = decode_line(text)
    except JsonFault as fault:
        printed = python_value(text)
        if printed is None:
            what = f"'{path}' is text that is not JSON"
            record.fault(what, f"{fault.what}, at character {fault.position + 1} of it", fault.mend)
            return None
        record.count("have lists as Python prints them: read as such")
        return printed
    record.count("have lists as JSON text: read as such")
    return found


def looks_nested(value: Any) -> bool:
    """Is this text that may spell a list or an object?"""
    return isinstance(value, str) and value.lstrip()[:1] in ("[", "{")


def python_value(text: str) -> Any:
    """The list or object that Python prints like this; None if it is none of plain values."""
    if text[:1] not in ("[", "{") or len(text) > MAX_PYTHON:
        return None
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return found if isinstance(found, list | dict) and _plain(found) else None


def _plain(value: Any, depth: int = 32) -> bool:
    """Only what JSON has too."""
    if depth == 0:
        return False
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(item, depth - 1) for key, item in value.items())
    if isinstance(value, list):
        return all(_plain(item, depth - 1) for item in value)
    return value is None or isinstance(value, str | bool | int | float)
