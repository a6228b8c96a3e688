"""Tokens as text, while they are being written: never half a character."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

REPLACEMENT = "\ufffd"  # what decoders write for bytes that are no character, or not yet one
JOINER = "\u200d"  # ties the emoji around it into one


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Tokens as text: special tokens left out, spaces as the model wrote them."""
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


class TextStream:
    """Tokens in, whole characters out.

    A token may hold half a character, and the first token after a cut loses its leading space in some
    tokenizers. So the last tokens are always decoded together with those before them, which are known to end
    on a whole character::

        … | context | new
            ^ _context  ^ _fresh
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._context = 0
        self._fresh = 0
        self._shown = 0  # characters of decode(ids[_context:]) that are out already
        self._pieces: list[str] = []
        self.ids: list[int] = []

    @property
    def text(self) -> str:
        """All that came out so far."""
        return "".join(self._pieces)

    def push(self, token: int) -> str:
        """Take a token and return the text that is certain now, often one token's, sometimes none."""
        self.ids.append(token)
        window = decode(self._tokenizer, self.ids[self._context :])
        # an unfinished character, or an emoji whose second half is on its way
        whole = window.rstrip(REPLACEMENT + JOINER)
        piece = self._emit(window[self._shown : len(whole)])
        if whole == window:
            self._context, self._fresh = self._fresh, len(self.ids)
            self._shown = len(decode(self._tokenizer, self.ids[self._context :]))
        return piece

    def flush(self, *, cut: bool = False) -> str:
        """The rest: no token follows. Of an answer that was ``cut``, without the character that was split."""
        window = decode(self._tokenizer, self.ids[self._context :])
        whole = window.rstrip(REPLACEMENT + JOINER) if cut else window
        return self._emit(window[self._shown : len(whole)])

    def _emit(self, piece: str) -> str:
        if piece:
            self._pieces.append(piece)
            self._shown += len(piece)
        return piece
