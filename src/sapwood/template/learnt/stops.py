"""The tokens on which an answer ends."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sapwood.errors import DataError
from sapwood.template.encode import Encoder
from sapwood.template.view import View
from sapwood.types import Conversation, Message, RowId, Span

PROBE = Conversation(RowId("a test conversation", 0), (Message("user", "1"), Message("assistant", "2")))


@dataclass(frozen=True, slots=True)
class Stops:
    """id, text: the one that ends a turn in this template; ids: every id that ends an answer, sorted."""

    id: int
    text: str
    ids: tuple[int, ...]
    _any: re.Pattern[str]

    @classmethod
    def of(cls, view: View, encoder: Encoder, tokenizer: Any, given: Sequence[int]) -> Stops:
        """``view``: of `PROBE`. ``given``: ids on which generation stops; the tokenizer's eos and the token
        that the template writes after an answer are added."""
        eos = tokenizer.eos_token_id
        known = sorted({int(id) for id in given} | ({int(eos)} if eos is not None else set()))
        own = _ending(view, encoder, tokenizer, known)
        ids = tuple(sorted({*known, own}))
        spellings = filter(None, map(tokenizer.convert_ids_to_tokens, ids))  # None: an id unknown to it
        pattern = "|".join(map(re.escape, sorted(spellings, key=len, reverse=True)))
        return cls(own, tokenizer.convert_ids_to_tokens(own), ids, re.compile(pattern))

    def beside(self, text: str, at: int) -> int | None:
        """Where the stop token ends that begins at ``at``."""
        match = self._any.match(text, at)
        return match.end() if match is not None else None

    def behind(self, text: str, at: int) -> int | None:
        """Where the first stop token from ``at`` on ends."""
        match = self._any.search(text, at)
        return match.end() if match is not None else None

    def after(self, text: str, content: Sequence[Span] | None, start: int, end: int) -> int | None:
        """Where the stop token of the turn in ``text[start:end]`` ends, if the template wrote one.

        That is the first stop token after the turn's content. If the content's place isn't known, the content
        has no control text, and the last stop token of the turn is taken.
        """
        if content is None:
            found = list(self._any.finditer(text, start, end))
            return found[-1].end() if found else None
        inside = [span.stop for span in content if start <= span.start < end]
        match = self._any.search(text, max([start, *inside]))
        return match.end() if match is not None and match.end() <= end else None


def _ending(view: View, encoder: Encoder, tokenizer: Any, known: Sequence[int]) -> int:
    """The token that this template writes after an answer; the tokenizer's eos if it writes none."""
    try:
        text = view.text(2)
        content = view.content(text, 2) or ()
    except DataError:  # the probe breaks a rule of this template: the rows will show the stop token
        text, content = "", ()
    if len(content) == 2:
        control = [encoder.encode(part).ids for part in (text[: content[1].start], text[content[1].stop :])]
        before, after = (encoder.control_ids(ids).tolist() for ids in control)
        for id in after:
            # The last one before the answer opens a turn; it can't be the one that ends it.
            if id in known or id not in before[-1:]:
                return id
    if tokenizer.eos_token_id is not None:
        return int(tokenizer.eos_token_id)
    if known:
        return known[0]
    raise DataError(
        "no stop token is known",
        "base.model",
        "the tokenizer names no eos token, and the template writes none after an answer",
        "add eos_token to the tokenizer's config",
    )
