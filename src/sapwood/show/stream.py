"""A text stream whose reader may leave at any time. Training must not die of a closed pipe or terminal."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TextIO


class SafeStream:
    """Writes to ``stream`` until its reader is gone, then to nowhere. What it can't encode it escapes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self.closed = False

    def write(self, text: str) -> int:
        if not self.closed:
            self._try(lambda: self._stream.write(_encodable(text, self.encoding)))
        return len(text)

    def flush(self) -> None:
        if not self.closed:
            self._try(self._stream.flush)

    def isatty(self) -> bool:
        with contextlib.suppress(ValueError):
            return not self.closed and self._stream.isatty()
        return False

    def fileno(self) -> int:
        return self._stream.fileno()

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (OSError, ValueError):  # EPIPE, EIO of a closed terminal, a full disk; or closed from within
            self.closed = True
            self._lead_nowhere()

    def _lead_nowhere(self) -> None:
        """Drop what is left. Otherwise the interpreter would try to flush it at exit, and fail with status
        120."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def _encodable(text: str, encoding: str) -> str:
    return text.encode(encoding, "backslashreplace").decode(encoding)
