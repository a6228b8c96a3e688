"""CSV and TSV: every cell is text, and a table that is not regular is refused by line."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.data.files.sources import read_rows
from sapwood.errors import DataError
from sapwood.types import Row


def read(folder: Path, content: str | bytes, name: str = "rows.csv") -> list[Row]:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_rows([name], root=folder))


def refuse(folder: Path, content: str | bytes, name: str = "rows.csv") -> DataError:
    with pytest.raises(DataError) as caught:
        read(folder, content, name)
    return caught.value


def test_d31_every_cell_is_text(tmp_path: Path) -> None:
    rows = read(tmp_path, "instruction,output\n007,TRUE\nNA,\n2024-01-05, 1.50\n")
    assert [list(row.value.values()) for row in rows] == [
        ["007", "TRUE"],
        ["NA", ""],
        ["2024-01-05", " 1.50"],
    ]


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t"), ("a.tsv", ",")]
)
def test_d32_delimiter_is_read_from_the_header(tmp_path: Path, name: str, delimiter: str) -> None:
    rows = read(tmp_path, f"\ufeffinstruction{delimiter} output\r\na{delimiter}b\r\n", name)
    assert [row.value for row in rows] == [{"instruction": "a", "output": "b"}]


def test_d32_rows_over_several_lines_know_where_they_begin(tmp_path: Path) -> None:
    rows = read(tmp_path, '\ninstruction,output\n"a\n\n""b"", c",d\n\ne,f\n')
    assert [(row.value["instruction"], row.id.line) for row in rows] == [('a\n\n"b", c', 3), ("e", 7)]


def test_d32_ragged_rows_are_refused_and_the_delimiter_shown(tmp_path: Path) -> None:
    error = refuse(tmp_path, "instruction,output\na,b\na,b,c\na\nc,d\n")
    assert [problem.where for problem in error.problems] == ["rows.csv:3", "rows.csv:4"]
    assert "row has 3 cells, the header has 2 · rows.csv:3 · cells end at each comma" in str(error)


def test_d32_duplicate_headers_are_refused(tmp_path: Path) -> None:
    assert "column 'output' occurs twice · rows.csv:1" in str(
        refuse(tmp_path, "instruction,output, output\na,b,c\n")
    )


def test_d32_quote_that_never_closes_is_named_where_it_opens(tmp_path: Path) -> None:
    error = refuse(tmp_path, 'instruction,output\na,b\nc,"d\ne,f\n')
    assert str(error).startswith("a quote in this row never closes · rows.csv:3")


def test_d32_unbalanced_quote_does_not_hide_later_problems(tmp_path: Path) -> None:
    error = refuse(tmp_path, 'instruction,output\n"a" x,b\nc,d\ne\n')
    assert [problem.where for problem in error.problems] == ["rows.csv:2", "rows.csv:4"]
    assert "followed by neither comma nor line end" in str(error)


def test_row_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    error = refuse(tmp_path, 'instruction,output\na,"' + f"{'b' * 1000}\n" * 8_000)
    assert "the row is larger than 8,000,000 bytes · rows.csv:2" in str(error)
    assert len(read(tmp_path, f"instruction,output\na,{'b' * 7_000_000}\n")) == 1


def test_bad_encoding_in_a_table_is_named_by_line(tmp_path: Path) -> None:
    error = refuse(tmp_path, "instruction,output\na,b\né,b\nc\n".encode("latin-1"))
    assert [problem.where for problem in error.problems] == ["rows.csv:3"]


def test_table_without_a_suffix_is_known_by_its_header(tmp_path: Path) -> None:
    assert [row.value for row in read(tmp_path, "prompt\tcompletion\na\tb\n", "rows.txt")] == [
        {"prompt": "a", "completion": "b"}
    ]


def test_header_alone_has_no_rows(tmp_path: Path) -> None:
    assert str(refuse(tmp_path, "instruction,output\n")).startswith("0 rows · rows.csv")


CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(
    rows=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=5), dialect=st.sampled_from(["excel", "unix"])
)
@settings(max_examples=100, deadline=None)
def test_what_the_csv_module_writes_is_read_back(
    rows: list[tuple[str, str]], dialect: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, dialect=dialect, quoting=csv.QUOTE_ALL)
    writer.writerows([("instruction", "output"), *rows])
    if not any(any(row) for row in rows):
        return
    read_back = read(tmp_path_factory.getbasetemp(), stream.getvalue())
    filled = [row for row in rows if any(row)]  # a row of empty cells is none
    assert [tuple(row.value.values()) for row in read_back] == filled
