"""Parquet: read as it is, refused where it is damaged or too large (D50)."""

from __future__ import annotations

import datetime
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sapwood.config.sections import DataConfig
from sapwood.data.files.sources import read_rows
from sapwood.data.formats import read_conversations
from sapwood.errors import DataError
from sapwood.types import Row

ROWS = [{"instruction": f"问 {i}", "input": None, "output": "🌳" * (i + 1)} for i in range(700)]


def parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, **options)
    return sink.getvalue()


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_rows_come_back_as_they_were_written(read: Callable[..., list[Row]], compression: str) -> None:
    rows = read(parquet(ROWS, compression=compression, row_group_size=300), "rows.parquet")
    assert [row.value for row in rows] == ROWS
    assert str(rows[699].id) == "rows.parquet row 699"


def test_messages_are_read_from_lists_of_structs(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    (tmp_path / "rows.parquet").write_bytes(parquet([{"messages": turns}]))
    (conversation,) = read_conversations(DataConfig(train=("rows.parquet",)), root=tmp_path)
    assert [message.content for message in conversation.messages] == ["q", "a"]


def test_a_date_is_refused_and_not_spelled_out(tmp_path: Path) -> None:
    row = {"instruction": "when?", "output": datetime.date(2024, 1, 5)}
    (tmp_path / "rows.parquet").write_bytes(parquet([row]))
    with pytest.raises(DataError, match=r"'output' is a date, not text · rows\.parquet row 0"):
        list(read_conversations(DataConfig(train=("rows.parquet",)), root=tmp_path))


def test_d50_no_damage_ends_the_process_or_passes_as_another_row(tmp_path: Path) -> None:
    """With the pages' checksums a flip in the data is seen; one in the footer may change names and types."""
    good = parquet(ROWS[:50], write_page_checksum=True)
    draw = random.Random(0)
    (path := tmp_path / "rows.parquet").write_bytes(good)
    group = pq.ParquetFile(io.BytesIO(good)).metadata.row_group(0)
    body = range(4, sum(group.column(i).total_compressed_size for i in range(3)))
    refused = 0
    for _ in range(120):
        damaged = bytearray(good)
        damaged[draw.choice(body)] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(damaged))
        try:
            rows = [row.value for row in read_rows(["rows.parquet"], root=tmp_path)]
            assert rows == ROWS[:50]  # the flip was in a field that nobody reads
        except DataError as error:
            refused += 1
            assert "the Parquet file is damaged · rows.parquet" in str(error)
    assert refused > 80


@pytest.mark.parametrize("cut", [0, 3, 11, 400, -9, -4, -1])
def test_d50_a_cut_file_is_refused(refuse: Callable[..., DataError], cut: int) -> None:
    content = parquet(ROWS)
    content = b"PAR1" + content[4 : cut if cut < 0 else 4 + cut]
    assert "the Parquet file is damaged" in str(refuse(content, "rows.parquet"))


def test_d50_a_row_group_that_would_fill_the_memory_is_refused_unread(
    refuse: Callable[..., DataError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sapwood.data.files.tables.parquet.MAX_GROUP_BYTES", 5_000)
    bomb = parquet([{"text": "x" * 1000 + str(i)} for i in range(100)], compression="zstd")
    assert len(bomb) < 60_000
    assert "row group 0 unpacks to" in str(refuse(bomb, "rows.parquet"))


def test_d22_a_row_beyond_the_limit_is_refused_and_others_are_counted(
    refuse: Callable[..., DataError],
) -> None:
    rows = [{"text": "a"}, {"text": "x" * 8_100_000}, {"text": "b"}]
    assert "row is larger than 8,000,000 bytes · rows.parquet row 1" in str(
        refuse(parquet(rows), "rows.parquet")
    )


def test_d50_many_columns_are_refused(refuse: Callable[..., DataError]) -> None:
    assert "1,001 columns" in str(refuse(parquet([{f"c{i}": 1 for i in range(1001)}]), "rows.parquet"))
