"""Parquet: checked against its own figures before it is decoded, and validated before a row is believed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from sapwood.data.files.encoding import MAX_ROW_BYTES
from sapwood.data.files.json_text import TOO_LARGE, TOO_LARGE_MEND
from sapwood.data.problems import ProblemLog, printable
from sapwood.errors import DataError, Problem
from sapwood.machine.extras import install
from sapwood.types import Row, RowId

MAX_GROUP_BYTES = 4 << 30  # one row group, unpacked; writers make them of 128 MB to 1 GB
MAX_COLUMNS = 1000
MAX_METADATA = 16 << 20  # bytes of one string, and entries of one list, in the footer
BATCH = 256  # rows that are in memory as Python objects


def read_parquet(stream: BinaryIO, source: str, log: ProblemLog) -> Iterator[Row]:
    """The rows of a Parquet file. Raises DataError where the file is damaged, or would not fit in memory."""
    where = printable(source)
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError("Parquet needs pyarrow", where, mend=install("data")) from None
    index = 0
    try:
        file = pq.ParquetFile(
            stream,
            thrift_string_size_limit=MAX_METADATA,
            thrift_container_size_limit=MAX_METADATA,
            page_checksum_verification=True,
        )
        _check_sizes(file.metadata, where)
        for batch in file.iter_batches(batch_size=BATCH, use_threads=False):
            batch.validate(full=True)
            for value in batch.to_pylist():
                row = RowId(source, index)
                index += 1
                if _size(value) > MAX_ROW_BYTES:
                    log.add(Problem(TOO_LARGE, printable(str(row)), mend=TOO_LARGE_MEND))
                else:
                    yield Row(row, value)
        if index != file.metadata.num_rows:
            raise ValueError(f"it promises {file.metadata.num_rows:,} rows")
    except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise DataError(
            "the Parquet file is damaged", where, f"behind row {index}: {printable(why)}", "fetch it again"
        ) from None


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
