"""A file of text as rows: one document, or the rendered conversations that it holds one behind the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from sapwood.data.files.encoding import MAX_ROW_BYTES
from sapwood.data.files.json_text import TOO_LARGE, TOO_LARGE_MEND
from sapwood.data.files.window import Window
from sapwood.data.problems import ProblemLog, printable
from sapwood.errors import Problem
from sapwood.types import Row, RowId

MARK = 64  # characters: more than the longest of the marks below

# What begins a conversation and never a later turn: a new line with it is a new conversation.
_OPENERS = r"(?:<s>|<bos>|<\|begin_of_text\|>|\[gMASK\]|<\|im_start\|>system\b|<\|system\|>)"
# What begins a user's turn, and a conversation only behind an empty line.
_TURNS = r"(?:<\|im_start\|>user\b|<start_of_turn>user\b|<\|user\|>|\[INST\])"
_CONVERSATION = re.compile(rf"\s*(?:{_OPENERS}|{_TURNS})")
_FILLED = re.compile(r"\S")
_BORDER = re.compile(rf"\n[ \t]*(?=(?:{_OPENERS}))|\n[ \t]*\n\s*(?={_TURNS})")


def read_text(stream: BinaryIO, source: str, log: ProblemLog) -> Iterator[Row]:
    """``{"text": …}`` for each conversation of a file of rendered ones; for a document, one row.

    A line is never a row by itself: that would cut a conversation at each of its line ends.
    """
    window = Window(stream, source)
    while window.text.isspace() and window.more():
        pass
    window.reach(len(window.text) - len(window.text.lstrip()) + MARK)
    cut = _conversations if _CONVERSATION.match(window.text) is not None else _document
    for index, (line, piece) in enumerate(cut(window)):
        row = RowId(source, index, line)
        if piece is None or len(piece.encode()) > MAX_ROW_BYTES:
            log.add(Problem(TOO_LARGE, printable(str(row)), mend=TOO_LARGE_MEND))
        else:
            yield Row(row, {"text": piece.strip("\n")})


def _document(window: Window) -> Iterator[tuple[int, str | None]]:
    """The line where the text begins, and the text; None for one that is too large."""
    while len(window.text) <= MAX_ROW_BYTES and window.more():
        pass
    text = window.text
    yield window.line(_begin(text, 0)), text if window.done else None


def _conversations(window: Window) -> Iterator[tuple[int, str | None]]:
    """The same of each conversation, with the line ends behind it."""
    start, at = 0, 1
    lost: int | None = None  # the line where a conversation began that is too large, and is being skipped
    while True:
        border = _BORDER.search(window.text, at)
        if (border is None or border.end() + MARK > len(window.text)) and not window.done:
            if len(window.text) - start > MAX_ROW_BYTES:
                lost = lost or window.line(_begin(window.text, start))
                start = window.drop(len(window.text) - 2 * MARK)
                at = start + 1
            window.more()
            continue
        stop = border.end() if border is not None else len(window.text)
        if lost is not None:
            yield lost, None
        elif window.text[start:stop].strip():
            yield window.line(_begin(window.text, start)), window.text[start:stop]
        if border is None:
            return
        if lost is not None or window.text[start:stop].strip():
            start, lost = window.drop(stop), None
            stop = start
        at = stop


def _begin(text: str, start: int) -> int:
    """The first character from ``start`` on that isn't blank; ``start`` if there is none."""
    match = _FILLED.search(text, start)
    return match.start() if match is not None else start
