"""What is no JSON and can be read in one way only: comments, and what Python prints."""

from __future__ import annotations

import ast
import re
from typing import Any

MAX_PYTHON = 1_000_000  # characters that are given to Python's own parser
_STRING = r'"(?:[^"\\]++|\\.)*+"'
_COMMENT = re.compile(rf"{_STRING}|//[^\n]*", re.S)
_PRINTED = re.compile(r"[\[{(\s]*'")
_TOKEN = re.compile(r"""'(?:[^'\\\n]++|\\.)*+'|"(?:[^"\\\n]++|\\.)*+"|[\[\]{}]""", re.S)


def without_comments(text: str, start: int) -> str | None:
    """The text with white space for each ``//`` comment from ``start`` on; None if it has none."""
    if text.find("//", start) < 0:
        return None
    rest = text[start:]
    plain = _COMMENT.sub(
        lambda match: match.group() if match.group()[0] == '"' else " " * len(match.group()), rest
    )
    return text[:start] + plain if plain != rest else None


def is_printed(text: str, start: int) -> bool:
    """Whether a list or an object begins here as Python prints it, with a text in single quotes."""
    return text[start : start + 1] in ("[", "{") and _PRINTED.match(text, start) is not None


def python_at(text: str, start: int) -> tuple[Any, int] | None:
    """The list or object of plain values that Python prints like this, and the index behind it; None if it is
    none."""
    if not is_printed(text, start):
        return None
    depth, pieces, at = 0, list[str](), start
    for match in _TOKEN.finditer(text, start, start + MAX_PYTHON):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match.group(), 0)
        if match.group() == "{" and text[at - 1 : at] == "}" and text[at : match.start()].isspace():
            pieces.append(",")  # an array of numpy's has blanks between its items
        pieces.append(text[at : match.end()])
        at = match.end()
        if depth == 0:
            value = _literal("".join(pieces))
            return None if value is None else (value, at)
    return None


def _literal(text: str) -> Any:
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return found if isinstance(found, list | dict) and _is_plain(found, 32) else None


def _is_plain(value: Any, depth: int) -> bool:
    """Whether a value has only types that JSON also has, and text that can be encoded."""
    if depth == 0:
        return False
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item, depth - 1) for key, item in value.items())
    if isinstance(value, list):
        return all(_is_plain(item, depth - 1) for item in value)
    if isinstance(value, str):
        return not any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, float):
        return value == value and abs(value) != float("inf")
    return value is None or isinstance(value, bool | int)
