"""A JSON document walked through a window: an array item by item, an object key by key. Neither is ever held
as a whole."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Any

from sapwood.data.files.encoding import MAX_ROW_BYTES
from sapwood.data.files.json_text import (
    COMMENTS,
    STRING,
    TOKEN,
    JsonFault,
    decode_at,
    key_twice,
    skip_space,
)
from sapwood.data.files.window import Window
from sapwood.data.problems import excerpt

SHOWN = 40  # characters behind a fault that a message may show
_BRACKET_OR_STRING = re.compile(rf"{STRING}|[\[\]{{}}]", re.S)
_BRACKET_STRING_OR_QUOTE = re.compile(rf'{STRING}|[\[\]{{}}"]', re.S)


def array_items(window: Window, start: int) -> Generator[tuple[int, Any], None, int | None]:
    """The items of the array that opens at ``start``: (index in the window, value), or (index, JsonFault).

    Goes on behind a faulty item if its end is certain. Returns the index behind the array, or None if
    the text can't be followed to its end. What was yielded is dropped from the window before the next.
    """
    at = skip_in(window, start + 1)
    if window.text[at : at + 1] == "]":
        return at + 1
    while True:
        begin = at = window.drop(at)
        try:
            value, at = decode_in(window, begin)
            yield begin, value
        except JsonFault as fault:
            yield begin, fault
            behind = _behind(window.text, begin)
            if behind is None:
                return None
            at = behind
        at = skip_in(window, at)
        mark = window.text[at : at + 1]
        if mark == "]":
            return at + 1
        if mark != ",":
            window.reach(at + SHOWN)
            yield at, _no_comma(window.text, at)
            return None
        comma, at = at, skip_in(window, at + 1)
        if window.text[at : at + 1] == "]":
            yield comma, JsonFault("comma before the closing bracket", comma, mend="delete the comma")
            return at + 1


def object_outline(window: Window, start: int) -> Generator[tuple[str, int], int | None, int]:
    """The keys of the object at ``start``, each with the index of its value; returns the index behind the
    object. Whoever has read a value says where it ends, as `Generator.send` does; otherwise it is skipped, by
    brackets alone. Raises JsonFault.
    """
    at = skip_in(window, start + 1)
    seen = set[str]()
    if window.text[at : at + 1] == "}":
        return at + 1
    while True:
        at = window.drop(at)
        if window.text[at : at + 1] != '"':
            raise _no_key(window, at)
        key, behind = decode_in(window, at)
        if key in seen:
            raise key_twice(key, at)
        seen.add(key)
        at = skip_in(window, behind)
        if window.text[at : at + 1] != ":":
            raise JsonFault("no colon after a key", at, mend="write a colon")
        at = skip_in(window, at + 1)
        told = yield key, at
        at = skip_in(window, _skip_in(window, at) if told is None else told)
        mark = window.text[at : at + 1]
        if mark == "}":
            return at + 1
        if mark != ",":
            window.reach(at + SHOWN)
            raise _no_comma(window.text, at)
        at = skip_in(window, at + 1)


def skip_in(window: Window, position: int) -> int:
    """`skip_space`, over the end of the window."""
    while True:
        position = skip_space(window.text, position)
        if position + 1 >= len(window.text) and window.more():
            continue
        if not window.text.startswith("//", position):
            return position
        window.forgiven[COMMENTS] += 1
        while (end := window.text.find("\n", position)) < 0 and window.more():
            pass
        position = end if end >= 0 else len(window.text)


def decode_in(window: Window, start: int) -> tuple[Any, int]:
    """`decode_at`, with as much of the file as a row may need. Raises JsonFault."""
    while True:
        enough = window.done or len(window.text) - start > 2 * MAX_ROW_BYTES
        try:
            value, end = decode_at(window.text, start, window.forgiven)
        except JsonFault:
            if enough:
                raise
        else:
            if enough or end < len(window.text):  # a number at the window's end may go on
                return value, end
        window.more()


def _skip_in(window: Window, at: int) -> int:
    """The index behind the value at ``at``, of any size. Raises JsonFault if the file ends inside it."""
    if window.text[at : at + 1] not in ("{", "[", '"'):
        return decode_in(window, at)[1]
    depth = 0
    while True:
        for match in _BRACKET_STRING_OR_QUOTE.finditer(window.text, at):
            if match.group() == '"':  # its end isn't in the window yet
                break
            at = match.end()
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match.group()[0], 0)
            if depth == 0:
                return at
        at = window.drop(at)
        if not window.more():
            raise JsonFault("the row is cut short", at, "the text ends before its brackets close")


def _behind(text: str, start: int) -> int | None:
    """Where to go on behind a faulty item; None unless a bracket or another row follows."""
    end = _skip_value(text, start)
    if end is None:
        return None
    return end if re.compile(r"\s*(\]|,\s*[{\]])").match(text, end) else None


def _skip_value(text: str, start: int) -> int | None:
    """The index behind the value at ``start``, by brackets alone; None if they never close."""
    if text[start : start + 1] not in ("{", "[", '"'):
        match = TOKEN.match(text, start)
        return match.end() if match is not None else None
    depth = 0
    for match in _BRACKET_OR_STRING.finditer(text, start):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match.group()[0], 0)
        if depth == 0:
            return match.end()
    return None


def _no_key(window: Window, at: int) -> JsonFault:
    """What stands in a key's place, in the scanner's words if the scanner has some."""
    window.reach(at + SHOWN)
    try:
        decode_at("{" + window.text[at : at + SHOWN], 0)
    except JsonFault as fault:
        return JsonFault(fault.what, at, fault.why, fault.mend)
    return JsonFault("a key in double quotes is missing", at)


def _no_comma(text: str, position: int) -> JsonFault:
    if position >= len(text):
        return JsonFault(
            "the text ends before its brackets close", position, "the file is cut short", "fetch it again"
        )
    return JsonFault("no comma between two values", position, f"found {excerpt(text[position:], 30)}")
