"""Bytes to text: marks, line ends, and encodings that are not UTF-8."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sapwood.errors import DataError
from sapwood.types import Row

GOOD = {"instruction": "a", "output": "b"}
GOOD_LINE = json.dumps(GOOD)


def values(rows: list[Row]) -> list[Any]:
    return [row.value for row in rows]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_d1_byte_order_mark_is_accepted(read: Callable[..., list[Row]], name: str) -> None:
    content = GOOD_LINE if name == "rows.jsonl" else f"[{GOOD_LINE}]"
    rows = read(b"\xef\xbb\xbf" + content.encode(), name)
    assert values(rows) == [GOOD]
    assert rows[0].id.line == 1


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_d2_every_line_end_is_accepted(read: Callable[..., list[Row]], end: str) -> None:
    rows = read(end.join([GOOD_LINE, "", GOOD_LINE]) + end)
    assert [row.id.line for row in rows] == [1, 3]
    rows = read(end.join(["[", f"{GOOD_LINE},", GOOD_LINE, "]"]), "rows.json")
    assert [row.id.line for row in rows] == [2, 3]
    assert values(rows) == [GOOD, GOOD]


def test_d2_line_end_across_two_reads_is_one_line_end(
    read: Callable[..., list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "\r\n".join([GOOD_LINE] * 20)
    for size in range(1, 45):
        monkeypatch.setattr("sapwood.data.files.encoding._CHUNK", size)
        assert [row.id.line for row in read(content)] == list(range(1, 21))


def test_carriage_return_inside_a_string_stays(read: Callable[..., list[Row]]) -> None:
    assert values(read('{"a": "x\\r\\ny"}')) == [{"a": "x\r\ny"}]


def test_d16_latin1_bytes_are_named_with_a_command(refuse: Callable[..., DataError]) -> None:
    line = '{"instruction": "a", "output": "café au lait"}'
    error = refuse(GOOD_LINE.encode() + b"\n" + line.encode("latin-1"))
    offset = len(GOOD_LINE) + 1 + line.index("é")
    assert str(error).startswith(f"not UTF-8: byte 0xe9 at offset {offset} · rows.jsonl:2 · as ISO-8859-1")
    assert "café" in str(error)
    assert "iconv -f ISO-8859-1 -t UTF-8 rows.jsonl > rows.utf8.jsonl" in str(error)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_d16_gb18030_bytes_are_named_with_a_command(refuse: Callable[..., DataError], name: str) -> None:
    line = '{"instruction": "皇上驾到", "output": "皇上万福金安"}'
    content = f"{GOOD_LINE}\n{line}\n" if name == "rows.jsonl" else f"[{GOOD_LINE},\n{line}]"
    error = refuse(content.encode("gb18030"), name)
    assert f"{name}:2 · as GB18030 it reads" in str(error)
    assert "皇上驾到" in str(error)
    assert "iconv -f GB18030" in str(error)


def test_d16_one_damaged_byte_in_utf8_is_no_other_encoding(refuse: Callable[..., DataError]) -> None:
    raw = '{"instruction": "皇上驾到皇上驾到", "output": "安"}'.encode()
    assert "damaged" in str(refuse(raw.replace("安".encode(), b"\xe5")))


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16LE without a mark"),
        ("utf-16-be", "UTF-16BE without a mark"),
        ("utf-32", "UTF-32"),
    ],
)
def test_d17_utf16_is_named(refuse: Callable[..., DataError], codec: str, name: str) -> None:
    message = str(refuse(f"{GOOD_LINE}\n{GOOD_LINE}".encode(codec)))
    assert message.startswith(f"the file is {name} · rows.jsonl:1")
    assert f"iconv -f {name.split()[0]} -t UTF-8 rows.jsonl > rows.utf8.jsonl" in message


def test_file_of_nul_bytes_is_binary(refuse: Callable[..., DataError]) -> None:
    assert "the file is binary" in str(refuse(b"\0" * 500))
