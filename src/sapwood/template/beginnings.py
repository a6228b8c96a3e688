"""The ids of a prompt, computed from the known ids of the text that the prompt begins.

A tokenizer cuts its control tokens out of a text first, and encodes each part between them by itself (class
AddedVocabulary of the tokenizers library). So up to the last control token of the prompt both texts have the
same ids, and only what follows it is encoded: ``assistant\\n``, the same for every row. This takes a third of
the time of proving a row. If one of the conditions below isn't met, the prompt is encoded whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sapwood.template.encode import Encoder

LONGEST = 64  # characters behind the last control token; a longer ending is the row's, and seldom met again

Encode = Callable[[list[str]], list[list[int]]]


class Beginnings:
    """For one tokenizer. encode: its own encoding of texts, without special tokens around them."""

    def __init__(self, tokenizer: Any, encoder: Encoder, encode: Encode) -> None:
        self._encode = encode
        self._pattern = encoder.pattern
        # A token with one of these isn't cut out of every text alike, or takes the blanks beside it along.
        self._apart = {
            token.content: id
            for id, token in tokenizer.added_tokens_decoder.items()
            if token.content in encoder.control
            and not (token.lstrip or token.rstrip or token.normalized or token.single_word)
        }
        self._tails: dict[str, tuple[str, list[int]] | None] = {}

    def ids(
        self, prompts: Sequence[str], texts: Sequence[str], known: Sequence[list[int]]
    ) -> list[list[int]]:
        """The tokenizer's ids of each prompt; ``known``: its ids of the text that the prompt begins."""
        found = [self._cut(*one) for one in zip(prompts, texts, known, strict=True)]
        left = [i for i, ids in enumerate(found) if ids is None]
        for i, ids in zip(left, self._encode([prompts[i] for i in left]) if left else (), strict=True):
            found[i] = ids
        return [ids for ids in found if ids is not None]

    def _cut(self, prompt: str, text: str, known: list[int]) -> list[int] | None:
        if not text.startswith(prompt) or (end := self._end(prompt)) is None:
            return None
        spelling, tail = end
        id, number = self._apart[spelling], prompt.count(spelling)
        # As often as it is spelled: no other control token overlaps one of them.
        if known.count(id) != text.count(spelling):
            return None
        at = -1
        for _ in range(number):
            at = known.index(id, at + 1)
        return known[: at + 1] + tail

    def _end(self, prompt: str) -> tuple[str, list[int]] | None:
        """The prompt's last control token, and the ids of what stands behind it."""
        for ending, found in self._tails.items():
            if prompt.endswith(ending):
                return found
        matches = list(self._pattern.finditer(prompt))
        if not matches or len(prompt) - matches[-1].end() > LONGEST or matches[-1][0] not in self._apart:
            return None
        ending, spelling = prompt[matches[-1].start() :], matches[-1][0]
        (ids,) = self._encode([ending])
        found = (spelling, ids[1:]) if ids[:1] == [self._apart[spelling]] else None
        self._tails[ending] = found
        return found
