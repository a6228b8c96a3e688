"""Glaive's rows: a whole dialogue as one text, and the functions inside the system prompt."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_SPEAKER = re.compile(r"\s*(USER|ASSISTANT|A|FUNCTION RESPONSE):[ \t]?")
_ROLES = {"USER": "user", "ASSISTANT": "assistant", "A": "assistant", "FUNCTION RESPONSE": "tool"}
_END = "<|endoftext|>"
_CALL = re.compile(r"<functioncall>\s*(\{.*)", re.S)
_QUOTED = re.compile(r"\"arguments\":\s*'(.*)'\s*\}\s*$", re.S)


def unfold_dialogue(value: Mapping[str, Any], every: bool) -> list[dict[str, Any]]:
    """The row as turns and tools. What is no dialogue is handed on as it is, and refused then."""
    chat, system = value.get("chat"), value.get("system")
    turns = list(_turns(chat)) if isinstance(chat, str) else chat
    row: dict[str, Any] = {"messages": turns}
    if isinstance(system, str):
        system = system.strip().removeprefix("SYSTEM:").strip()
        instructions, functions = _functions(system)
        row = {**row, "system": instructions, **({"functions": functions} if functions else {})}
    rest = {key: item for key, item in value.items() if key not in ("chat", "system")}
    return [{**row, **rest}]


def _turns(chat: str) -> Iterator[dict[str, Any]]:
    for role, said in _speeches(chat):
        call = _CALL.search(said) if role == "assistant" else None
        if call is None:
            yield {"role": role, "content": said}
        else:
            yield {
                "role": role,
                "content": said[: call.start()].strip(),
                "function_call": _json(call.group(1)),
            }


def _speeches(text: str) -> Iterator[tuple[str | None, str]]:
    """(role, what was said). A speaker's name counts where a line begins, or behind an end mark."""
    borders = [
        match
        for match in _SPEAKER.finditer(text)
        if match.start() == 0 or "\n" in match.group() or text[: match.start()].endswith(_END)
    ]
    if not borders or text[: borders[0].start()].strip():
        yield None, text
        return
    ends = [*(match.start() for match in borders[1:]), len(text)]
    for match, end in zip(borders, ends, strict=True):
        yield _ROLES[match.group(1)], text[match.end() : end].strip().removesuffix(_END).strip()


def _json(call: str) -> str:
    """The call with its arguments as an object: they are written as JSON between single quotes."""
    call = call.strip()
    match = _QUOTED.search(call)
    return f'{call[: match.start()]}"arguments": {match.group(1)}}}' if match is not None else call


def _functions(system: str) -> tuple[str, list[Any]]:
    """(the prompt before them, the functions at its end); the whole prompt and none if it isn't so."""
    start = at = system.find("{")
    found: list[Any] = []
    decoder = json.JSONDecoder()
    while 0 <= at < len(system):
        try:
            one, end = decoder.raw_decode(system, at)
        except (ValueError, RecursionError):
            return system, []
        if not isinstance(one, dict) or "name" not in one:
            return system, []
        found.append(one)
        at = len(system) - len(system[end:].lstrip(" \n\t,-"))
    return (system[:start].rstrip(" \n-"), found) if found else (system, [])
