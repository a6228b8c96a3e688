"""Tests of a shell: whether they hold, or None if that isn't known before it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sapwood.migrate.shell.expand import text
from sapwood.migrate.shell.words import Names, Word

if TYPE_CHECKING:
    from tree_sitter import Node

_NUMBERS: dict[str, Callable[[int, int], bool]] = {
    "-eq": lambda a, b: a == b, "-ne": lambda a, b: a != b, "-lt": lambda a, b: a < b,
    "-le": lambda a, b: a <= b, "-gt": lambda a, b: a > b, "-ge": lambda a, b: a >= b,
}  # fmt: skip


def holds(node: Node, names: Names, first: int) -> bool | None:
    inner = node.named_children
    match node.type:
        case "test_command" | "parenthesized_expression":
            return holds(inner[0], names, first) if len(inner) == 1 else None
        case "negated_command":
            value = holds(inner[0], names, first) if inner else None
            return None if value is None else not value
        case "list":
            return _both(node, names, first)
        case "unary_expression":
            return _unary(node, names, first)
        case "binary_expression":
            return _binary(node, names, first)
        case "command":
            return {"true": True, "false": False}.get((node.text or b"").decode(errors="replace"))
        case "string" | "word" | "simple_expansion" | "expansion":
            return bool(_value(node, names, first).text)
        case _:
            return None


def _both(node: Node, names: Names, first: int) -> bool | None:
    values = [holds(child, names, first) for child in node.named_children]
    wanted = any(child.type == "||" for child in node.children)
    if wanted in values:
        return wanted
    return None if None in values else not wanted


def _unary(node: Node, names: Names, first: int) -> bool | None:
    sign = (node.children[0].text or b"").decode()
    if sign == "!":
        value = holds(node.named_children[-1], names, first)
        return None if value is None else not value
    if sign not in ("-z", "-n"):
        return None
    value = _value(node.named_children[-1], names, first)
    return None if not value.known else (value.text == "") == (sign == "-z")


def _binary(node: Node, names: Names, first: int) -> bool | None:
    if len(node.children) != 3:
        return None
    left, right = (_value(node.children[i], names, first) for i in (0, 2))
    sign = (node.children[1].text or b"").decode()
    if sign in ("&&", "||"):
        return _both(node, names, first)
    if not left.known or not right.known:
        return None
    if sign in ("=", "==", "!="):
        plain = not any(c in right.text for c in "*?[")
        return (left.text == right.text) == (sign != "!=") if plain else None
    do = _NUMBERS.get(sign)
    if do is None or not left.text.lstrip("-").isdigit() or not right.text.lstrip("-").isdigit():
        return None
    return do(int(left.text), int(right.text))


def _value(node: Node, names: Names, first: int) -> Word:
    """A variable that the script never sets is empty: no default is assumed."""
    found = text(node, names, first)
    source = (node.text or b"").decode(errors="replace").strip('"')
    unset = not found.known and found.text == source and source.startswith("$") and "(" not in source
    return Word("", found.line) if unset else found
