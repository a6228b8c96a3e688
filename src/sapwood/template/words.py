"""Text to ids through the words that the tokenizer cuts it into, of which most were encoded before.

A byte-level tokenizer cuts text by a regular expression and encodes each piece by itself, so the ids of a
text are those of its pieces. Most of its time goes into the cutting. Here the same expression runs in the
`regex` module, and each new piece is encoded once, by the tokenizer.

Two engines can disagree about an expression only where they disagree about a character: the syntax that is
accepted (`SYNTAX`) means the same in both, and each class of characters in it is asked of both, for each
character that comes up. What doesn't pass is encoded as a whole.
"""

from __future__ import annotations

import itertools
import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

MAX_KNOWN = 100_000  # words that are kept
SEPARATOR = "\n"  # joins texts and composes with nothing
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # ByteLevel's own
CLASS = r"\\[pP]\{\w+\}|\\[sS]"
# No anchor, and nothing behind {n,m}: the engines read those differently.
COUNT = r"\{\d+(?:,\d*)?\}(?![+?*{])"
SYNTAX = regex.compile(rf"(?:{CLASS}|\\[rnt]|\(\?i:|\(\?!|\(\?:|\[\^?|[)|\]?+*]|{COUNT}|[ ',/a-zA-Z0-9])+")


@dataclass(frozen=True, slots=True)
class Stage:
    """One cut. ``classes``: the characters of a string that are in each, by `regex` and by the tokenizers
    library."""

    pattern: regex.Pattern[str]
    classes: Sequence[tuple[Callable[[str], set[str]], Callable[[str], set[str]]]]


class Words:
    """Ids of texts for one tokenizer; `of` says whether it is of the kind."""

    def __init__(self, tokenizer: Tokenizer, stages: Sequence[Stage]) -> None:
        self._tokenizer = tokenizer
        self._stages = stages
        self._known: dict[str, bytes] = {}
        # By code point: 0, not met yet; 1, both engines put it into the same classes; 2, they don't.
        self._met = np.zeros(sys.maxunicode + 1, np.uint8)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Words | None:
        """None where a piece may be encoded by more than its own characters, or the cut isn't known here."""
        if _told(tokenizer.normalizer) not in ({}, {"type": "NFC"}):
            return None
        cut = _told(tokenizer.pre_tokenizer)
        steps = cut["pretokenizers"] if cut.get("type") == "Sequence" else [cut]
        stages = [*itertools.takewhile(bool, map(_stage, steps))]  # later ones cut each piece by itself
        return cls(tokenizer, [stage for stage in stages if stage is not None]) if stages else None

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """int32 ids of each text, as bytes. The texts hold no added token."""
        if len(self._known) > MAX_KNOWN:
            self._known.clear()
        if self._is_plain(SEPARATOR.join(texts)):
            plain = texts
        else:
            plain = [text if self._is_plain(text) else "" for text in texts]
        cut = list(map(self._cut, plain))
        fresh = set[str]().union(*cut) - self._known.keys()
        alone = [word for word in fresh if self._cut(word) == [word]]
        self._known.update(zip(alone, encode_whole(self._tokenizer, alone), strict=True))
        lost = fresh.difference(alone)  # words that would be cut anew where nothing stands beside them
        whole = [
            i
            for i, (text, words) in enumerate(zip(texts, cut, strict=True))
            if len("".join(words)) != len(text) or (lost and not lost.isdisjoint(words))
        ]
        for i in whole:
            cut[i] = []
        found = [b"".join(map(self._known.__getitem__, words)) for words in cut]
        for i, ids in zip(whole, encode_whole(self._tokenizer, [texts[i] for i in whole]), strict=True):
            found[i] = ids
        return found

    def _cut(self, text: str) -> list[str]:
        pieces = self._stages[0].pattern.findall(text)
        for stage in self._stages[1:]:
            find = stage.pattern.findall
            pieces = [part for piece in pieces for part in find(piece)]
        return pieces

    def _is_plain(self, text: str) -> bool:
        """Is it as the normalizer would leave it, and of characters on which both engines agree?"""
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        met = self._met[points]
        if not met.all():
            self._compare(np.unique(points[met == 0]))
            met = self._met[points]
        return bool((met == 1).all()) and unicodedata.is_normalized("NFC", text)

    def _compare(self, points: NDArray[np.uint32]) -> None:
        characters = points.tobytes().decode("utf-32-le")
        doubtful: set[str] = set()
        for ours, theirs in (pair for stage in self._stages for pair in stage.classes):
            doubtful |= ours(characters) ^ theirs(characters)
        self._met[points] = 1
        self._met[[ord(char) for char in doubtful]] = 2


def encode_whole(tokenizer: Tokenizer, texts: Sequence[str]) -> list[bytes]:
    """int32 ids of each text, as bytes, by the tokenizer itself."""
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.array(encoding.ids, dtype=np.int32).tobytes() for encoding in encodings]


def _told(part: Any) -> dict[str, Any]:
    """A part of a tokenizer as in its file; empty for none."""
    return json.loads(part.__getstate__()) if part is not None else {}


def _stage(step: dict[str, Any]) -> Stage | None:
    """What a pre-tokenizer (its JSON) does, as an expression that finds its pieces; None if unknown."""
    kind = step.get("type")
    if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return _by_expression(step["pattern"].get("Regex", ""))
    if kind == "ByteLevel" and step.get("use_regex", True) and not step["add_prefix_space"]:
        return _by_expression(GPT2)
    if kind == "Digits" and step["individual_digits"]:
        pattern = regex.compile(r"\p{N}|\P{N}+")
        return Stage(pattern, [(lambda text: set(regex.findall(r"\p{N}", text)), _digits)])
    return None


def _by_expression(expression: str) -> Stage | None:
    if SYNTAX.fullmatch(expression) is None:
        return None
    classes = {*regex.findall(CLASS, expression)}
    for group in regex.findall(r"\(\?i:([^)]*)\)", expression):
        classes.add(f"(?i:[{''.join(sorted({*group} - {*'|'}))}])")
    asked = [(_members(regex.compile(one)), _their_members(one)) for one in sorted(classes)]
    return Stage(regex.compile(expression), asked)


def _members(pattern: regex.Pattern[str]) -> Callable[[str], set[str]]:
    return lambda text: set(pattern.findall(text))


def _their_members(expression: str) -> Callable[[str], set[str]]:
    without = normalizers.Replace(Regex(expression), "")
    return lambda text: set(text) - set(without.normalize_str(text))


def _digits(text: str) -> set[str]:
    apart = f"x{'x'.join(text)}x"
    pieces: Iterable[tuple[str, Any]] = pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str(apart)
    return {piece for piece, _ in pieces if len(piece) == 1 and piece != "x"}
