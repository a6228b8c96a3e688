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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import DataError
from sapwood.template.content import NONCHARACTERS
from sapwood.template.render import Renderer, TrainOn
from sapwood.types import Conversation, Example, Message, RowId, Span

SAMPLE = 64
MAX_KNOWN = 20_000  # encoded parts that are kept


@dataclass(frozen=True, slots=True)
class Part:
    """A run of text between control tokens that holds contents, or what stands between two of those.

    ``ids``: int32, as bytes, where the part is the same in all rows; else ``texts`` stand around the messages
    ``contents``. ``lead``: ids of the part's beginning that belong to the prompt; what follows is learnt
    where ``trained``.
    """

    ids: bytes
    texts: tuple[str, ...] = ()
    contents: tuple[int, ...] = ()
    lead: bytes = b""
    trained: bool = False

    def filled(self, messages: Sequence[Message]) -> str:
        """The text with these contents."""
        out = [self.texts[0]]
        for i, text in zip(self.contents, self.texts[1:], strict=True):
            out += [messages[i].text, text]
        return "".join(out)


@dataclass(frozen=True, slots=True)
class Shape:
    """What all conversations of the same roles have in common. ``flags``: for each part its lead and the rest
    of it, whether it is learnt; ``own``: whether that is, and comes from the row."""

    parts: tuple[Part, ...]
    turns: int
    characters: int
    flags: tuple[bool, ...]
    own: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """The examples of the conversations at ``places``.

    ids: int32[tokens]; trained: bool[tokens]; lengths: int64[examples]; turns: trained ones of each;
    characters: of each text; first: no row of its kind came before.
    """

    places: list[int]
    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    turns: NDArray[np.int64]
    characters: NDArray[np.int64]
    first: NDArray[np.bool_]

    def example(self, at: int, row: RowId) -> Example:
        """That of ``places[at]``."""
        stop = int(self.lengths[: at + 1].sum())
        span = slice(stop - int(self.lengths[at]), stop)
        return Example(row, self.ids[span], self.trained[span])

    def equals(self, at: int, example: Example) -> bool:
        """Is that of ``places[at]`` the same?"""
        own = self.example(at, example.row)
        return np.array_equal(own.ids, example.ids) and np.array_equal(own.trained, example.trained)

    def only(self, keep: NDArray[np.bool_]) -> Made:
        """Those that are marked."""
        tokens = np.repeat(keep, self.lengths)
        places = [place for place, kept in zip(self.places, keep.tolist(), strict=True) if kept]
        lengths, turns, characters = self.lengths[keep], self.turns[keep], self.characters[keep]
        return Made(
            places, self.ids[tokens], self.trained[tokens], lengths, turns, characters, self.first[keep]
        )


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
        self._never = np.array([*renderer.stop_ids, *([pad] if pad is not None else [])], dtype=np.int32)
        self._shapes: dict[tuple[str, ...], Shape | None] = {}
        self._known: dict[str, bytes] = {}
        self._seen: set[int] = set()  # ids of shapes

    def examples(self, conversations: Sequence[Conversation]) -> Made:
        """Examples of those conversations that are of the simple kind."""
        every = "\0".join(message.text for one in conversations for message in one.messages)
        clean = not self._encoder.may_hold_end(every)
        rows: list[tuple[int, Shape]] = []
        texts: list[str] = []
        for place, conversation in enumerate(conversations):
            shape = self._shape_of(conversation, clean)
            if shape is not None:
                rows.append((place, shape))
                texts += [part.filled(conversation.messages) for part in shape.parts if part.contents]
        encoded = iter(self._encode(texts))
        pieces: list[bytes] = []
        flags: list[bool] = []
        own: list[bool] = []
        kept: list[tuple[int, Shape, int]] = []
        for place, shape in rows:
            found = self._pieces(shape, encoded)
            if found is not None:
                pieces += found
                flags += shape.flags
                own += shape.own
                kept.append((place, shape, len(found)))
        return self._made(conversations, kept, pieces, np.array([flags, own], dtype=np.bool_))

    def _encode(self, texts: list[str]) -> list[bytes]:
        if len(self._known) > MAX_KNOWN:
            self._known.clear()
        fresh = list(dict.fromkeys(text for text in texts if text not in self._known))
        self._known.update(zip(fresh, self._encoder.encode_parts(fresh), strict=True))
        return list(map(self._known.__getitem__, texts))

    def _pieces(self, shape: Shape, encoded: Iterator[bytes]) -> list[bytes] | None:
        """Two for each part, as the shape's flags: its lead and the rest; None where the lead isn't there."""
        out: list[bytes] = []
        right = True
        for part in shape.parts:
            ids = next(encoded) if part.contents else part.ids
            right = right and ids.startswith(part.lead)
            out += (part.lead, ids[len(part.lead) :] if part.lead else ids)
        return out if right else None

    def _made(
        self,
        conversations: Sequence[Conversation],
        rows: Sequence[tuple[int, Shape, int]],
        pieces: Sequence[bytes],
        flags: NDArray[np.bool_],
    ) -> Made:
        ids = np.frombuffer(b"".join(pieces), dtype=np.int32)
        sizes = np.fromiter(map(len, pieces), np.int64, len(pieces)) // ids.itemsize
        begins = np.cumsum([0, *(number for *_, number in rows)])
        ends = np.concatenate([[0], np.cumsum(sizes)])[begins]
        trained, own = (np.repeat(flag, sizes) for flag in flags)
        first: list[bool] = []
        for _, shape, _ in rows:
            first.append(id(shape) not in self._seen)
            self._seen.add(id(shape))
        characters = [
            shape.characters + sum([len(message.text) for message in conversations[place].messages])
            for place, shape, _ in rows
        ]
        made = Made(
            [place for place, *_ in rows],
            ids,
            trained,
            np.diff(ends),
            np.array([shape.turns for _, shape, _ in rows], np.int64),
            np.array(characters, np.int64),
            np.array(first, np.bool_),
        )
        doubtful = (ids >= self._vocab_rows) | (own & np.isin(ids, self._never))
        if not doubtful.any():
            return made
        return made.only(np.array([not doubtful[a:b].any() for a, b in itertools.pairwise(ends)], np.bool_))

    def _shape_of(self, conversation: Conversation, clean: bool) -> Shape | None:
        """``clean``: no character of the contents begins or ends a control token."""
        if conversation.tools or conversation.text is not None:
            return None
        may_touch = self._encoder.may_touch
        for message in conversation.messages:
            content = message.content
            if not content or content[0].isspace() or content[-1].isspace():
                return None
            if (not clean or len(content) <= self._encoder.longest) and may_touch(content):
                return None
            if message != Message(message.role, content):
                return None
        roles = tuple([message.role for message in conversation.messages])
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
                ids = np.array([self._encoder.control[text[span.start : span.stop]]], dtype=np.int32)
                learnt = any(s.start <= span.start < s.stop for s in spans)
                parts.append(Part(ids.tobytes(), trained=learnt))
            at = span.stop
        joined = _joined(parts)
        flags = [flag for part in joined for flag in (False, part.trained)]
        own = [flag for part in joined for flag in (False, part.trained and bool(part.contents))]
        return Shape(joined, len(found[0].turns), len(text) - len(roles), tuple(flags), tuple(own))

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
        ids = b"" if contents else self._encoder.encode_parts([body])[0]
        first = self._encoder.encode_parts([lead])[0] if lead else b""
        return Part(ids, texts, contents, first, trained)


def _joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts, with known ones that stand side by side as one."""
    out: list[Part] = []
    for part in parts:
        last = out[-1] if out else None
        known = last is not None and not (last.contents or part.contents or last.lead or part.lead)
        if last is not None and known and last.trained == part.trained:
            out[-1] = Part(last.ids + part.ids, trained=part.trained)
        else:
            out.append(part)
    return tuple(out)
