"""An answer as it comes, taken apart: reasoning, words, calls of tools."""

from __future__ import annotations

from dataclasses import dataclass, field

from sapwood.endpoint.api.calls import CallForm, Thinking


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an answer: reasoning, or words, or calls. ``calls`` come with the last part."""

    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


class Reader:
    """Text in, parts out. Text that may be the beginning of a tag is held back until that is decided.

    opened: the prompt has opened the block of reasoning already.
    """

    def __init__(self, thinking: Thinking | None, form: CallForm | None, *, opened: bool = False) -> None:
        self._thinking = thinking
        self._form = form
        self._state = "reasoning" if opened else "start" if thinking is not None else "content"
        self._held = ""
        self._called = ""
        self._fresh = True  # no word of the answer has been shown

    def feed(self, text: str) -> Part:
        self._held += text
        content, reasoning = "", ""
        while True:
            before = (self._state, self._held)
            if self._state == "start":
                self._begin()
            elif self._state == "reasoning":
                reasoning += self._think()
            elif self._state == "content":
                content += self._say()
            else:
                self._called, self._held = self._called + self._held, ""
            if (self._state, self._held) == before:
                return Part(content, reasoning)

    def finish(self) -> Part:
        """The rest. Text that was held back is no tag, and calls that can't be read are words."""
        rest, self._held = self._held, ""
        if self._state == "reasoning":
            return Part(reasoning=rest)
        if self._state != "calls":
            return Part(content=rest)
        calls = self._form.read(self._called) if self._form is not None else None
        return Part(calls=calls) if calls else Part(content=self._called + rest)

    def _begin(self) -> None:
        assert self._thinking is not None
        text, tag = self._held.lstrip(), self._thinking.opening
        if text.startswith(tag):
            self._state, self._held = "reasoning", text[len(tag) :]
        elif text and not tag.startswith(text):
            self._state = "content"

    def _think(self) -> str:
        assert self._thinking is not None
        shown, tag, rest = self._split(self._held, self._thinking.closing)
        self._held = rest
        if tag:
            self._state = "content"
        return shown

    def _say(self) -> str:
        if self._fresh and self._thinking is not None:
            self._held = self._held.lstrip("\n")  # between the reasoning and the answer
        opening = self._form.opening if self._form is not None else ""
        if self._form is not None and not opening:
            return self._say_or_json()
        if self._form is None:
            shown, self._held = self._held, ""
        else:
            shown, tag, rest = self._split(self._held, opening)
            self._held = tag + rest
            self._state = "calls" if tag else "content"
        self._fresh = self._fresh and not shown
        return shown

    def _say_or_json(self) -> str:
        """The words so far, in a form of calls that has no mark of its own: an answer that begins as JSON is
        a call."""
        text = self._held.lstrip()
        if self._fresh and not text:
            return ""
        if self._fresh and text[0] in "{[":
            self._state = "calls"
            return ""
        self._fresh = False
        shown, self._held = self._held, ""
        return shown

    @staticmethod
    def _split(text: str, tag: str) -> tuple[str, str, str]:
        """(text before the tag, the tag or nothing, what is left to look at)."""
        before, found, after = text.partition(tag)
        if found:
            return before, found, after
        sizes = range(min(len(tag) - 1, len(text)), 0, -1)
        size = next((size for size in sizes if tag.startswith(text[-size:])), 0)
        return text[: len(text) - size], "", text[len(text) - size :]
