"""Control text inside a message that the template nevertheless writes itself.

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
from sapwood.types import Span

MOST = 32  # places of one spelling in one message that are asked about; later ones are the row's
Render = Callable[[list[Any]], str | None]  # None if the template refuses


@dataclass(frozen=True, slots=True)
class Around:
    """A message's content in a text: what stands between the nearest control token and it, the content as
    written, and what follows up to the next control token."""

    before: str
    inside: str
    behind: str


def taken_apart(
    messages: Sequence[Mapping[str, Any]],
    at: int,
    places: Sequence[Span],
    render: Render,
    control: re.Pattern[str],
) -> list[Span]:
    """Those of ``places``, at which the content of message ``at`` has one spelling, that the template does
    anything but copy. A template may take a text apart at one of them, and copy the next."""
    content = messages[at]["content"]
    word, text = _word(content), render([*messages])

    def is_copied(*changed: Span) -> bool:
        other = _replaced(content, changed, word)
        spelling = content[changed[0].start : changed[0].stop]
        found = render(_with(messages, at, other))
        if text is not None and found is not None and found.replace(word, spelling) == text:
            return True
        # Another word may change the text in other places. Only the way this message is written decides.
        here, there = (_around(messages, at, given, render, control) for given in (content, other))
        if here is None or there is None:
            return False
        return here == replace(there, inside=there.inside.replace(word, spelling))

    if not places or is_copied(*places):
        return []
    return [*places] if len(places) == 1 else [one for one in places[:MOST] if not is_copied(one)]


def _replaced(content: str, places: Sequence[Span], word: str) -> str:
    starts, stops = [0, *(one.stop for one in places)], [*(one.start for one in places), len(content)]
    return word.join(content[start:stop] for start, stop in zip(starts, stops, strict=True))


def _with(messages: Sequence[Mapping[str, Any]], at: int, content: str) -> list[dict[str, Any]]:
    changed = [dict(message) for message in messages]
    changed[at]["content"] = content
    return changed


def pattern_of(spellings: Iterable[str]) -> re.Pattern[str]:
    """A pattern of all spellings, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(spellings, key=len, reverse=True))))


def map_between(text: str, places: Sequence[Span], change: Callable[[str], str]) -> str:
    """The text with ``change`` applied to what stands between the places, blank edges left alone."""
    out: list[str] = []
    at = 0
    for place in places:
        out += [_inside_blanks(text[at : place.start], change), text[place.start : place.stop]]
        at = place.stop
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
    """The text around a content; None if the template refuses, or doesn't write the content in one piece."""
    opening, closing = NONCHARACTERS[-2:]
    text = render(_with(messages, at, _inside_blanks(content, lambda core: f"{opening}{core}{closing}")))
    if text is None or text.count(opening) != 1 or text.count(closing) != 1:
        return None
    before, _, rest = text.partition(opening)
    inside, _, behind = rest.partition(closing)
    last = max([match.start() for match in control.finditer(before)], default=0)
    following = control.search(behind)
    return Around(before[last:], inside, behind[: following.end()] if following else behind)
