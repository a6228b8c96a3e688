"""Parquet and Arrow: checked against their own figures before they are decoded, and validated before a row is
believed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from sapwood.data.files.encoding import MAX_ROW_BYTES
from sapwood.data.files.json_text import TOO_LARGE, TOO_LARGE_MEND
from sapwood.data.problems import ProblemLog, printable
from sapwood.data.shapes.nested import FILLED, drop_nulls
from sapwood.errors import DataError, Problem, brief
from sapwood.machine.extras import install
from sapwood.types import Row, RowId

MAX_GROUP_BYTES = 4 << 30  # one row group, unpacked; writers make them of 128 MB to 1 GB
MAX_COLUMNS = 1000
MAX_METADATA = 16 << 20  # bytes of one string, and entries of one list, in the footer
BATCH = 256  # rows that are in memory as Python objects
ARROW_FILE = b"ARROW1"


def read_parquet(stream: BinaryIO, source: str, log: ProblemLog) -> Iterator[Row]:
    """The rows of a Parquet file. Raises DataError if the file is damaged, or would not fit in memory."""
    where = printable(source)
    pq = _library("pyarrow.parquet", "Parquet", where)

    def batches() -> Iterator[Any]:
        file = pq.ParquetFile(
            stream,
            thrift_string_size_limit=MAX_METADATA,
            thrift_container_size_limit=MAX_METADATA,
            page_checksum_verification=True,
        )
        _check_sizes(file.metadata, where)
        rows = 0
        for batch in file.iter_batches(batch_size=BATCH, use_threads=False):
            rows += batch.num_rows
            yield batch
        if rows != file.metadata.num_rows:
            raise ValueError(f"it promises {file.metadata.num_rows:,} rows")

    yield from _rows(batches(), source, log, "Parquet")


def read_arrow(stream: BinaryIO, source: str, log: ProblemLog) -> Iterator[Row]:
    """The rows of an Arrow file, or of a stream as `datasets` writes it. Raises DataError as above."""
    where = printable(source)
    ipc = _library("pyarrow.ipc", "Arrow", where)

    def batches() -> Iterator[Any]:
        is_file = stream.read(len(ARROW_FILE)) == ARROW_FILE
        stream.seek(0)
        if is_file:
            file = ipc.open_file(stream)
            found = (file.get_batch(i) for i in range(file.num_record_batches))
        else:
            found = ipc.open_stream(stream)
        for batch in found:
            if batch.num_columns > MAX_COLUMNS:
                raise ValueError(f"it has {batch.num_columns:,} columns")
            batch.validate(full=True)
            for start in range(0, batch.num_rows, BATCH):
                yield batch.slice(start, BATCH)

    yield from _rows(batches(), source, log, "Arrow")


def _library(name: str, kind: str, where: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise DataError(f"{kind} needs pyarrow", where, mend=install("data")) from None


def _rows(batches: Iterator[Any], source: str, log: ProblemLog, kind: str) -> Iterator[Row]:
    import pyarrow as pa

    index = 0
    try:
        for batch in batches:
            batch.validate(full=True)
            nested = [field.name for field in batch.schema if _holds_struct(field.type)]
            for value in batch.to_pylist(maps_as_pydicts="strict"):
                row = RowId(source, index)
                index += 1
                if _size(value) > MAX_ROW_BYTES:
                    log.bad_row(Problem(TOO_LARGE, printable(str(row)), mend=TOO_LARGE_MEND))
                    continue
                if nested and sum(drop_nulls(value[name]) for name in nested):
                    log.counts[FILLED] += 1
                yield Row(row, value)
    except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError, ValueError) as error:
        why = brief(error)
        what = f"the {kind} file is damaged"
        raise DataError(
            what, printable(source), f"behind row {index}: {printable(why)}", "fetch it again"
        ) from None


def _holds_struct(type: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(type):
        return True
    return pa.types.is_nested(type) and any(_holds_struct(type.field(i).type) for i in range(type.num_fields))


def _check_sizes(metadata: Any, where: str) -> None:
    if metadata.num_columns > MAX_COLUMNS:
        raise DataError(f"the file has {metadata.num_columns:,} columns", where, "a row needs a few")
    for number in range(metadata.num_row_groups):
        size = metadata.row_group(number).total_byte_size
        if not 0 <= size <= MAX_GROUP_BYTES:
            why = f"row group {number} unpacks to {size:,} bytes, more than {MAX_GROUP_BYTES >> 30} GiB"
            mend = "write it with smaller row groups: pyarrow.parquet.write_table(…, row_group_size=10000)"
            raise DataError("the file is too large", where, why, mend)


def _size(value: Any) -> int:
    """Characters of all text in a row: a cheap lower bound of its bytes."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list | tuple) else 1
