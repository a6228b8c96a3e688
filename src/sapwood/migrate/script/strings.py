"""Strings that a script puts together, and what tokenizers make of them."""

from __future__ import annotations

import ast
from string import Formatter
from typing import Any

from sapwood.migrate.script.access import item
from sapwood.migrate.script.expressions import ids_of, settle
from sapwood.migrate.script.found import Walker
from sapwood.migrate.script.loops import elements
from sapwood.migrate.script.values import (
    MAX_TEXT,
    Attr,
    Call,
    Chat,
    Coded,
    Encoded,
    Field,
    Ids,
    Part,
    Row,
    Special,
    Text,
    Unknown,
    as_ids,
    as_text,
    concat,
    dotted,
    is_plain,
    joined,
)

STRINGS = {"strip", "lstrip", "rstrip", "lower", "upper", "replace", "join", "format", "split", "format_map",
           "title", "startswith", "endswith", "removeprefix", "removesuffix", "splitlines"}  # fmt: skip


def is_tokenizer(value: Any) -> bool:
    """Whether a value is a tokenizer, by what made it or by its name."""
    if isinstance(value, Call):
        return ("okenizer" in value.name and value.last == "from_pretrained") or value.last in (
            "get_chat_template",
            "build_tokenizer",
        )
    if isinstance(value, Attr):
        return value.name.strip("_") in ("tokenizer", "tok") or (
            value.name == "tokenizer" and isinstance(value.of, Call)
        )
    if isinstance(value, Unknown):
        return value.text.rpartition(".")[2].rstrip("_") in ("tokenizer", "tok", "processor")
    return False


def string_method(
    machine: Walker, of: Any, name: str, args: list[Any], kwargs: dict[str, Any], node: ast.Call
) -> Any:
    line = node.lineno
    if name == "join":
        return _join(of, args[0] if args else [], line)
    if name in ("format", "format_map"):
        return _formatted(of, args, kwargs, line)
    grown = (
        len(of) * max((len(a) for a in args if isinstance(a, str)), default=1) if isinstance(of, str) else 0
    )
    if isinstance(of, str) and all(map(is_plain, args)) and grown <= MAX_TEXT << 6:
        try:
            return getattr(of, name)(*args)
        except (TypeError, ValueError):
            return Unknown(ast.unparse(node)[:200], line)
    if isinstance(of, Text) and name in ("lstrip", "strip", "rstrip"):
        return _trimmed(of, name)
    if isinstance(of, (Text, Field)) and name in ("lower", "upper", "replace", "title"):
        machine.script.guessed.append((ast.unparse(node), line))
        return of
    return of if name in ("strip", "lstrip", "rstrip") else Unknown(ast.unparse(node)[:200], line)


def _trimmed(text: Text, name: str) -> Any:
    parts = list(text.parts)
    if name != "rstrip" and parts and isinstance(parts[0], str):
        parts[0] = parts[0].lstrip()
    if name != "lstrip" and parts and isinstance(parts[-1], str):
        parts[-1] = parts[-1].rstrip()
    return settle(joined(iter(parts), text.line))


def _join(glue: Any, values: Any, line: int) -> Any:
    items = elements(values, ast.Constant(str(dotted(values)), lineno=line, col_offset=0))
    text = as_text("")
    for i, value in enumerate(items):
        text = concat(concat(text, glue if i else ""), value, line)
    return settle(text)


def _formatted(of: Any, args: list[Any], kwargs: dict[str, Any], line: int) -> Any:
    parts: list[Part] = []
    row, count = kwargs.get("**", args[0] if args and isinstance(args[0], (Row, dict)) else None), 0
    for part in as_text(of).parts:
        if not isinstance(part, str):
            parts.append(part)
            continue
        try:
            pieces = list(Formatter().parse(part))
        except ValueError:
            return Unknown(part[:80], line)
        for literal, name, _, _ in pieces:
            parts.append(literal)
            if name is None:
                continue
            if name == "" or name.isdigit():
                at = count if name == "" else int(name)
                count += 1
                value = args[at] if at < len(args) else Unknown(f"{{{name}}}", line)
            else:
                value = kwargs[name] if name in kwargs else item(row, name, line)
            parts += as_text(value, line).parts
    return settle(joined(iter(parts), line))


# --- tokenizers -------------------------------------------------------------------------------------------


def tokenize(args: list[Any], kwargs: dict[str, Any], line: int) -> Any:
    text = args[0] if args else kwargs.get("text", Unknown("a text", line))
    return Coded(_ids(text, kwargs, line))


def _ids(text: Any, kwargs: dict[str, Any], line: int) -> Ids:
    """As transformers 5 has it, `max_length` alone cuts too; cuts is whether truncation was asked for."""
    off = kwargs.get("truncation") in (False, "do_not_truncate") and "truncation" in kwargs
    limit = None if off else kwargs.get("max_length")
    return ids_of(
        text,
        specials=kwargs.get("add_special_tokens", True) is not False,
        limit=limit if limit is not None or "truncation" not in kwargs or off else "model_max_length",
        cuts=bool(kwargs.get("truncation")),
        padding=kwargs.get("padding"),
        line=line,
    )


def tokenizer_method(name: str, args: list[Any], kwargs: dict[str, Any], line: int) -> tuple[bool, Any]:
    if name == "encode":
        return True, _ids(args[0] if args else kwargs.get("text"), kwargs, line)
    if name in ("get_command", "convert_tokens_to_ids") and args and isinstance(args[0], str):
        return True, Special(args[0], line)
    if name == "tokenize":
        return True, _ids(args[0] if args else Unknown("a text", line), {"add_special_tokens": False}, line)
    if name == "convert_tokens_to_ids" and args and as_ids(args[0]) is not None:
        return True, as_ids(args[0])
    if name == "apply_chat_template":
        return True, _chat(args, kwargs, line)
    return False, None


def _chat(args: list[Any], kwargs: dict[str, Any], line: int) -> Any:
    messages = (
        args[0] if args else kwargs.get("conversation", kwargs.get("messages", Unknown("messages", line)))
    )
    chat = Chat(messages, bool(kwargs.get("add_generation_prompt", False)), line)
    if kwargs.get("tokenize", True) is False:
        return Text((chat,), line)
    ids = Ids(
        (
            Encoded(
                Text((chat,), line),
                False,
                kwargs.get("max_length"),
                bool(kwargs.get("truncation")),
                None,
                line,
            ),
        )
    )
    return Coded(ids) if kwargs.get("return_dict") else ids
