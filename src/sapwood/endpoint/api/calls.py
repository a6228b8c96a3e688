"""How a model calls tools and shows its reasoning; and answers read in that form.

The model's own template is asked, so there is no table of families. The template is given a call with a name
that nobody uses. The text that it writes around that name is the form. A form without JSON stays unknown, and
its calls stay text.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sapwood.errors import DataError
from sapwood.template.render import Renderer
from sapwood.template.said.fit import KEY, NAME, VALUE
from sapwood.template.said.opened import TAG, closing_of
from sapwood.types import Message

THOUGHT = "zqthought"
Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class CallForm:
    """``opening`` and ``closing``: what stands around the JSON of one call, or of a list of them; ``name``
    and ``arguments``: its keys; ``listed``: the JSON is a list."""

    opening: str
    closing: str
    name: str
    arguments: str
    listed: bool

    def read(self, text: str) -> list[tuple[str, str]] | None:
        """(name, arguments as JSON) of each call in ``text``; None if it isn't calls alone."""
        calls: list[tuple[str, str]] = []
        for value in _values(text, self.opening.strip(), self.closing.strip()):
            for one in value if isinstance(value, list) else [value]:
                if not isinstance(one, dict) or not isinstance(one.get(self.name), str):
                    return None
                arguments = one.get(self.arguments, {})
                told = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
                calls.append((one[self.name], told))
        return calls or None


@dataclass(frozen=True, slots=True)
class Thinking:
    """The tags around reasoning."""

    opening: str
    closing: str


def call_form(renderer: Renderer, tools: Tools) -> CallForm | None:
    """The form of this template's calls; None if it has none that can be read."""
    call = {"id": "zqcall001", "type": "function", "function": {"name": NAME, "arguments": {KEY: VALUE}}}
    asked = (Message("user", "1"),)
    try:
        prompt = renderer.prompt_text(asked, tools)
        text = renderer.text_of((*asked, Message("assistant", None, tool_calls=(call,))), tools)
    except DataError:
        return None
    answer = text.removeprefix(prompt) if text.startswith(prompt) else text[text.find("1") :]
    answer = answer.replace(renderer.stop_text, "")
    for start, value, end in _found(answer):
        one = value[0] if isinstance(value, list) and value else value
        if not isinstance(one, dict):
            continue
        name = next((key for key, held in one.items() if held == NAME), None)
        arguments = next((key for key, held in one.items() if VALUE in str(held)), None)
        if name is not None and arguments is not None:
            closing = answer[end:].strip()
            return CallForm(answer[:start].strip(), closing, name, arguments, isinstance(value, list))
    return None


def keeps_tools(renderer: Renderer, tools: Tools) -> bool:
    """Whether the template shows the model its tools."""
    asked = (Message("user", "1"),)
    try:
        text = renderer.prompt_text(asked, tools)
    except DataError:
        return False
    return all(str(tool.get("function", tool).get("name")) in text for tool in tools)


def thinking_of(renderer: Renderer) -> Thinking | None:
    """The tags in which this template shows reasoning, or in which it opens an answer."""
    asked = (Message("user", "1"),)
    texts: list[str] = []
    with contextlib.suppress(DataError):
        before, found, _ = renderer.text_of((*asked, Message("assistant", "2", reasoning=THOUGHT))).partition(
            THOUGHT
        )
        texts += [before] if found else []
    with contextlib.suppress(DataError):
        texts.append(renderer.prompt_text(asked))
    for text in texts:
        match = re.search(rf"{TAG.pattern}\s*$", text)
        closing = closing_of(match[0]) if match else None
        if match and closing and closing in renderer.template:
            return Thinking(match[0].strip(), closing)
    return None


def new_id() -> str:
    """The id of a call. Mistral's templates take exactly nine letters and digits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


def _values(text: str, opening: str, closing: str) -> Iterator[Any]:
    """Every JSON value in the place of a call; None for a text there that is no JSON."""
    parts = text.split(opening)[1:] if opening else [text]
    for part in parts:
        rest = part.strip()
        while rest:
            try:
                value, end = json.JSONDecoder().raw_decode(rest)
            except (ValueError, RecursionError):
                yield None
                return
            yield value
            rest = rest[end:].strip().removeprefix(closing).strip(" \n\r\t;,")


def _found(text: str) -> Iterator[tuple[int, Any, int]]:
    """(start, value, end) of each JSON object or list in a text."""
    for start, character in enumerate(text):
        if character in "{[":
            try:
                value, length = json.JSONDecoder().raw_decode(text[start:])
            except (ValueError, RecursionError):
                continue
            yield start, value, start + length
