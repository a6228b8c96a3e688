"""Which script a text is written in, and so which language it may be."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Script:
    """A script.

    languages: the languages that are written in it, for a person. letters: a pattern of its letters. weight:
    how many Latin letters one of its letters is worth. least: characters per token, at least, of a model that
    has learnt such a language.
    """

    languages: str
    letters: re.Pattern[str]
    weight: float
    least: float


LATIN = "a language in Latin letters"
_KANA = re.compile("[\u3040-\u30ff]")
_SCRIPTS = tuple(
    Script(languages, re.compile(f"[{letters}]"), weight, least)
    for languages, letters, weight, least in (
        (LATIN, "a-zA-Z\u00c0-\u024f\u1e00-\u1eff", 1, 2.3),
        ("Chinese", "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff", 3, 1.05),
        ("Korean", "\uac00-\ud7af\u1100-\u11ff", 2, 1.05),
        ("Russian, or another language in Cyrillic letters", "\u0400-\u052f", 1, 2.2),
        ("Arabic, or another language in its letters", "\u0600-\u06ff\u0750-\u077f", 1, 1.8),
        ("Hebrew", "\u0590-\u05ff", 1, 1.6),
        ("Greek", "\u0370-\u03ff", 1, 1.8),
        ("Hindi, or another language in Devanagari", "\u0900-\u097f", 1, 1.6),
        ("Thai", "\u0e00-\u0e7f", 1, 1.6),
    )
)
_JAPANESE = Script("Japanese", re.compile("[\u3040-\u30ff\u4e00-\u9fff]"), 2, 1.05)
_ENGLISH = re.compile(
    r"\b(the|of|and|to|is|that|it|for|are|with|as|this|be|have|has|you|your|my|not|by|or|from|but|what|how|can|"
    r"will|some|there|a|i)\b"
)
FEW = 100  # words, below which nothing is proven
_WORD = re.compile(r"[a-z]+")
COMMON = 0.15  # share of such words in an English text


def script_of(text: str) -> Script:
    """The script of most of the text."""
    found = max(_SCRIPTS, key=lambda script: script.weight * len(script.letters.findall(text)))
    if found.languages == "Chinese" and len(_KANA.findall(text)) > 0.1 * len(found.letters.findall(text)):
        return _JAPANESE
    return found


def is_english(text: str) -> bool:
    """Whether a text has Latin letters, and the most frequent words of English."""
    if script_of(text).languages != LATIN:
        return False
    lower = text.lower()
    words = len(_WORD.findall(lower))
    return len(_ENGLISH.findall(lower)) >= COMMON * words or (words < FEW and text.isascii())
