"""Strict JSON with positions: the standard scanner decodes; if it refuses, a slow walk says where.

Beyond the grammar it refuses what would silently change a row: duplicate keys (one would win), NaN and
infinity (also in the disguise of 1e999), lone surrogates (not text), nesting that no row needs.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from json import JSONDecodeError
from typing import Any

from sapwood.data.files.encoding import MAX_ROW_BYTES
from sapwood.data.files.lenient import python_at, without_comments
from sapwood.data.problems import excerpt

MAX_DEPTH = 32
TOO_LARGE = f"row is larger than {MAX_ROW_BYTES:,} bytes"
TOO_LARGE_MEND = "cut it into several rows; it could not be trained in one piece"
COMMENTS = "have // comments: ignored"
PRINTED = "are written as Python prints them: read as such"
COMMAS = "have a comma behind them: ignored"

_SPACE = re.compile(r"[ \t\r\n]*")
STRING = r'"(?:[^"\\]++|\\.)*+"'
TOKEN = re.compile(rf"{STRING}|[\[\]{{}},:]|[^\s\[\]{{}},:\"]+", re.S)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_FOREIGN = {"None": "null", "True": "true", "False": "false", "undefined": "null"}


class JsonFault(ValueError):
    """Why a text is not the JSON that we accept. ``position`` is an index into the text."""

    def __init__(self, what: str, position: int, why: str = "", mend: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.position = position
        self.why = why
        self.mend = mend


class _Refused(Exception):
    """A hook met something that the grammar allows and sapwood refuses."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Refused
    return value


def _constant(name: str) -> Any:
    raise _Refused


class Decimal(float):
    """A number with a fraction or an exponent, and its digits as the file has them."""

    text: str

    def __new__(cls, text: str) -> Decimal:
        value = super().__new__(cls, text)
        value.text = text
        return value

    def __getnewargs__(self) -> tuple[str]:  # type: ignore[override]
        return (self.text,)


def _float(text: str) -> float:
    value = Decimal(text)
    if math.isinf(value):
        raise _Refused
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float)


def skip_space(text: str, position: int) -> int:
    """The first index from ``position`` on that holds no JSON white space."""
    match = _SPACE.match(text, position)
    return match.end() if match is not None else position


def decode_at(text: str, start: int, forgiven: Counter[str] | None = None) -> tuple[Any, int]:
    """The value that starts at ``start``, and the index behind it. Raises JsonFault.

    ``forgiven``: read comments, and what Python prints, and count it there.
    """
    try:
        return _strictly(text, start)
    except JsonFault:
        if forgiven is None:
            raise
        if (plain := without_comments(text, start)) is not None:
            with contextlib.suppress(JsonFault):
                found = _strictly(plain, start)
                forgiven[COMMENTS] += 1
                return found
        if (printed := python_at(text, start)) is not None:
            forgiven[PRINTED] += 1
            return printed
        raise


def _strictly(text: str, start: int) -> tuple[Any, int]:
    try:
        value, end = _DECODER.raw_decode(text, start)
    except JSONDecodeError as error:
        raise _explain(text, error, start) from None
    except (_Refused, RecursionError, ValueError):  # ValueError: an integer of thousands of digits
        raise _find_refused(text, start) or JsonFault("not a value that can be read", start) from None
    if _may_be_deep(text, start, end) and _deeper(value, MAX_DEPTH):
        raise _find_refused(text, start) or JsonFault("nested too deep", start)
    if _SURROGATE_ESCAPE.search(text, start, end) and any(_SURROGATE.search(s) for s in _strings(value)):
        raise _find_refused(text, start) or JsonFault("lone surrogate", start)
    if end - start > MAX_ROW_BYTES // 4 and len(text[start:end].encode()) > MAX_ROW_BYTES:
        raise JsonFault(TOO_LARGE, start, mend=TOO_LARGE_MEND)
    return value, end


def decode_line(text: str, forgiven: Counter[str] | None = None) -> Any:
    """The one value that a line holds. Raises JsonFault. ``forgiven``: as above, and a comma behind it."""
    value, end = decode_at(text, skip_space(text, 0), forgiven)
    end = skip_space(text, end)
    if end == len(text):
        return value
    if text.startswith("//", end) and forgiven is not None:
        forgiven[COMMENTS] += 1
        return value
    if text[end] == "," and skip_space(text, end + 1) == len(text):
        if forgiven is not None:
            forgiven[COMMAS] += 1
            return value
        raise JsonFault("comma after the row", end, "in JSONL a line is one value", "delete the comma")
    if text[end] in "{[":
        raise JsonFault("two values on one line", end, "in JSONL a line is one value", "break the line here")
    raise JsonFault("text after the value", end, f"found {excerpt(text[end:], 30)}", "delete it")


def decode_whole(text: str) -> Any:
    """The value of a whole document, of any size. Raises JsonFault."""
    try:
        return _DECODER.decode(text)
    except JSONDecodeError as error:
        raise _explain(text, error, 0) from None
    except (_Refused, RecursionError, ValueError):
        raise _find_refused(text, 0) or JsonFault("not a value that can be read", 0) from None


def _may_be_deep(text: str, start: int, end: int) -> bool:
    return text.count("[", start, end) + text.count("{", start, end) > MAX_DEPTH


def _deeper(value: Any, limit: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return limit == 0 or any(_deeper(item, limit - 1) for item in inner)


def _strings(value: Any) -> Iterator[str]:
    """Every string in a value of bounded depth, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _find_refused(text: str, start: int) -> JsonFault | None:
    """Walk the tokens of the value at ``start`` for the first thing that the hooks refuse."""
    open_keys: list[set[str] | None] = []  # the keys of each open object; None for an array
    for match in TOKEN.finditer(text, start):
        token, position = match.group(), match.start()
        if token in ("{", "["):
            open_keys.append(set() if token == "{" else None)
            if len(open_keys) > MAX_DEPTH:
                why = f"a row has at most {MAX_DEPTH} levels"
                return JsonFault("nested too deep", position, why, "flatten the row")
        elif token in ("}", "]"):
            if open_keys:
                open_keys.pop()
        elif token[0] == '"':
            keys = open_keys[-1] if open_keys else None
            fault = _string_fault(text, match, keys)
            if fault is not None:
                return fault
        elif token not in (",", ":") and (fault := _literal_fault(token, position)) is not None:
            return fault
        if not open_keys:
            return None
    return None


def _string_fault(text: str, match: re.Match[str], keys: set[str] | None) -> JsonFault | None:
    try:
        value = json.loads(match.group())
    except JSONDecodeError as error:
        return _explain(text, JSONDecodeError(error.msg, text, match.start() + error.pos), match.start())
    if (half := _SURROGATE.search(value)) is not None:
        what = f"lone surrogate \\u{ord(half.group()):04x}"
        why = "half of a character is no text; the other half was cut off"
        return JsonFault(what, match.start(), why, "repair the text, or delete the escape")
    behind = skip_space(text, match.end())
    if keys is None or text[behind : behind + 1] != ":":
        return None
    if value in keys:
        return key_twice(value, match.start())
    keys.add(value)
    return None


def key_twice(key: str, position: int) -> JsonFault:
    why = "only one of the two values could be kept"
    return JsonFault(f"key {excerpt(key)} occurs twice in one object", position, why, "delete one")


def _literal_fault(token: str, position: int) -> JsonFault | None:
    if token.lstrip("-") in ("NaN", "Infinity"):
        return JsonFault(
            f"{token} is not JSON", position, "it has no value to learn", "write null or a number"
        )
    if re.fullmatch(r"-?\d{1000,}", token):
        return JsonFault(f"number of {len(token):,} digits", position, mend="write it as text, in quotes")
    if re.fullmatch(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", token) and math.isinf(float(token)):
        return JsonFault(f"{token[:40]} is too large for a number", position, mend="write it as text")
    return None


def _explain(text: str, error: JSONDecodeError, start: int) -> JsonFault:
    """The scanner's complaint in words that say what to edit."""
    position = error.pos
    found = text[position : position + 1]
    before = text[start:position].rstrip(" \t\r\n")[-1:] if position - start < 10_000 else ""
    word = re.compile(r"\w+").match(text, position)
    if error.msg.startswith("Unterminated string"):
        return JsonFault("text has no closing quote", position, "the row is cut short, or a quote is missing")
    if error.msg.startswith("Invalid control character"):
        mend = "write it as an escape: \\n, \\t or \\u00XX"
        return JsonFault(f"raw control character {excerpt(found)} inside text", position, mend=mend)
    if error.msg.startswith("Invalid") and "escape" in error.msg:
        why = f"found {excerpt(text[position : position + 6])}"
        return JsonFault("not a JSON escape", position, why, "a backslash itself is written \\\\")
    if skip_space(text, position) == len(text):
        return JsonFault("the row is cut short", position, "the text ends before its brackets close")
    if error.msg.startswith("Illegal trailing comma") or (before == "," and found in ("}", "]")):
        return JsonFault("comma before a closing bracket", position, mend="delete the comma")
    if found == "'":
        why = "single quotes are Python's, not JSON's"
        return JsonFault("text in single quotes", position, why, "write the file with json.dumps")
    if word is not None and word.group() in _FOREIGN:
        return JsonFault(f"{word.group()} is not JSON", position, mend=f"write {_FOREIGN[word.group()]}")
    if text.startswith(("//", "/*", "#"), position):
        return JsonFault("comment", position, "JSON has none", "delete it")
    wanted = error.msg[:1].lower() + error.msg[1:].removesuffix(" enclosed in double quotes")
    return JsonFault("not JSON", position, f"{wanted}, found {excerpt(text[position : position + 20])}")
