"""What a file really is, by its first bytes and not by its name."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import PurePath
from typing import BinaryIO, Literal

from sapwood.data.files.encoding import BOM, decode, read_lines
from sapwood.data.files.json_text import JsonFault, decode_line
from sapwood.data.files.tables.delimited import TABLE_SUFFIXES, header_of
from sapwood.data.problems import excerpt, printable
from sapwood.data.shapes.match import detect_format
from sapwood.errors import DataError

FileKind = Literal["json", "jsonl", "table", "text"]
BinaryKind = Literal["parquet", "arrow", "excel"]

_HEAD = 65_536
_LINES_SUFFIXES = (".jsonl", ".ndjson")
_TEXT_SUFFIXES = (".txt", ".text", ".md")
_PARQUET = b"PAR1"
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib")
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_MAGIC = (
    (
        b"\xd0\xcf\x11\xe0",
        "an Excel workbook of the old kind, or another of its time",
        "save it as .xlsx or CSV",
    ),
    (b"SQLite format 3\0", "an SQLite database", "export the table as CSV"),
    (b"\x93NUMPY", "a NumPy array", "rows of text are needed"),
    (b"%PDF-", "a PDF", "rows of text are needed"),
    (b"version https://git-lfs", "a Git LFS pointer, not the data itself", "git lfs pull"),
    (b"<!doctype", "a web page, not the data itself", "download the raw file"),
    (b"<html", "a web page, not the data itself", "download the raw file"),
)


def binary_kind(stream: BinaryIO, name: str, source: str) -> BinaryKind | None:
    """The kind of a file that is no text; None for text. Raises DataError for one that can't be read."""
    head = stream.read(_HEAD)
    stream.seek(0)
    if head.startswith(_PARQUET):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    if head.startswith(b"PK\x03\x04"):
        return "excel"  # other archives are unpacked before
    _refuse_binary(head, name, source)
    return None


def sniff(stream: BinaryIO, name: str, source: str) -> FileKind:
    """json: one document. jsonl: a value on each line. table: delimited text. text: anything else in a file
    named .txt or .md. Raises DataError for the rest.

    The name decides only what the content leaves open. ``source``: the file's name in messages.
    """
    where = printable(source)
    stream.seek(0)
    filled = (line for line in read_lines(stream) if line.raw is None or line.raw.strip())
    first, second = (*islice(filled, 2), None, None)[:2]
    if first is None:
        raise DataError("the file is empty", where, "there is no row in it")
    if first.raw is None:  # a line beyond the limit: a whole document without a line break, or a bad row
        return "json" if second is None else "jsonl"
    suffix = PurePath(name).suffix.lower()
    start = first.raw.removeprefix(BOM).lstrip()[:1]
    if suffix in _TEXT_SUFFIXES and not _looks_like_rows(first.raw):
        text = decode(first.raw, source, first.number, first.offset)
        return "table" if detect_format(dict.fromkeys(header_of(text, suffix)[0], "")) else "text"
    if start == b"[":
        return "json"
    if first.raw.lstrip().startswith(b"//"):
        return "jsonl" if suffix in _LINES_SUFFIXES else "json"
    if start == b"{":
        return _lines_or_document(first.raw, second.raw if second is not None else b"")
    if suffix in TABLE_SUFFIXES:
        return "table"
    if suffix in _LINES_SUFFIXES:
        return "jsonl"
    text = decode(first.raw, source, first.number, first.offset)
    if detect_format(dict.fromkeys(header_of(text, suffix)[0], "")) is not None:
        return "table"
    why = f"it begins with {excerpt(text.strip(), 30)}"
    mend = "JSON begins with [ or {; a table has a header such as instruction,output; name documents .txt"
    raise DataError("neither JSON, JSONL nor a table", f"{where}:{first.number}", why, mend)


def _looks_like_rows(first: bytes) -> bool:
    """Is this the beginning of JSON? Rendered text may begin with a bracket too: [INST], [gMASK]."""
    return re.match(rb"\s*(\{\s*([\"'}]|$)|\[\s*([{\[\"\]]|$))", first) is not None


def _refuse_binary(head: bytes, name: str, source: str) -> None:
    where = printable(source)
    suffix = PurePath(name).suffix.lower()
    if suffix in _PICKLE_SUFFIXES or _PICKLE.match(head):
        why = "opening one runs whatever code its author put in"
        raise DataError("the file is a Python pickle", where, why, f"sapwood data convert '{where}'")
    start = head.removeprefix(BOM).lstrip()[:32].lower()
    for magic, name, mend in _MAGIC:
        if head.startswith(magic) or (magic.isascii() and start.startswith(magic.lower())):
            raise DataError(f"the file is {name}", where, mend=mend)


def _lines_or_document(first: bytes, second: bytes | None) -> FileKind:
    """For a file that begins with an object: JSONL, or one object over several lines."""
    if second == b"":
        return "json"  # a single line: a row, or an object that wraps the rows
    text = first.decode("utf-8", errors="replace")
    try:
        decode_line(text)
    except JsonFault as fault:
        whole = text.rstrip()
        starts_row = second is None or second.lstrip().startswith(b"{")
        if fault.position >= len(whole) and (not starts_row or whole.endswith("[")):
            return "json"
    return "jsonl"
