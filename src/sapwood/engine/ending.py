"""Where an answer ends: at the first stop token, whatever llama.cpp takes for one."""

from __future__ import annotations

from dataclasses import replace

from sapwood.engine.wire import Ask, End, Piece

HALF = "\ufffd"  # what llama.cpp writes for a part of a character


class Ending:
    """llama.cpp's pieces in, the caller's pieces out. A character that was cut in two is left out.

    Attributes:
        done: nothing follows.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._held: Piece | None = None
        self._stopped = False
        self.done = False

    def feed(self, piece: Piece) -> list[Piece]:
        shown: list[Piece] = []
        if self._held is not None:
            cut = piece.end is not None and piece.end.reason == "length"
            shown.append(replace(self._held, text=self._held.text.rstrip(HALF)) if cut else self._held)
            self._held = None
        if self._stopped and piece.end is None:
            self.done = True
            count = piece.count - 1
            return [*shown, Piece("", count=count, end=End("stop", None, len(self._ask.ids), count))]
        self._stopped = not self._ask.stop_ids.isdisjoint(piece.ids)
        self.done = piece.end is not None
        if piece.text.endswith(HALF) and piece.end is None:
            self._held = piece
            return shown
        return [*shown, piece]
