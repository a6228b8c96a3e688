"""What the words of a command become: quotes, variables, defaults, arithmetic."""

from __future__ import annotations

import ast
import operator
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from sapwood.migrate.shell.words import Names, Word, joined, split

if TYPE_CHECKING:
    from tree_sitter import Node

_INNER = re.compile(r"(?P<length>#?)(?P<name>\w+|[@*#])(?P<at>\[[^\]]*\])?(?P<rest>.*)", re.DOTALL)
_ARITHMETIC: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}  # fmt: skip


def words(node: Node, names: Names, first: int) -> list[Word]:
    """first: number of the text's first line."""
    line = first + node.start_point.row
    if node.type in ("simple_expansion", "expansion"):
        return _split(_variable(node, names, first), line)
    if node.type == "string" and (array := _quoted_array(node, names, first)) is not None:
        return array
    if node.type == "command_substitution":
        return _split([text(node, names, first)], line)
    if node.type == "concatenation" and any(
        c.type in ("simple_expansion", "expansion") for c in node.children
    ):
        return _split([text(node, names, first)], line)
    return [_placeholder(text(node, names, first))]


def _split(found: list[Word], line: int) -> list[Word]:
    """If a variable gives one word, the word has the line of its use; several words keep the lines on which
    they are written."""
    out = [piece for word in found for piece in (split(word) if word.known else [word])]
    return [out[0].at(line)] if len(out) == 1 else out


def _placeholder(word: Word) -> Word:
    """``<your model>``"""
    return Word(word.text, word.line, False) if re.fullmatch(r"<[^<>]+>", word.text) else word


def text(node: Node, names: Names, first: int) -> Word:
    """As one word."""
    line = first + node.start_point.row
    source = (node.text or b"").decode(errors="replace")
    match node.type:
        case "simple_expansion" | "expansion":
            return joined(_variable(node, names, first), line)
        case "string":
            return _pieces(node, names, first, node.start_byte + 1, node.end_byte - 1, quoted=True)
        case "raw_string":
            return Word(source[1:-1], line)
        case "ansi_c_string":
            return Word(source[2:-1].replace("\\n", "\n").replace("\\t", "\t").replace("\\'", "'"), line)
        case "string_content":
            return Word(re.sub(r"\\(\n|[\"\\$`])", lambda m: m[1], source), line)
        case "command_substitution":
            return _substituted(node, source, names, first)
        case "arithmetic_expansion":
            return _arithmetic(node, source, names, first)
        case "concatenation":
            return _pieces(node, names, first, node.start_byte, node.end_byte)
        case _:
            return Word(re.sub(r"\\(.)", r"\1", source, flags=re.DOTALL), line)


def _pieces(node: Node, names: Names, first: int, begin: int, end: int, *, quoted: bool = False) -> Word:
    """The children between two bytes, and what stands between them."""
    whole, start = node.text or b"", node.start_byte
    out: list[Word] = []
    at, line = begin, first + node.start_point.row
    for child in node.children:
        if child.start_byte < begin or child.end_byte > end or (quoted and child.type == '"'):
            continue
        out.append(Word(whole[at - start : child.start_byte - start].decode(errors="replace"), line))
        out.append(text(child, names, first))
        at = child.end_byte
    out.append(Word(whole[at - start : end - start].decode(errors="replace"), line))
    return joined(out, line, "")


def _quoted_array(node: Node, names: Names, first: int) -> list[Word] | None:
    """``"$@"`` and ``"${A[@]}"`` stay apart."""
    inner = [child for child in node.children if child.type != '"']
    if len(inner) != 1 or inner[0].type not in ("simple_expansion", "expansion"):
        return None
    source = (inner[0].text or b"").decode(errors="replace")
    several = source in ("$@", "$*", "${@}", "${*}") or re.fullmatch(r"\$\{\w+\[[@*]\]\}", source)
    return _variable(inner[0], names, first) if several else None


def _variable(node: Node, names: Names, first: int) -> list[Word]:
    source = (node.text or b"").decode(errors="replace")
    line = first + node.start_point.row
    match = _INNER.fullmatch(source.lstrip("$").removeprefix("{").removesuffix("}"))
    if match is None:
        return [Word(source, line, known=False)]
    found = _element(names.get(match["name"], line), match["at"])
    if match["length"]:
        return [Word(str(len(found or ())), line, known=bool(match["at"]) and found is not None)]
    if not match["rest"]:
        return found if found is not None else [Word(source, line, known=False)]
    return _changed(node, names, first, found, match["rest"])


def _element(found: list[Word] | None, at: str | None) -> list[Word] | None:
    if found is None or at in (None, "[@]", "[*]"):
        return found
    inner = at[1:-1]
    return [found[int(inner)]] if inner.isdigit() and int(inner) < len(found) else None


def _changed(node: Node, names: Names, first: int, found: list[Word] | None, rest: str) -> list[Word]:
    """``${X:-default}``, ``${X:+other}``, ``${X##*/}``, ``${X%/*}``."""
    line = first + node.start_point.row
    sign = re.match(r":?[-=+?]", rest)
    if sign is not None:
        end = node.end_byte - 1
        begin = end - len(rest.encode()) + len(sign[0])
        empty = found is None or (sign[0][0] == ":" and not "".join(word.text for word in found))
        other = _pieces(node, names, first, begin, end)
        if sign[0][-1] == "+":
            return [Word("", line)] if empty else [other]
        return ([other] if sign[0][-1] != "?" else [Word(other.text, line, False)]) if empty else found or []
    known = joined(found, line) if found else Word("", line, known=False)
    if known.known and rest in ("##*/", "%/*"):
        part = os.path.basename if rest == "##*/" else os.path.dirname
        return [Word(part(known.text), line)]
    return [Word((node.text or b"").decode(errors="replace"), line, known=False)]


def _substituted(node: Node, source: str, names: Names, first: int) -> Word:
    """A shell script's folder, and a few programs that only change a text. What others print isn't known."""
    line = first + node.start_point.row
    body = source.strip("`").removeprefix("$(").removesuffix(")").strip()
    if body == "pwd":
        return Word(".", line)
    if "dirname" in body and re.search(r"\$\{?(?:0|BASH_SOURCE)", body):
        up = len(re.findall(r"/\.\.", body)) + body.count("dirname") - 1
        return Word(os.path.normpath(names.file.parent / _up(up)), line)
    commands = [child for child in node.named_children if child.type == "command"]
    given = [w for child in commands[:1] for part in child.named_children for w in _given(part, names, first)]
    if len(commands) == 1 and len(given) > 1 and all(word.known for word in given):
        if given[0].text == "echo" and not given[1].text.startswith("-"):
            return joined(given[1:], line)
        if given[0].text in ("basename", "dirname"):
            part = os.path.basename if given[0].text == "basename" else os.path.dirname
            return Word(part(given[1].text.rstrip("/")), line)
    return Word(source, line, known=False)


def _given(node: Node, names: Names, first: int) -> list[Word]:
    return words(node.named_children[0] if node.type == "command_name" else node, names, first)


def _up(count: int) -> str:
    return "/".join([".."] * count) or "."


def _arithmetic(node: Node, source: str, names: Names, first: int) -> Word:
    """``$((A * B))`` of whole numbers."""
    line = first + node.start_point.row
    body = source.removeprefix("$((").removesuffix("))")

    def known(match: re.Match[str]) -> str:
        found = names.get(match[1], line)
        return found[0].text if found and found[0].known else match[0]

    filled = re.sub(r"\$?\{?([A-Za-z_]\w*)\}?", known, body).replace("/", "//").strip()
    try:
        value = _folded(ast.parse(filled, mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError):
        return Word(source, line, known=False)
    return Word(str(value), line)


def _folded(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int) and abs(node.value) < 1 << 40:
        return node.value
    do = _ARITHMETIC.get(type(node.op)) if isinstance(node, ast.BinOp) else None
    if do is None or not isinstance(node, ast.BinOp):
        raise ValueError("not a sum of whole numbers")
    return do(_folded(node.left), _folded(node.right))
