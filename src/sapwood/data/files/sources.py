"""Files to numbered rows. Nothing is guessed: dates and numbers stay what they are, and a bad row is named.

A new kind of file is one more entry of `_TEXT` or `_BINARY`, and one more answer of `sniff`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from sapwood.config.sections import DataConfig
from sapwood.data.files.charset import ForeignBytes, foreign_problem
from sapwood.data.files.encoding import as_utf8, decode, read_lines
from sapwood.data.files.folder import files_of
from sapwood.data.files.hub import hub_files
from sapwood.data.files.json_file import read_json
from sapwood.data.files.json_text import (
    COMMENTS,
    TOO_LARGE,
    TOO_LARGE_MEND,
    JsonFault,
    decode_line,
)
from sapwood.data.files.packed import unpack
from sapwood.data.files.paths import BUILTIN, HUB, open_source
from sapwood.data.files.sniff import BinaryKind, FileKind, binary_kind, sniff
from sapwood.data.files.tables.delimited import read_table
from sapwood.data.files.tables.excel import read_excel
from sapwood.data.files.tables.parquet import read_arrow, read_parquet
from sapwood.data.problems import ProblemLog, kind, printable
from sapwood.data.rendered import read_text
from sapwood.errors import DataError, Problem
from sapwood.machine.doing import counted
from sapwood.types import Row, RowId


def read_rows(paths: Sequence[str], *, root: Path | None = None) -> Iterator[Row]:
    """The rows of the files, in order: JSON, JSONL, CSV, TSV, Parquet or text, by content.

    Args:
        paths: files; folders, which stand for the data files right in them; ``builtin:NAME`` for packaged
            data; ``hf:ORG/NAME[@REVISION][/FILE]`` for files of a hub's dataset. `RowId.source` repeats them.
        root: where relative paths start; the working directory if None.

    A JSON object around a single list of objects stands for that list. Raises DataError behind the last good
    row, with the problems of all files.
    """
    log = ProblemLog()
    yield from stream_rows(paths, root, log)
    log.raise_any()


def stream_rows(
    paths: Sequence[str],
    root: Path | None,
    log: ProblemLog,
    config: DataConfig | None = None,
) -> Iterator[Row]:
    """`read_rows`, but problems are added to a log and not raised. ``config``: how files are encoded, and
    which list or sheet holds the rows."""
    here = root if root is not None else Path.cwd()
    for path in paths:
        try:
            files = _files(path, here, log)
        except DataError as error:
            log.add(*error.problems)
            continue
        for source, file in files.items():
            yield from _read_source(source, file, here, log, config)


def _files(path: str, root: Path, log: ProblemLog | None = None) -> dict[str, str]:
    """Name of each file of an entry -> where it is. Raises DataError."""
    if path.startswith(HUB):
        return hub_files(path, log)
    return {name: name for name in files_of(path, root, log)}


def digest(paths: Sequence[str], root: Path | None = None) -> str:
    """sha256 over names and bytes of all files. Raises DataError or OSError for one that can't be read."""
    here = root if root is not None else Path.cwd()
    total = hashlib.sha256()
    for path in counted("reading the files", paths):
        for source, file in _files(path, here).items():
            with open_source(file, here) if file == source else Path(file).open("rb") as stream:
                bytes_of = hashlib.file_digest(cast(Any, stream), "sha256").hexdigest()
            total.update(f"{len(source)} {source} {bytes_of}\n".encode())
    return total.hexdigest()


def size_of(paths: Sequence[str], root: Path | None = None) -> int:
    """Bytes of all files; 0 for what can't be found, and for a hub's."""
    here = root if root is not None else Path.cwd()
    total = 0
    for path in paths:
        with contextlib.suppress(OSError, DataError):
            names = [] if path.startswith((HUB, BUILTIN)) else files_of(path, here)
            total += sum((here / Path(name).expanduser()).stat().st_size for name in names)
    return total


def _read_source(
    source: str, path: str, root: Path, log: ProblemLog, config: DataConfig | None
) -> Iterator[Row]:
    strays: dict[str, RowId] = {}  # kinds of rows that aren't objects, and the first of each
    count: Counter[str] = Counter()
    problems, rows = log.total + log.num_dropped, 0
    try:
        with open_source(path, root) if path == source else Path(path).open("rb") as stream:
            for row in _open_rows(stream, source, log, config):
                rows += 1
                if isinstance(row.value, dict):
                    yield row
                else:
                    name = kind(row.value)
                    strays.setdefault(name, row.id)
                    count[name] += 1
    except DataError as error:
        log.add(*error.problems)
    except OSError as error:
        log.add(Problem("the file can't be read", printable(source), (error.strerror or str(error)).lower()))
    for name, first in strays.items():
        log.add(_stray_problem(name, first, count[name]))
    if rows == 0 and log.total + log.num_dropped == problems:
        log.add(Problem("0 rows", printable(source), "the file holds no example"))


def _open_rows(stream: BinaryIO, source: str, log: ProblemLog, config: DataConfig | None) -> Iterator[Row]:
    """The rows of an open file: unpacked, in UTF-8, by the reader of its kind. Raises DataError."""
    encoding = config.encoding if config is not None else "auto"
    records = config.records if config is not None else None
    with contextlib.ExitStack() as stack:
        plain, name = unpack(stream, source)
        stack.callback(plain.close)
        if (file_kind := binary_kind(plain, name, source)) is not None:
            reader = _BINARY[file_kind]
            yield from reader(plain, source, log, records)
            return
        text = as_utf8(plain, source, encoding)
        stack.callback(text.close)
        try:
            file_kind = sniff(text, name, source)
            text.seek(0)
            if file_kind == "jsonl":
                yield from _read_jsonl(text, source, log)
            elif file_kind == "json":
                yield from read_json(text, source, log, records)
            else:
                yield from _TEXT[file_kind](text, source, log)
        except ForeignBytes as fault:
            raise DataError([foreign_problem(text, source, fault)]) from None


def _stray_problem(name: str, first: RowId, count: int) -> Problem:
    what = "row is" if count == 1 else f"{count:,} rows are"
    mend = 'a row is an object such as {"instruction": "…", "output": "…"}'
    return Problem(
        f"{what} {name}, not an object", printable(str(first)), "" if count == 1 else "the first", mend
    )


def _read_jsonl(stream: BinaryIO, source: str, log: ProblemLog) -> Iterator[Row]:
    index = 0
    for line in read_lines(stream):
        if line.raw is not None:
            raw = line.raw.strip()
            if not raw:
                continue
            if raw.startswith(b"//"):
                log.counts[COMMENTS] += 1
                continue
        index += 1
        row = RowId(source, index - 1, line.number)
        if line.raw is None:
            log.bad_row(Problem(TOO_LARGE, printable(str(row)), mend=TOO_LARGE_MEND))
            continue
        try:
            text = decode(line.raw, source, line.number, line.offset).rstrip()
            if text.startswith("\ufeff"):  # files that were put together byte by byte
                text = text.removeprefix("\ufeff")
                log.counts["begin with a byte-order mark in the middle of the file: left out"] += 1
            yield Row(row, decode_line(text, log.counts))
        except DataError as error:
            log.bad_row(*error.problems)
        except JsonFault as fault:
            where = f"{printable(source)}:{line.number}:{fault.position + 1}"
            log.bad_row(Problem(fault.what, where, fault.why, fault.mend))


_TEXT: dict[FileKind, Callable[[BinaryIO, str, ProblemLog], Iterator[Row]]] = {
    "table": read_table,
    "text": read_text,
}
_BINARY: dict[BinaryKind, Callable[[BinaryIO, str, ProblemLog, str | None], Iterator[Row]]] = {
    "parquet": lambda stream, source, log, _: read_parquet(stream, source, log),
    "arrow": lambda stream, source, log, _: read_arrow(stream, source, log),
    "excel": read_excel,
}
