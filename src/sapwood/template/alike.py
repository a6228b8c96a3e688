"""Rows that are alike, without rendering each: what repeats is rendered, located and encoded once.

Where a template only copies what messages say (`blind`), conversations of the same roles differ in their
contents alone. And where its control tokens cut the text into parts that the tokenizer encodes alone, the ids
of a row are those of its parts, of which most are known:

    <|im_start|> user\\n{question} <|im_end|> \\n <|im_start|> assistant\\n{answer} <|im_end|>
    known        encoded          known         known        encoded             known

What can't be shown to be of this kind gets no answer here, and goes the long way. So do the first row of each
kind and one of `SAMPLE` rows, and the results are held against each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sapwood.errors import DataError
from sapwood.template.content import NONCHARACTERS
from sapwood.template.render import Renderer, TrainOn
from sapwood.types import Conversation, Example, Message, RowId, Span

SAMPLE = 64
MAX_KNOWN = 20_000  # encoded parts that are kept


@dataclass(frozen=True, slots=True)
class Part:
    """A run of text between control tokens, or such a token (``ids``, known).

    ``texts`` stand around the messages ``contents``. ``lead``: ids of the part's beginning that belongs to
    the prompt; the rest is learnt where ``trained``.
    """

    ids: tuple[int, ...] | None
    texts: tuple[str, ...]
    contents: tuple[int, ...]
    lead: tuple[int, ...]
    trained: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """What all conversations of the same roles have in common."""

    parts: tuple[Part, ...]
    turns: int
    characters: int


@dataclass(frozen=True, slots=True)
class Known:
    """An example, how many trained turns are in it, and how many characters its text has. ``first``: no row
    of its kind came before."""

    example: Example
    turns: int
    characters: int
    first: bool


class Alike:
    """Examples for conversations of which all but the contents is known.

    Args:
        renderer, train_on: as in `Renderer.renderings`. vocab_rows: rows of the model's embedding.
    """

    def __init__(self, renderer: Renderer, train_on: TrainOn, vocab_rows: int) -> None:
        self._renderer = renderer
        self._encoder = renderer.encoder
        self._train_on: TrainOn = train_on
        self._vocab_rows = vocab_rows
        pad = renderer.tokenizer.pad_token_id
        self._never = frozenset({*renderer.stop_ids, *([pad] if pad is not None else [])})
        self._shapes: dict[tuple[str, ...], Shape | None] = {}
        self._known: dict[str, list[int]] = {}
        self._seen: set[int] = set()  # ids of shapes

    def examples(self, conversations: Sequence[Conversation]) -> dict[int, Known]:
        """By position, the examples of those conversations that are of the simple kind."""
        rows: list[tuple[int, Shape, list[list[int] | str]]] = []
        for position, conversation in enumerate(conversations):
            shape = self._shape_of(conversation)
            if shape is not None:
                rows.append((position, shape, [_filled(part, conversation.messages) for part in shape.parts]))
        wanted = {
            text for _, _, texts in rows for text in texts if isinstance(text, str)
        } - self._known.keys()
        if len(self._known) > MAX_KNOWN:
            self._known.clear()
            wanted = {text for _, _, texts in rows for text in texts if isinstance(text, str)}
        fresh = list(wanted)
        self._known.update(zip(fresh, self._encoder.encode_parts(fresh), strict=True))
        found: dict[int, Known] = {}
        for position, shape, texts in rows:
            example = self._example(conversations[position].row, shape, texts)
            if example is not None:
                messages = conversations[position].messages
                characters = shape.characters + sum(len(message.content) for message in messages)
                first = id(shape) not in self._seen
                self._seen.add(id(shape))
                found[position] = Known(example, shape.turns, characters, first)
        return found

    def _example(self, row: RowId, shape: Shape, texts: Sequence[list[int] | str]) -> Example | None:
        ids: list[int] = []
        learnt: list[tuple[int, int]] = []
        for part, text in zip(shape.parts, texts, strict=True):
            own = self._known[text] if isinstance(text, str) else text
            if part.trained:
                lead = len(part.lead)
                if lead and tuple(own[:lead]) != part.lead:
                    return None
                if part.contents and not self._never.isdisjoint(own):
                    return None
                learnt.append((len(ids) + lead, len(ids) + len(own)))
            ids += own
        if max(ids) >= self._vocab_rows:
            return None
        trained = np.zeros(len(ids), dtype=np.bool_)
        for start, stop in learnt:
            trained[start:stop] = True
        return Example(row, np.array(ids, dtype=np.int32), trained)

    def _shape_of(self, conversation: Conversation) -> Shape | None:
        if conversation.tools or conversation.text is not None:
            return None
        may_touch = self._encoder.may_touch
        for message in conversation.messages:
            content = message.content
            if not content or content[0].isspace() or content[-1].isspace() or may_touch(content):
                return None
            if message.reasoning is not None or message.tool_calls or message.trained is not None:
                return None
        roles = tuple(message.role for message in conversation.messages)
        if roles not in self._shapes:
            self._shapes[roles] = self._make(roles)
        return self._shapes[roles]

    def _make(self, roles: Sequence[Any]) -> Shape | None:
        """The shape of conversations of these roles, read from one whose contents nobody writes."""
        if self._train_on == "all" or len(roles) > len(NONCHARACTERS) or not self._renderer.is_blind:
            return None
        marks = NONCHARACTERS[: len(roles)]
        messages = tuple(Message(role, mark) for role, mark in zip(roles, marks, strict=True))
        try:
            found = self._renderer.renderings(Conversation(RowId("a shape", 0), messages), self._train_on)
        except DataError:
            return None
        text, spans = found[0].rendered.text, found[0].rendered.spans
        if len(found) > 1 or found[0].upto < len(roles) or [char for char in text if char in marks] != marks:
            return None
        controls = list(self._encoder.find_controls(text))
        if not self._encoder.parts_alone([text[span.start : span.stop] for span in controls]):
            return None
        parts: list[Part] = []
        at = 0
        for span in [*controls, Span(len(text), len(text))]:
            if at < span.start:
                part = self._text_part(text, Span(at, span.start), spans, marks)
                if part is None:
                    return None
                parts.append(part)
            if span.start < span.stop:
                ids = (self._encoder.control[text[span.start : span.stop]],)
                parts.append(Part(ids, (), (), (), any(s.start <= span.start < s.stop for s in spans)))
            at = span.stop
        return Shape(tuple(parts), len(found[0].turns), len(text) - len(roles))

    def _text_part(self, text: str, own: Span, spans: Sequence[Span], marks: Sequence[str]) -> Part | None:
        body = text[own.start : own.stop]
        places = [i for i, char in enumerate(body) if char in marks]
        edges = [-1, *places, len(body)]
        texts = tuple(body[a + 1 : b] for a, b in itertools.pairwise(edges))
        contents = tuple(marks.index(body[i]) for i in places)
        inside = [s for s in spans if s.start < own.stop and s.stop > own.start]
        trained, lead = bool(inside), ""
        if trained:
            lead = body[: max(0, inside[0].start - own.start)]
            whole = len(inside) == 1 and inside[0].stop >= own.stop
            if not whole or any(mark in lead for mark in marks):
                return None
        ids = None if contents else tuple(self._encoder.encode_parts([body])[0])
        first = tuple(self._encoder.encode_parts([lead])[0]) if lead else ()
        return Part(ids, texts, contents, first, trained)


def _filled(part: Part, messages: Sequence[Message]) -> list[int] | str:
    if part.ids is not None:
        return list(part.ids)
    out = [part.texts[0]]
    for i, text in zip(part.contents, part.texts[1:], strict=True):
        out += [messages[i].content, text]
    return "".join(out)
