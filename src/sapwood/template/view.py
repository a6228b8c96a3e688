"""One conversation as its template shows it: the text of its first messages, and which part of it is the
row's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sapwood.errors import DataError
from sapwood.template import content as row_content
from sapwood.template.encode import Encoder
from sapwood.template.jinja import ChatTemplate, TemplateFault
from sapwood.template.said.apart import map_between, pattern_of, taken_apart
from sapwood.types import Conversation, Message, Span

Dicts = list[dict[str, Any]]
# What a template writes around the contents of messages with these roles, nothing if that can't be told;
# rows alike are located by it.
Skeletons = dict[tuple[bool, tuple[str, ...]], tuple[str, ...]]
MAX_SKELETONS = 1000


class View:
    """Texts that are asked for twice are rendered once."""

    def __init__(
        self,
        conversation: Conversation,
        chat: ChatTemplate,
        encoder: Encoder,
        special: Mapping[str, str],
        skeletons: Skeletons | None = None,
        meant: Sequence[str] = (),
        quick: bool = False,
    ) -> None:
        """``meant``: control text that an answer may hold and then means. ``quick``: a text is guessed from
        one of another conversation with the same roles, if there is nothing but their contents in it."""
        self.row = conversation.row
        self._messages = as_dicts(conversation.messages)
        self._tools = plain(conversation.tools) or None
        self._chat = chat
        self._encoder = encoder
        self._special = special
        self._meant = meant
        self._skeletons: Skeletons = {} if skeletons is None else skeletons
        self._quick = quick and not chat.marked
        self._texts: dict[tuple[int, bool], str] = {}

    def text(self, upto: int, prompt: bool = False) -> str:
        """The first ``upto`` messages; with ``prompt``, up to where the model is to write."""
        if (upto, prompt) not in self._texts:
            filled = self._filled(upto, prompt) if self._quick else None
            self._texts[upto, prompt] = filled or self._render(self._messages[:upto], self._tools, prompt)
        return self._texts[upto, prompt]

    def _filled(self, upto: int, prompt: bool) -> str | None:
        """The guess; None if there is none."""
        contents = self._plain_turns(upto)
        if contents is None or any(map(self._encoder.may_hold_end, contents)):
            return None
        shape = self._shape(upto, prompt)
        skeleton = self._skeletons.get(shape)
        if skeleton is None and len(self._skeletons) < MAX_SKELETONS:
            text = self._texts[upto, prompt] = self._render(self._messages[:upto], self._tools, prompt)
            self.content(text, upto, prompt)
            self._skeletons.setdefault(shape, ())  # asked once
            return text
        if not skeleton:
            return None
        return "".join(itertools.chain.from_iterable(zip(skeleton, [*contents, ""], strict=True)))

    def _shape(self, upto: int, prompt: bool) -> tuple[bool, tuple[str, ...]]:
        return prompt, tuple(message["role"] for message in self._messages[:upto])

    def marked_text(self, upto: int) -> tuple[str, dict[int, tuple[int, int]]]:
        """The text, and the template's own generation marks by message, if they tell all answers apart."""
        if not self._chat.marked:
            return self.text(upto), {}
        variables = self._variables(self._messages[:upto], self._tools, False)
        try:
            text, ranges = self._chat.render_marked(variables)
        except TemplateFault as fault:
            raise self._refusal(fault) from None
        answers = [i for i, message in enumerate(self._messages[:upto]) if message["role"] == "assistant"]
        self._texts[upto, False] = text
        return text, dict(zip(answers, ranges, strict=True)) if len(answers) == len(ranges) else {}

    def content(self, text: str, upto: int, prompt: bool = False) -> tuple[Span, ...] | None:
        """Where the row's own text stands in ``text`` (the rendering of the first ``upto`` messages).

        None if it can't be shown, which is harmless: the control tokens are then proven to be the
        template's. Raises DataError if they aren't.
        """
        encoder = self._encoder
        own = self._own_control(upto, prompt)
        plain_turns = self._plain_turns(upto) if not own else None
        shape = self._shape(upto, prompt)
        if plain_turns is not None and (spans := _fitted(text, plain_turns, self._skeletons.get(shape))):
            return spans
        self._refuse_control_keys()
        marks = row_content.pick_marks(text)
        if marks is not None:
            opening, closing = marks
            pieces: set[str] = set()

            def mark(piece: str) -> str:
                pieces.add(piece)
                return f"{opening}{piece}{closing}"

            marked = self._changed(upto, prompt, mark, own)
            spans = row_content.locate(text, marked, marks, pieces) if marked is not None else None
            if spans is not None:
                found = [text[span.start : span.stop] for span in spans]
                if found == plain_turns and len(self._skeletons) < MAX_SKELETONS:
                    self._skeletons[shape] = _between(text, spans)
                return spans
        neutral = self._changed(upto, prompt, lambda piece: "x", own)
        ours = encoder.control_ids(encoder.encode(text).ids)
        if neutral is not None:
            theirs = encoder.control_ids(encoder.encode(neutral).ids)
            if ours.tolist() == theirs.tolist():
                return None
        raise DataError(
            "[control] the row has text spelled like a control token, and the template changes that text",
            str(self.row),
            "sapwood can't tell which control tokens are the template's and which are the row's",
            "put reasoning into the message's own field, and remove the control text",
        )

    def _plain_turns(self, upto: int) -> list[str] | None:
        """The contents, if there is nothing else to a turn and no blank edge that a template may trim."""
        if self._tools:
            return None
        contents: list[str] = []
        for message in self._messages[:upto]:
            content = message["content"]
            if len(message) != 2 or not content or content[0].isspace() or content[-1].isspace():
                return None
            contents.append(content)
        return contents

    def _own_control(self, upto: int, prompt: bool) -> dict[int, list[Span]]:
        """For each message, the spans of control text in its content that don't count as the row's. Such text
        is meant as a control token, or the template takes the content apart there."""
        found: dict[int, list[Span]] = {}
        messages = self._messages[:upto]
        for at, message in enumerate(messages):
            content = message["content"] or ""
            if not self._encoder.may_hold_end(content):
                continue
            meant = {text for text in self._meant if text in content and message["role"] == "assistant"}
            asked = {text for text in self._encoder.control if text in content and text in self._chat.source}
            if not meant | asked:
                continue
            places: dict[str, list[Span]] = {}
            for match in pattern_of(meant | asked).finditer(content):
                places.setdefault(match[0], []).append(Span(match.start(), match.end()))
            own = [place for text, all_of in places.items() if text in meant for place in all_of]
            for text in places.keys() - meant:
                own += taken_apart(
                    messages,
                    at,
                    places[text],
                    lambda changed: self._tried(changed, prompt),
                    self._encoder.pattern,
                )
            if own:
                found[at] = sorted(own, key=lambda place: place.start)
        return found

    def _changed(
        self, upto: int, prompt: bool, change: Callable[[str], str], own: Mapping[int, Sequence[Span]]
    ) -> str | None:
        """The text with ``change`` applied to each piece of the row; ``own`` are no pieces of it."""
        worth = self._encoder.may_touch
        messages = row_content.map_content(self._messages[:upto], change, worth)
        for at, places in own.items():
            messages[at]["content"] = map_between(self._messages[at]["content"], places, change)
        return self._tried(messages, prompt, row_content.map_strings(self._tools, change, worth))

    def _tried(self, messages: Dicts, prompt: bool, tools: Any = None) -> str | None:
        """The template's text; None if the template refuses."""
        try:
            return self._chat.render(self._variables(messages, tools or self._tools, prompt))
        except TemplateFault:
            return None

    def _refuse_control_keys(self) -> None:
        calls = [message.get("tool_calls") for message in self._messages]
        if not self._tools and not any(calls):
            return
        for key in row_content.keys_of([self._tools, calls]):
            if any(spelling in key for spelling in self._encoder.control):
                raise DataError(
                    f"[control] a tool's key is spelled like a control token: {key!r}",
                    str(self.row),
                    "the model would see a control token that the template didn't write",
                    "rename the key",
                )

    def _render(self, messages: Dicts, tools: Any, prompt: bool) -> str:
        try:
            return self._chat.render(self._variables(messages, tools, prompt))
        except TemplateFault as fault:
            raise self._refusal(fault) from None

    def _refusal(self, fault: TemplateFault) -> DataError:
        roles = [message["role"] for message in self._messages]
        shown = ", ".join(roles[:8]) + (" …" if len(roles) > 8 else "")
        return DataError(
            "[template] the chat template refuses this row",
            str(self.row),
            str(fault),
            f"the row's roles are {shown}; edit it, or choose another template.name",
        )

    def _variables(self, messages: Dicts, tools: Any, prompt: bool) -> dict[str, Any]:
        """What transformers hands to the template, key by key."""
        return {
            "messages": [_with_aliases(message) for message in messages],
            "tools": tools,
            "documents": None,
            "add_generation_prompt": prompt,
            **self._special,
        }


def _between(text: str, spans: Sequence[Span]) -> tuple[str, ...]:
    starts = [0, *(span.stop for span in spans)]
    stops = [*(span.start for span in spans), len(text)]
    return tuple(text[start:stop] for start, stop in zip(starts, stops, strict=True))


def _fitted(text: str, contents: Sequence[str], skeleton: tuple[str, ...] | None) -> tuple[Span, ...] | None:
    """The spans of the contents, if the text is the skeleton filled with the contents; otherwise None."""
    if not skeleton:
        return None
    spans: list[Span] = []
    at = 0
    for before, content in zip(skeleton, contents, strict=False):
        start = at + len(before)
        at = start + len(content)
        spans.append(Span(start, at))
        if not (text.startswith(before, start - len(before)) and text.startswith(content, start)):
            return None
    return tuple(spans) if text[at:] == skeleton[-1] else None


def as_dicts(messages: Sequence[Message]) -> Dicts:
    """Messages as transformers' chat templates take them."""
    return [_as_dict(message) for message in messages]


def plain(value: Any) -> Any:
    """JSON data in plain dicts and lists, which is all that a template may see."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _as_dict(message: Message) -> dict[str, Any]:
    out: dict[str, Any] = {"role": message.role, "content": message.content}
    for key in ("name", "tool_call_id"):
        if (value := getattr(message, key)) is not None:
            out[key] = value
    if message.reasoning is not None:
        out["reasoning_content"] = message.reasoning
    if message.tool_calls:
        out["tool_calls"] = plain(message.tool_calls)
    return out


def _with_aliases(message: dict[str, Any]) -> dict[str, Any]:
    """Reasoning under the second name that transformers gives it."""
    reasoning = message.get("reasoning_content")
    return message if reasoning is None else {"thinking": reasoning, **message}
