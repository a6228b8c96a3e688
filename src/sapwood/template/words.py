"""Texts to ids by way of words: the tokenizer cuts a text into words, and most words were encoded before.

A byte-level tokenizer cuts text at its control tokens, and what lies between by a regular expression; each
piece is then encoded by itself. Nearly all of its time goes into the cutting. Here the same expression runs
in the `regex` module, and each new piece is encoded once, by the tokenizer.

The two engines may disagree about a rare character. So nothing that comes from here is trusted: the proof
holds every row against the tokenizer's own ids, and a row that doesn't pass is encoded anew by the tokenizer.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray
from tokenizers import Tokenizer

MAX_KNOWN = 100_000  # words that are kept
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # ByteLevel's own
DIGITS = r"\p{N}|\P{N}+"

Pattern = regex.Pattern[str]
Word = tuple[bytes, bytes]  # of its tokens: int32 ids, and int64 pairs of characters


class Words:
    """Ids and offsets of texts, for one tokenizer. `of` makes one."""

    def __init__(self, tokenizer: Tokenizer, controls: Pattern, stages: Sequence[Pattern]) -> None:
        self._tokenizer = tokenizer
        self._controls, self._stages = controls, stages
        self._known: dict[str, Word] = {}

    @classmethod
    def of(cls, tokenizer: Tokenizer, controls: Sequence[str]) -> Words | None:
        """None for a tokenizer that doesn't cut text by an expression. ``controls``: longest first."""
        step: Any = tokenizer.pre_tokenizer
        told = json.loads(step.__getstate__()) if step is not None else {}
        steps = told["pretokenizers"] if told.get("type") == "Sequence" else [told]
        try:
            cuts = [regex.compile(cut) for cut in map(_expression, steps) if cut is not None]
        except regex.error:
            return None
        either = regex.compile(f"({'|'.join(map(regex.escape, controls)) or '(?!)'})")
        return cls(tokenizer, either, cuts) if cuts else None

    def encode(self, texts: Sequence[str]) -> list[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        """For each text int32[T] ids and int64[T, 2] offsets, half-open characters."""
        if len(self._known) > MAX_KNOWN:
            self._known.clear()
        cut = [self._cut(text) for text in texts]
        words = [word for one in cut for word in one]
        self._learn(list(set(words) - self._known.keys()))
        found = [self._known[word] for word in words]
        ids = np.frombuffer(b"".join([one for one, _ in found]), np.int32)
        inside = np.frombuffer(b"".join([pairs for _, pairs in found]), np.int64).reshape(-1, 2)
        tokens = np.array([len(one) for one, _ in found], np.int64) // ids.itemsize
        starts = np.cumsum([0, *map(len, words)])[:-1]
        first_word = np.cumsum([0, *map(len, cut)])
        first_token = np.concatenate([[0], np.cumsum(tokens)])[first_word]
        begins = np.concatenate([starts, [0]])[first_word[:-1]]
        counts = np.diff(first_token)
        offsets = inside + (np.repeat(starts, tokens) - np.repeat(begins, counts))[:, None]
        edges = first_token.tolist()
        return [(ids[a:b], offsets[a:b]) for a, b in itertools.pairwise(edges)]

    def _cut(self, text: str) -> list[str]:
        words: list[str] = []
        for i, part in enumerate(self._controls.split(text)):
            pieces = [part] if part else []
            for stage in self._stages if i % 2 == 0 else ():  # the odd ones are control tokens
                find = stage.findall
                pieces = [word for piece in pieces for word in find(piece)]
            words += pieces
        return words if sum(map(len, words)) == len(text) else [text]

    def _learn(self, words: Sequence[str]) -> None:
        encodings = self._tokenizer.encode_batch(list(words), add_special_tokens=False)
        for word, encoding in zip(words, encodings, strict=True):
            ids, offsets = np.array(encoding.ids, np.int32), np.array(encoding.offsets, np.int64)
            self._known[word] = ids.tobytes(), offsets.tobytes()


def _expression(step: dict[str, Any]) -> str | None:
    """What finds the pieces of a pre-tokenizer (its JSON); None for one that cuts in another way."""
    kind = step.get("type")
    if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return step["pattern"].get("Regex")
    if kind == "ByteLevel" and step["use_regex"]:
        return GPT2
    return DIGITS if kind == "Digits" and step["individual_digits"] else None
