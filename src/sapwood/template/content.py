"""Which characters of a rendered text came from the row.

The template is run once more with two noncharacters around every piece of the row. If taking them out
again gives the same text, they show the row's part exactly, whatever the template did in between (trimming,
JSON).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sapwood.types import Span

NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # never valid in exchanged text

FIELDS = ("content", "reasoning_content")
COMPARED = ("tool_calls", "name", "tool_call_id")  # templates look into some of these, or measure them


def pick_marks(text: str) -> tuple[str, str] | None:
    """Two noncharacters that the text doesn't hold."""
    free = [mark for mark in NONCHARACTERS if mark not in text]
    return (free[0], free[1]) if len(free) >= 2 else None


def map_content(
    messages: Sequence[Mapping[str, Any]],
    change: Callable[[str], str],
    worth: Callable[[str], bool] = bool,
) -> list[dict[str, Any]]:
    """The messages with ``change`` applied to each piece that came from the row.

    Strings of ``COMPARED`` are changed only if ``worth`` says so.
    """
    return [
        {key: _map_value(key, value, change, worth) for key, value in message.items()} for message in messages
    ]


def _map_value(key: str, value: Any, change: Callable[[str], str], worth: Callable[[str], bool]) -> Any:
    if key in FIELDS:
        return _inside_blanks(value, change) if value is not None else None
    return map_strings(value, change, worth) if key in COMPARED else value


def map_strings(value: Any, change: Callable[[str], str], worth: Callable[[str], bool]) -> Any:
    """Plain data with ``change`` applied to its strings (not its keys)."""
    if isinstance(value, str):
        return _inside_blanks(value, change) if worth(value) else value
    if isinstance(value, Mapping):
        return {key: map_strings(item, change, worth) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_strings(item, change, worth) for item in value]
    return value


def keys_of(value: Any) -> list[str]:
    """Every key in plain data, at any depth."""
    if isinstance(value, Mapping):
        return [*map(str, value), *(key for item in value.values() for key in keys_of(item))]
    if isinstance(value, list | tuple):
        return [key for item in value for key in keys_of(item)]
    return []


def locate(
    text: str, marked: str, marks: tuple[str, str], pieces: Collection[str]
) -> tuple[Span, ...] | None:
    """Spans of ``text`` between the marks of ``marked``; None if they don't show it beyond doubt.

    Between two marks there must be one of ``pieces``, as it is or escaped for JSON: a template that takes a
    piece apart leaves its own text between them.
    """
    known = {form for piece in pieces for form in (piece, *json_forms(piece))}
    opening, closing = marks
    spans: list[Span] = []
    start: int | None = None
    at = 0
    for piece in re.split(f"([{opening}{closing}])", marked):
        if piece == opening:
            if start is not None:
                return None
            start = at
        elif piece == closing:
            if start is None:
                return None
            if text[start:at] not in known:
                return None
            spans.append(Span(start, at))
            start = None
        else:
            if not text.startswith(piece, at):
                return None
            at += len(piece)
    return tuple(spans) if start is None and at == len(text) else None


def json_forms(piece: str) -> tuple[str, str]:
    return json.dumps(piece, ensure_ascii=False)[1:-1], json.dumps(piece)[1:-1]


def _inside_blanks(text: str, change: Callable[[str], str]) -> str:
    """Change the text between its blank edges, so that a template that trims sees the same edges."""
    core = text.strip()
    if not core:
        return text
    start = text.index(core)
    return text[:start] + change(core) + text[start + len(core) :]
