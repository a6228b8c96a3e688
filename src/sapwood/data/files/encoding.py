"""Bytes to lines and text: UTF-8 or a message that says what the bytes probably are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO

from sapwood.data.problems import excerpt, printable
from sapwood.errors import DataError

MAX_ROW_BYTES = 8_000_000
BOM = b"\xef\xbb\xbf"

_CHUNK = 1 << 20
_WINDOW = 2000  # bytes on either side of a bad one that the guess looks at
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_WIDE_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line with its end. number: from 1; offset: of its first byte in the file; raw: None if too long."""

    number: int
    offset: int
    raw: bytes | None


def read_lines(stream: BinaryIO) -> Iterator[Line]:
    r"""The lines of a file, ended by \n, \r\n or \r, in memory bounded by the longest one that is accepted.

    A byte-order mark at the start of the file is left out.
    """
    number, offset, too_long = 1, 0, False
    tail = stream.read(len(BOM))
    if tail == BOM:
        tail, offset = b"", len(BOM)
    while True:
        chunk = stream.read(_CHUNK)
        pieces = (tail + chunk).splitlines(keepends=True)
        # The last piece may go on in the next chunk; so may a \r whose \n is still to come.
        tail = pieces.pop() if chunk and pieces else b""
        for piece in pieces:
            raw = None if too_long or len(piece) > MAX_ROW_BYTES else piece
            yield Line(number, offset, raw)
            number, offset, too_long = number + 1, offset + len(piece), False
        if not chunk:
            return
        if len(tail) > MAX_ROW_BYTES:
            offset, tail, too_long = offset + len(tail) - 1, tail[-1:], True


def decode(raw: bytes, source: str, line: int = 1, offset: int = 0) -> str:
    """UTF-8 to text. ``line`` and ``offset`` place its first byte. Raises DataError."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start
        line += len(re.findall(rb"\r\n|\n|\r", raw[:at]))
        guess, mend = _guess(raw, error, source)
        what = f"not UTF-8: byte 0x{raw[at]:02x} at offset {offset + at:,}"
        raise DataError(what, f"{printable(source)}:{line}", guess, mend) from None


def refuse_wide(head: bytes, source: str) -> None:
    """Raises DataError where the first bytes of a file are UTF-16, UTF-32 or binary."""
    where = f"{printable(source)}:1"
    for mark, name in _WIDE_MARKS:
        if head.startswith(mark):
            raise DataError(f"the file is {name}", where, "its first bytes say so", _iconv(name, source))
    nuls = head.count(b"\0")
    if nuls * 5 <= len(head):
        return
    odd = head[1::2].count(b"\0")
    if max(odd, nuls - odd) > 4 * min(odd, nuls - odd):
        name = "UTF-16LE" if odd > nuls - odd else "UTF-16BE"
        why = "every other byte is NUL"
        raise DataError(f"the file is {name} without a mark", where, why, _iconv(name, source))
    raise DataError("the file is binary", where, f"{nuls:,} of its first {len(head):,} bytes are NUL")


def _guess(raw: bytes, error: UnicodeDecodeError, source: str) -> tuple[str, str]:
    """(why, mend) for bytes that aren't UTF-8."""
    window = raw[max(0, error.start - _WINDOW) : error.start + _WINDOW]
    text = window.decode("utf-8", errors="replace")
    bad = text.count("\ufffd")
    good = sum(char > "\x7f" for char in text) - bad
    if good > 2 * bad:
        return (
            "the rest is UTF-8: this place is damaged or cut short",
            "repair the row, or fetch the file again",
        )
    runs = [len(run) for run in re.findall(rb"[\x80-\xff]+", window)]
    pairs = sum(length >= 2 for length in runs) > 0.8 * len(runs)
    chinese = window.decode("gb18030", errors="replace")
    if pairs and chinese.count("\ufffd") <= 2:
        name, reading = "GB18030", chinese
    else:
        name, reading = "ISO-8859-1", window.decode("latin-1")
    first = next((i for i, char in enumerate(reading) if "\x7f" < char != "\ufffd"), 0)
    return f"as {name} it reads {excerpt(reading[max(0, first - 8) :], 24)}", _iconv(name, source)


def _iconv(name: str, source: str) -> str:
    path = PurePath(source)
    target = str(path.with_name(f"{path.stem}.utf8{path.suffix}")) if path.name else "out"
    return printable(f"iconv -f {name} -t UTF-8 {shlex.quote(source)} > {shlex.quote(target)}")
