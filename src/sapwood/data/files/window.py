"""A text file through a window that moves forward, so that memory is flat in the file's size."""

from __future__ import annotations

from collections import Counter
from typing import BinaryIO

from sapwood.data.files.encoding import BOM, decode

CHUNK = 1 << 20  # bytes that are read at once, at least


class Window:
    r"""Characters of a UTF-8 file. ``text`` is what is there of it, with \n for every line end; ``done`` is
    True if nothing follows. Indices count in ``text``. ``forgiven`` counts what was read though it is no
    JSON.

    Raises DataError, at creation and in ``more``, if bytes are no UTF-8.
    """

    def __init__(self, stream: BinaryIO, source: str) -> None:
        self.text = ""
        self.done = False
        self.forgiven: Counter[str] = Counter()
        self._stream, self._source = stream, source
        self._tail = stream.read(len(BOM))  # bytes that were read and not decoded
        self._offset = 0  # of its first byte
        if self._tail == BOM:
            self._tail, self._offset = b"", len(BOM)
        self._lines = 1  # the line that the next character is in
        self._first = self._at = (0, 1, 0)  # an index, its line, the index where that line starts
        self.more()

    def more(self) -> bool:
        """Read on. False if nothing follows."""
        while not self.done:
            new = self._stream.read(max(CHUNK, len(self.text)))
            raw = self._tail + new
            self.done = not new
            # A character, or a \r whose \n is still to come, may go on in the next bytes.
            cut = len(raw) if self.done else _whole(raw)
            piece = decode(raw[:cut], self._source, self._lines, self._offset)
            if "\r" in piece:  # a raw line end is legal only between JSON's tokens, so this changes no row
                piece = piece.replace("\r\n", "\n").replace("\r", "\n")
            self._tail, self._offset = raw[cut:], self._offset + cut
            self._lines += piece.count("\n")
            self.text += piece
            if piece:
                return True
        return False

    def reach(self, index: int) -> None:
        """Read on until ``index`` is there, or the end."""
        while len(self.text) <= index and self.more():
            pass

    def drop(self, index: int) -> int:
        """Forget the text before ``index``, if there is much of it. Returns the new place of ``index``."""
        if index < CHUNK or index * 2 < len(self.text):
            return index
        _, line, start = self.locate(index)
        self._first = self._at = (0, line, start - index)
        self.text = self.text[index:]
        return 0

    def line(self, index: int) -> int:
        """The line of a character, from 1. Asked in rising order, each line is counted once."""
        return self.locate(index)[1]

    def column(self, index: int) -> int:
        """The column of a character, from 1."""
        return index - self.locate(index)[2] + 1

    def locate(self, index: int) -> tuple[int, int, int]:
        counted, line, start = self._at if self._at[0] <= index else self._first
        line += self.text.count("\n", counted, index)
        start = max(start, self.text.rfind("\n", counted, index) + 1 or start)
        self._at = (index, line, start)
        return self._at


def _whole(raw: bytes) -> int:
    r"""How many bytes hold whole characters, without a \r at the end."""
    size = len(raw)
    for back in range(1, min(4, size) + 1):
        byte = raw[-back]
        if byte & 0xC0 != 0x80:  # begins a character
            wanted = 1 + (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0)
            size -= back if wanted > back else 0
            break
    return size - raw[:size].endswith(b"\r")
