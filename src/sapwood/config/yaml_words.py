"""What is wrong with a text that is no YAML, in words for somebody who doesn't know YAML's grammar."""

from __future__ import annotations

import re
from typing import Any

EQUALS = re.compile(r"^\s*([\w.]+)\s*=\s*(\S.*)$")
NO_SPACE = re.compile(r"^\s*(?:- )?([\w.]+):(\S.*)$")
TWO_COLONS = re.compile(r"^\s*(?:- )?([\w.]+):\s+([^'\"\[{\s].*:\s.*)$")
# A value in brackets or quotes, and something behind it.
MORE = re.compile(r"""^\s*(?:- )?[\w.]+:\s+(?:\{[^}]*\}|\[[^\]]*\]|"[^"]*"|'[^']*')\s*[^\s#]""")
VALUE = re.compile(r"^(\s*(?:- )?[\w.]+:\s+)(\S.*?)\s*$")
Words = tuple[str, str]  # why, and how to mend it


def explain(error: Any, text: str) -> Words:
    """Why the parser stopped, and what to write. ``error``: ruamel's MarkedYAMLError of ``text``."""
    lines = text.splitlines() or [""]
    problem, context = (" ".join(str(part or "").split()) for part in (error.problem, error.context))
    at = _line(error.problem_mark or error.context_mark, lines)
    begun = _line(error.context_mark, lines) if error.context_mark else at
    above = max(0, at - 1)
    return (
        _by_character(problem, lines[at])
        or _equals(lines, (at, above, begun))
        or _by_place(problem, context, lines, at, above, begun)
        or (problem.partition(" with value")[0] or str(error), "")
    )


def explain_scalar(text: str) -> Words | None:
    """Why a whole file is one piece of text: somebody wrote ``=`` for ``:``."""
    return _equals(text.splitlines() or [""], (0,))


def _by_character(problem: str, line: str) -> Words | None:
    """Characters that mean something to YAML at the beginning of a value, or within double quotes."""
    if "escape" in problem:
        single = re.sub(r'"([^"]*)"', r"'\1'", line.strip())
        return "within double quotes a backslash begins an escape", f"take single quotes: {single}"
    if "'\\t'" in problem:
        return "a tab stands where only spaces may", "indent with spaces"
    if (
        "cannot start any token" in problem
        or "undefined alias" in problem
        or "constructor for the tag" in problem
    ):
        what = "an undefined alias" if "alias" in problem else "a value that begins with a sign of YAML's own"
        return f"{what}: one of @ ` % * & ! stands before it", f"put it in quotes: {_quoted(line)}"
    return None


def _equals(lines: list[str], places: tuple[int, ...]) -> Words | None:
    found = next((m for at in places if (m := EQUALS.match(lines[at]))), None)
    if found is None:
        return None
    *section, key = found[1].split(".")
    pair = f"{key}: {found[2].strip()}"
    shown = f"{section[0]}: {{{pair}}}" if section else pair
    return "in a file a colon stands between key and value, not =", f"write {shown}"


def _by_place(problem: str, context: str, lines: list[str], at: int, above: int, begun: int) -> Words | None:
    """A colon, an indentation or a bracket that is not where it belongs."""
    for number in dict.fromkeys((at, above, begun)):
        if (found := NO_SPACE.match(lines[number])) and "://" not in lines[number]:
            return "a colon needs a space after it", f"write {found[1]}: {found[2]}"
    if TWO_COLONS.match(lines[at]):
        return "a value with a colon in it needs quotes", f"write {_quoted(lines[at])}"
    if "block mapping start" in problem or "mapping values" in problem:
        why = "the keys of a section must begin in one column, two spaces in from the section's name"
        return why, f"look at the indentation of {lines[at].strip()!r}"
    if "quoted scalar" in context:
        return f"the quote that opens in line {begun + 1} is never closed", "close it"
    if "flow" in context:
        return (
            f"the bracket that opens in line {begun + 1} is not closed there",
            "close it, or quote the text",
        )
    if MORE.match(lines[at]) or ("<scalar>" in problem and VALUE.match(lines[at])):
        why = "a text that begins with a brace, a bracket or a quote needs quotes around all of it"
        return why, f"write {_quoted(lines[at])}"
    if "expected ':'" in problem or "block end" in problem:
        bare = lines[begun].strip()
        return (
            f"{bare!r} is neither `key: value` nor `- item`",
            "a colon and a dash each need a space after them",
        )
    return None


def _quoted(line: str) -> str:
    """The line with its value in single quotes."""
    found = VALUE.match(line)
    if found is None:
        return "'…'"
    return f"{found[1].strip()} '{found[2].replace(chr(39), chr(39) * 2)}'"


def _line(mark: Any, lines: list[str]) -> int:
    """The line of a mark; of one behind the end, the last."""
    return min(mark.line, len(lines) - 1) if mark is not None else 0
