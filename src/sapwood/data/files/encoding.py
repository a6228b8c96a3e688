"""Bytes to lines and text: UTF-8, or what data.encoding says."""

from __future__ import annotations

import codecs
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from sapwood.data.files.charset import ForeignBytes
from sapwood.data.problems import printable
from sapwood.errors import DataError

MAX_ROW_BYTES = 8_000_000
BOM = b"\xef\xbb\xbf"

_CHUNK = 1 << 20
_HEAD = 65_536
_WINDOW = 2000  # bytes on either side of a bad one that the guess looks at
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_WIDE_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
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
    """UTF-8 to text. ``line`` and ``offset`` place its first byte. Raises DataError for a damaged place in
    UTF-8, ForeignBytes if the bytes are of another encoding."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start
        line += len(re.findall(rb"\r\n|\n|\r", raw[:at]))
        if not _is_damaged(raw, at):
            raise ForeignBytes(offset + at, line, raw[at]) from None
        what = f"not UTF-8: byte 0x{raw[at]:02x} at offset {offset + at:,}"
        why = "the rest is UTF-8: this place is damaged or cut short"
        raise DataError(
            what, f"{printable(source)}:{line}", why, "repair it, or fetch the file again"
        ) from None


def is_utf8(path: Path) -> bool:
    """Whether a file is UTF-8 throughout. A file that is packed, or can't be read, isn't."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except (OSError, UnicodeDecodeError):
        return False
    return True


def _is_damaged(raw: bytes, at: int) -> bool:
    """Whether the text around a bad byte is mostly UTF-8 beyond ASCII."""
    text = raw[max(0, at - _WINDOW) : at + _WINDOW].decode("utf-8", errors="replace")
    bad = text.count("\ufffd")
    return sum(char > "\x7f" for char in text) - bad > 2 * bad


def as_utf8(stream: BinaryIO, source: str, encoding: str) -> BinaryIO:
    """The file in UTF-8: the file itself if it is UTF-8, or else a copy that the system deletes by itself.

    UTF-16 and UTF-32 are known by their mark; ``encoding`` says what any other is, if it isn't ``auto``.
    Raises DataError if the bytes aren't what it says, or are binary.
    """
    head = stream.read(_HEAD)
    stream.seek(0)
    marked = next((name for mark, name in _WIDE_MARKS if head.startswith(mark)), None)
    if marked is None and encoding == "auto":
        _refuse_wide(head, source)
        return stream
    if marked is None and (head.startswith(BOM) or codecs.lookup(encoding).name == "utf-8"):
        return stream
    return _recoded(stream, source, marked or encoding)


def _recoded(stream: BinaryIO, source: str, encoding: str) -> BinaryIO:
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    decoder = codecs.getincrementaldecoder(encoding)()
    offset, line = 0, 1
    while True:
        chunk = stream.read(_CHUNK)
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            copy.close()
            at = line + error.object[: error.start].count(b"\n")
            what = (
                f"not {encoding}: byte 0x{error.object[error.start]:02x} at offset {_place(error, offset):,}"
            )
            why = f"{error.reason}; data.encoding says what the file is"
            raise DataError(
                what, f"{printable(source)}:{at}", why, "remove data.encoding to be asked"
            ) from None
        copy.write(text.encode("utf-8", errors="surrogatepass"))
        offset += len(chunk)
        line += text.count("\n")
        if not chunk:
            copy.seek(0)
            return cast(BinaryIO, copy)


def _place(error: UnicodeDecodeError, offset: int) -> int:
    """Where in the file a byte is; the decoder may hold a few bytes of the chunk before."""
    return max(0, offset + error.start)


def _refuse_wide(head: bytes, source: str) -> None:
    """Raises DataError if the first bytes of a file are UTF-16 without a mark, or binary."""
    where = f"{printable(source)}:1"
    nuls = head.count(b"\0")
    if nuls * 5 <= len(head):
        return
    odd = head[1::2].count(b"\0")
    if max(odd, nuls - odd) > 4 * min(odd, nuls - odd):
        name = "utf-16-le" if odd > nuls - odd else "utf-16-be"
        why = "every other byte is NUL"
        raise DataError(f"the file is {name} without a mark", where, why, f"data.encoding={name}")
    raise DataError("the file is binary", where, f"{nuls:,} of its first {len(head):,} bytes are NUL")
