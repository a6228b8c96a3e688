"""Control text inside a message that is the template's all the same.

Some templates look for control text in an answer, take the answer apart there and put it together anew:
Qwen 3 splits at ``</think>`` and writes that token itself. What such a template writes is no text of the row.
Which text that is, is asked of the template: the same message with another word in its place is rendered too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sapwood.template.content import NONCHARACTERS

Render = Callable[[list[Any]], str | None]  # None where the template refuses


@dataclass(frozen=True, slots=True)
class Around:
    """A message's content in a text: what stands between the nearest control token and it, the content as
    written, and what follows up to the next control token."""

    before: str
    inside: str
    behind: str


def is_taken_apart(
    messages: Sequence[Mapping[str, Any]], at: int, spelling: str, render: Render, control: re.Pattern[str]
) -> bool:
    """Does the template do anything but copy ``spelling`` where the content of message ``at`` holds it?"""
    content = messages[at]["content"]
    word = _word(content)
    other = content.replace(spelling, word)
    text, changed = render([*messages]), render(_with(messages, at, other))
    if text is not None and changed is not None and changed.replace(word, spelling) == text:
        return False
    # Another word may change a text elsewhere: what decides is how this message is written.
    here, there = (_around(messages, at, given, render, control) for given in (content, other))
    if here is None or there is None:
        return True
    return here != replace(there, inside=there.inside.replace(word, spelling))


def _with(messages: Sequence[Mapping[str, Any]], at: int, content: str) -> list[dict[str, Any]]:
    changed = [dict(message) for message in messages]
    changed[at]["content"] = content
    return changed


def pattern_of(spellings: Iterable[str]) -> re.Pattern[str]:
    """Any of them, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(spellings, key=len, reverse=True))))


def map_between(text: str, pattern: re.Pattern[str], change: Callable[[str], str]) -> str:
    """The text with ``change`` applied to what stands between the matches, blank edges left alone."""
    out: list[str] = []
    at = 0
    for match in pattern.finditer(text):
        out += [_inside_blanks(text[at : match.start()], change), match[0]]
        at = match.end()
    return "".join([*out, _inside_blanks(text[at:], change)])


def _inside_blanks(text: str, change: Callable[[str], str]) -> str:
    core = text.strip()
    return text.replace(core, change(core), 1) if core else text


def _word(content: str) -> str:
    word = "qz"
    while word in content:
        word += "qz"
    return word


def _around(
    messages: Sequence[Mapping[str, Any]], at: int, content: str, render: Render, control: re.Pattern[str]
) -> Around | None:
    """None where the template refuses, or where it doesn't write the content in one piece."""
    opening, closing = NONCHARACTERS[-2:]
    text = render(_with(messages, at, _inside_blanks(content, lambda core: f"{opening}{core}{closing}")))
    if text is None or text.count(opening) != 1 or text.count(closing) != 1:
        return None
    before, _, rest = text.partition(opening)
    inside, _, behind = rest.partition(closing)
    last = max([match.start() for match in control.finditer(before)], default=0)
    following = control.search(behind)
    return Around(before[last:], inside, behind[: following.end()] if following else behind)
