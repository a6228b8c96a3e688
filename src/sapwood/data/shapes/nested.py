"""Values inside values: lists and objects that a table holds as text, as JSON or as Python prints them."""

from __future__ import annotations

from typing import Any

from sapwood.data.files.json_text import JsonFault, decode_line
from sapwood.data.files.lenient import python_at
from sapwood.data.shapes.record import Record


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
        printed = python_at(text, 0)
        if printed is None or printed[1] != len(text):
            what = f"'{path}' is text that is not JSON"
            record.fault(what, f"{fault.what}, at character {fault.position + 1} of it", fault.mend)
            return None
        record.count("have lists as Python prints them: read as such")
        return printed[0]
    record.count("have lists as JSON text: read as such")
    return found


def looks_nested(value: Any) -> bool:
    """Is this text that may spell a list or an object?"""
    return isinstance(value, str) and value.lstrip()[:1] in ("[", "{")
