"""Write a file, read it back, or see it refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sapwood.data.files.sources import read_rows
from sapwood.errors import DataError
from sapwood.types import Row


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[Row]]:
    """Write bytes or text under a name, and read the rows back."""

    def write_and_read(content: bytes | str, name: str = "rows.jsonl") -> list[Row]:
        raw = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(raw)
        return list(read_rows([name], root=tmp_path))

    return write_and_read


@pytest.fixture
def refuse(read: Callable[..., list[Row]]) -> Callable[..., DataError]:
    """Write and read; the read must fail with a message that names the file."""

    def write_and_fail(content: bytes | str, name: str = "rows.jsonl") -> DataError:
        with pytest.raises(DataError) as caught:
            read(content, name)
        assert all(problem.where.startswith(name) for problem in caught.value.problems[:999])
        return caught.value

    return write_and_fail
