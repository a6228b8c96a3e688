"""Text -> token ids, so that what came from a row never becomes a control token.

A tokenizer turns ``<|im_end|>`` into its control token wherever the text holds it, in the template's own part
or in a user's question. The fast path encodes the whole text in one call and looks, through the offsets, at
where each control token came from. Only if one touches the row's content does the slow path run: a twin of
the tokenizer in which every control token has another, unwritable spelling. The template's own control tokens
are respelled before the call, the content's are left alone and so stay plain text, and everything else (the
normalizer, a space that SentencePiece prepends, merges across a border) happens as in one call.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from sapwood.template.words import Words
from sapwood.types import Span

RESPELL = 0x100000  # private-use plane 16, 65,534 characters: one per control token in the slow path


@dataclass(frozen=True, slots=True)
class Encoded:
    """ids: int32[T]; offsets: int64[T, 2], half-open characters of the text that was encoded.

    ``held_control`` is True if the content was spelled like a control token and was kept as plain text.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    held_control: bool = False


class Encoder:
    """A tokenizer's own encoding, without control tokens that come from content.

    Control tokens are all added tokens, special or not, that aren't blank: runs of newlines or spaces
    (Gemma has them) mean the same from a row as from the template. So do ``words``, tokens that were added to
    be learnt as text.
    """

    def __init__(self, tokenizer: Any, words: Collection[str] = ()) -> None:
        # A private copy: transformers switches padding and truncation on its own one as callers ask.
        self._fast = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._fast.no_padding()
        self._fast.no_truncation()
        self._fast.encode_special_tokens = False
        self._added: dict[int, AddedToken] = self._fast.get_added_tokens_decoder()
        self.control: dict[str, int] = {
            token.content: id
            for id, token in self._added.items()
            if not _is_blank(token.content) and token.content not in words
        }
        self.special = {token.content for token in self._added.values() if token.special}
        top = max([self._fast.get_vocab_size(with_added_tokens=True), *self._added]) + 1
        self._is_control = np.zeros(top, dtype=np.bool_)
        self._is_control[list(self.control.values())] = True
        self.pattern = _longest_first(self.control)
        ends = {text[0] for text in self.control} | {text[-1] for text in self.control}
        self._ends = re.compile(f"[{''.join(map(re.escape, sorted(ends)))}]" if ends else "(?!)")
        self._all_spellings = "\0".join(self.control)
        self.longest = max(map(len, self.control), default=0)

    @cached_property
    def digest(self) -> str:
        """sha256 of the tokenizer as it encodes (no padding, no truncation)."""
        return hashlib.sha256(self._fast.to_str().encode()).hexdigest()

    def encode(self, text: str, content: Sequence[Span] = ()) -> Encoded:
        """Encode one text; ``content`` is where no control token may come from. See `encode_batch`."""
        return self.encode_batch([(text, content)])[0]

    def encode_batch(
        self, items: Sequence[tuple[str, Sequence[Span]]], *, quick: bool = False
    ) -> list[Encoded]:
        """Encode texts, each with the spans of its content. ``quick``: by their words if the tokenizer
        cuts text into such; that must be proven for each text.

        Raises ValueError if content can't be kept apart (it holds the slow path's private characters,
        or the tokenizer makes a control token from plain text).
        """
        texts = [text for text, _ in items]
        found = self._words.encode(texts) if quick and self._words is not None else self._exactly(texts)
        touched = self._touching(items, found)
        return [
            self.encode_apart(*item) if i in touched else Encoded(ids, offsets)
            for i, (item, (ids, offsets)) in enumerate(zip(items, found, strict=True))
        ]

    def _exactly(self, texts: Sequence[str]) -> list[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        encodings = self._fast.encode_batch(list(texts), add_special_tokens=False)
        return [
            (np.array(one.ids, dtype=np.int32), np.array(one.offsets, dtype=np.int64).reshape(-1, 2))
            for one in encodings
        ]

    def control_ids(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """The control tokens among ids, in order."""
        return ids[self._is_control[ids]]

    def may_touch(self, text: str) -> bool:
        """False if this piece of content can't be part of a control token, whatever stands beside it."""
        inside = len(text) <= self.longest and text in self._all_spellings
        return bool(text) and (inside or self.may_hold_end(text))

    def may_hold_end(self, text: str) -> bool:
        """False if no character of the text begins or ends a control token's spelling."""
        return self._ends.search(text) is not None

    @cached_property
    def _words(self) -> Words | None:
        return Words.of(self._fast, sorted(self.control, key=len, reverse=True))

    def _touching(
        self,
        items: Sequence[tuple[str, Sequence[Span]]],
        found: Sequence[tuple[NDArray[np.int32], NDArray[np.int64]]],
    ) -> set[int]:
        """Which texts have a control token on their content. All texts are asked at once, because most have
        none."""
        sizes = [len(text) + 1 for text, _ in items]
        begins = np.cumsum([0, *sizes])
        edges = np.zeros(begins[-1] + 1, np.int32)
        spans = [
            (at + span.start, at + span.stop)
            for at, (_, own) in zip(begins.tolist(), items, strict=False)
            for span in own
        ]
        bounds = np.array(spans, np.int64).reshape(-1, 2)
        np.add.at(edges, bounds[:, 0], 1)
        np.add.at(edges, bounds[:, 1], -1)
        covered = np.concatenate([[0], np.cumsum(np.cumsum(edges) > 0)])  # characters of content before each
        lengths = [len(ids) for ids, _ in found]
        control = self._is_control[np.concatenate([np.empty(0, np.int32), *(ids for ids, _ in found)])]
        row = np.repeat(np.arange(len(items)), lengths)[control]
        offsets = np.concatenate([np.empty((0, 2), np.int64), *(pairs for _, pairs in found)])[control]
        offsets = offsets + begins[row][:, None]
        doubtful = row[covered[offsets[:, 1]] > covered[offsets[:, 0]]]
        return {i for i in np.unique(doubtful).tolist() if self._touches(*found[i], *items[i])}

    def _touches(
        self, ids: NDArray[np.int32], offsets: NDArray[np.int64], text: str, content: Sequence[Span]
    ) -> bool:
        """Does a control token stand on content, wholly or across its border?"""
        if not content:
            return False
        starts = np.array([span.start for span in content])
        stops = np.array([span.stop for span in content])
        for start, stop in offsets[self._is_control[ids]]:
            # A token that swallows blanks beside it (lstrip, rstrip) covers them; they aren't its spelling.
            written = text[start:stop]
            start += len(written) - len(written.lstrip())
            stop = start + len(written.strip())
            at = int(np.searchsorted(stops, start, side="right"))
            if at < len(starts) and starts[at] < stop:
                return True
        return False

    # --- the slow path --------------------------------------------------------------------------------------

    def encode_apart(self, text: str, content: Sequence[Span]) -> Encoded:
        """Encode with control tokens from the template's text alone; equals the one call on benign text."""
        if any(RESPELL <= ord(char) < RESPELL + len(self._added) for char in set(text)):
            raise ValueError("the text holds private-use characters beside text spelled like a control token")
        respelled, starts = self._respell(text, content)
        encoding = self._twin.encode(respelled, add_special_tokens=False)
        ids = np.array([self._twin_ids.get(id, id) for id in encoding.ids], dtype=np.int32)
        if int(np.isin(encoding.ids, self._twin_controls).sum()) != len(starts[1]):
            raise ValueError("the tokenizer didn't keep the template's control tokens apart")
        if int(self._is_control[ids].sum()) != len(starts[1]):
            raise ValueError("the tokenizer makes a control token from plain text")
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return Encoded(ids, _unrespell(offsets, *starts), held_control=True)

    def _respell(
        self, text: str, content: Sequence[Span]
    ) -> tuple[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """The text with the template's control tokens as one character each.

        Also the places of those characters in the new text, and how many characters each one stands for.
        """
        out: list[str] = []
        places: list[int] = []
        lengths: list[int] = []
        length = at = 0
        for span in [*content, Span(len(text), len(text))]:
            for match in self.pattern.finditer(text, at, span.start):
                out += [text[at : match.start()], self._respelling[match[0]]]
                length += match.start() - at
                places.append(length)
                lengths.append(len(match[0]))
                length += 1
                at = match.end()
            out.append(text[at : span.stop])
            length += span.stop - at
            at = span.stop
        return "".join(out), (np.array(places, dtype=np.int64), np.array(lengths, dtype=np.int64))

    @cached_property
    def _respelling(self) -> dict[str, str]:
        return {text: chr(RESPELL + i) for i, text in enumerate(self.control)}

    @cached_property
    def _twin(self) -> Tokenizer:
        plain = json.loads(self._fast.to_str())
        plain["added_tokens"] = []
        plain["post_processor"] = None
        twin = Tokenizer.from_str(json.dumps(plain))
        twin.add_tokens([_respelled(token, self._respelling) for token in self._added.values()])
        return twin

    @cached_property
    def _twin_ids(self) -> dict[int, int]:
        """The twin's ids of added tokens -> the tokenizer's own."""
        return {
            self._twin_id(_respelled(token, self._respelling).content): id
            for id, token in self._added.items()
        }

    @cached_property
    def _twin_controls(self) -> list[int]:
        return [self._twin_id(char) for char in self._respelling.values()]

    def _twin_id(self, spelling: str) -> int:
        id = self._twin.token_to_id(spelling)
        assert id is not None, "every added token was added to the twin"
        return id


def _respelled(token: AddedToken, respelling: dict[str, str]) -> AddedToken:
    return AddedToken(
        respelling.get(token.content, token.content),
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
    )


def _unrespell(
    offsets: NDArray[np.int64], places: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Offsets in the respelled text -> offsets in the text itself."""
    grown = np.concatenate([[0], np.cumsum(lengths - 1)])
    return offsets + grown[np.searchsorted(places, offsets, side="left")]


def _longest_first(spellings: dict[str, int]) -> re.Pattern[str]:
    ordered = sorted(spellings, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or "(?!)")


def _is_blank(spelling: str) -> bool:
    return not spelling.replace("▁", " ").strip()  # U+2581 is SentencePiece's space
