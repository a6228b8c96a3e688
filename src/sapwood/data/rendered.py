"""A file of text as rows: one document, or the rendered conversations that it holds one behind the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from sapwood.data.encoding import BOM, MAX_ROW_BYTES, decode
from sapwood.data.json_text import TOO_LARGE, TOO_LARGE_MEND
from sapwood.data.problems import ProblemLog, printable
from sapwood.errors import DataError, Problem
from sapwood.types import Row, RowId

MAX_TEXT_BYTES = 1 << 30  # a text file is held in memory

# What begins a conversation and never a later turn: a new line with it is a new conversation.
_OPENERS = r"(?:<s>|<bos>|<\|begin_of_text\|>|\[gMASK\]|<\|im_start\|>system\b|<\|system\|>)"
# What begins a user's turn, and a conversation only behind an empty line.
_TURNS = r"(?:<\|im_start\|>user\b|<start_of_turn>user\b|<\|user\|>|\[INST\])"
_CONVERSATION = re.compile(rf"\s*(?:{_OPENERS}|{_TURNS})")
_BORDER = re.compile(rf"\n[ \t]*(?=(?:{_OPENERS}))|\n[ \t]*\n\s*(?={_TURNS})")


def read_text(stream: BinaryIO, source: str, log: ProblemLog) -> Iterator[Row]:
    """``{"text": …}`` for each conversation of a file of rendered ones; for a document, one row.

    A line is never a row by itself: that would cut a conversation at each of its line ends.
    """
    raw = stream.read(MAX_TEXT_BYTES + 1)
    if len(raw) > MAX_TEXT_BYTES:
        why = f"a text file of more than {MAX_TEXT_BYTES >> 30} GiB would fill the memory"
        raise DataError("the file is too large", printable(source), why, "cut it into several files")
    text = decode(raw.removeprefix(BOM), source).replace("\r\n", "\n").replace("\r", "\n")
    line = 1
    for index, piece in enumerate(_pieces(text)):
        blank = len(piece) - len(piece.lstrip())
        row = RowId(source, index, line + piece.count("\n", 0, blank))
        line += piece.count("\n")
        if len(piece.encode()) > MAX_ROW_BYTES:
            log.add(Problem(TOO_LARGE, printable(str(row)), mend=TOO_LARGE_MEND))
        else:
            yield Row(row, {"text": piece.strip("\n")})


def _pieces(text: str) -> Iterator[str]:
    """The conversations with the line ends between them; the whole text if it begins with none."""
    if _CONVERSATION.match(text) is None:
        yield text
        return
    start = 0
    for border in _BORDER.finditer(text, 1):
        if text[start : border.end()].strip():
            yield text[start : border.end()]
            start = border.end()
    yield text[start:]
