"""Values inside values: lists and objects that a table holds as text, as JSON or as Python prints them."""

from __future__ import annotations

from typing import Any, cast

from sapwood.data.files.json_text import JsonFault, decode_line
from sapwood.data.files.lenient import python_at
from sapwood.data.shapes.record import Record

FILLED = "have nulls that only the column's type brought: dropped"
NOTHING = ("", "None", "nan", "NaN")  # what Python's tables write for a cell without a value


def unpacked(record: Record, value: Any, path: str) -> Any:
    """The value; if it is text, the value that this text spells. None behind a fault, and for blank text."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text in NOTHING:
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
    # Written twice: a text that spells a text that spells a list.
    return unpacked(record, found, path) if looks_nested(found) else found


def looks_nested(value: Any) -> bool:
    """Whether a value is text that may spell a list or an object."""
    return isinstance(value, str) and value.lstrip()[:1] in ("[", "{")


def drop_nulls(value: Any) -> bool:
    """Take all keys whose value is null out of a value, at any depth. Returns whether there was any.

    A table's column has one type for all rows: each row has every key that any other row has.
    """
    if isinstance(value, list):
        return sum(map(drop_nulls, cast(list[Any], value))) > 0
    if not isinstance(value, dict):
        return False
    fields = cast(dict[str, Any], value)
    empty = [key for key, item in fields.items() if item is None]
    for key in empty:
        del fields[key]
    return sum(map(drop_nulls, fields.values())) > 0 or bool(empty)
