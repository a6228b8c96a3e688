"""What a row says must be in the text: every content, reasoning, call, argument and tool.

A template may have no place for one of them, and then drops it without a word. An earlier answer is shown as
inference would show it: its reasoning may be gone from it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sapwood.template.content import json_forms
from sapwood.template.said.fit import arguments_of, name_of, parsed
from sapwood.types import Conversation, Message, Rendered

THINK = r"</?think>"  # templates take these apart even if their tokenizers have no such token


@dataclass(frozen=True, slots=True)
class Lost:
    """Something that a text lacks. ``kind``: what messages are grouped by ("reasoning"); ``text``: what is
    missing."""

    kind: str
    text: str


class Keeping:
    """The check. ``control``: the spellings of the tokenizer's control tokens."""

    def __init__(self, control: re.Pattern[str]) -> None:
        self._control = re.compile(f"{control.pattern}|{THINK}")

    def lost(
        self, conversation: Conversation, rendered: Rendered, upto: int, turns: Sequence[int], whole: bool
    ) -> list[Lost]:
        """What the first ``upto`` messages say and the text doesn't; ``turns`` are learnt, in the spans."""
        messages = conversation.messages[:upto]
        if not conversation.tools and _is_copied(messages, rendered):
            return []
        learnt = {} if whole else dict(zip(turns, rendered.spans, strict=True))
        places = Counter(rendered.text[span.start : span.stop].strip() for span in rendered.content)
        found: list[Lost] = []
        for at, message in enumerate(messages):
            span = learnt.get(at)
            text = rendered.text if span is None else rendered.text[span.start : span.stop]
            if not self._has_content(message, text, places, is_learnt=whole or span is not None):
                found.append(Lost(_KINDS[message.role], message.text.strip()))
            if (whole or span is not None) and not _has(text, (message.reasoning or "").strip()):
                found.append(Lost("reasoning", (message.reasoning or "").strip()))
            found += [Lost("calls", piece) for piece in _of_calls(message, text) if not _has(text, piece)]
        tools = {piece for tool in conversation.tools for piece in _of_tool(tool)}
        found += [Lost("tools", piece) for piece in sorted(tools) if not _has(rendered.text, piece)]
        return found

    def _has_content(self, message: Message, text: str, places: Counter[str], *, is_learnt: bool) -> bool:
        core = message.text.strip()
        if not core:
            return True
        for form in (core, *json_forms(core)):
            if places[form] > 0:
                places[form] -= 1
                return True
        parts = [part.strip() for part in self._control.split(core)]
        parts = [part for part in parts if part]
        if len(parts) == 1 and parts[0] == core:
            # If contents were located, this one would be among them: a word of the template isn't the row's.
            return not places and _has(text, core)
        wanted = parts if is_learnt or message.role != "assistant" else parts[-1:]
        return all(_has(text, part) for part in wanted)


_KINDS = {"system": "system prompts", "user": "questions", "assistant": "answers", "tool": "tools' results"}


def _is_copied(messages: Sequence[Message], rendered: Rendered) -> bool:
    """Whether the row has nothing but contents, and each content was found in the text unchanged."""
    if len(rendered.content) != len(messages):
        return False
    for message, span in zip(messages, rendered.content, strict=True):
        if message.reasoning or message.tool_calls or not message.content:
            return False
        if rendered.text[span.start : span.stop] != message.content.strip():
            return False
    return True


def _has(text: str, piece: str) -> bool:
    return piece in text or any(form in text for form in json_forms(piece))


def _of_calls(message: Message, text: str) -> Iterator[str]:
    for call in message.tool_calls:
        yield name_of(call)
        arguments = arguments_of(call)
        if not isinstance(arguments, str) or arguments.strip() not in text:
            yield from _leaves(parsed(arguments))


def _leaves(value: Any) -> Iterator[str]:
    """Keys, strings and numbers of plain data: what every template that writes it must spell."""
    if isinstance(value, Mapping):
        for key, item in cast(Mapping[str, Any], value).items():
            yield key
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in cast(Sequence[Any], value):
            yield from _leaves(item)
    elif isinstance(value, str):
        yield value.strip()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield json.dumps(value)


def _of_tool(tool: Mapping[str, Any]) -> Iterator[str]:
    """The name of a tool, what it does, and the names of its parameters."""
    function = tool.get("function", tool)
    if not isinstance(function, Mapping):
        return
    known = cast(Mapping[str, Any], function)
    yield from (str(known[key]).strip() for key in ("name", "description") if known.get(key))
    parameters = known.get("parameters")
    if isinstance(parameters, Mapping):
        properties = cast(Mapping[str, Any], parameters).get("properties")
        if isinstance(properties, Mapping):
            yield from cast(Mapping[str, Any], properties)
