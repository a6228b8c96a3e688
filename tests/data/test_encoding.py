"""Bytes to text: marks, line ends, and encodings that are not UTF-8."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sapwood.config.file import parse_config
from sapwood.config.sections import DataConfig
from sapwood.data.files.charset import readings
from sapwood.data.formats import read_conversations
from sapwood.errors import ConfigError, DataError
from sapwood.types import Row
from tests.data.encodings_texts import TEXTS

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


def test_d16_bytes_of_another_encoding_are_asked_for_with_a_line_of_each(
    refuse: Callable[..., DataError],
) -> None:
    line = '{"instruction": "a", "output": "Les élèves étudient. Où est le café ? À la forêt."}'
    error = refuse(GOOD_LINE.encode() + b"\n" + line.encode("latin-1"))
    offset = len(GOOD_LINE) + 1 + line.index("é")
    assert str(error).startswith(f"not UTF-8: byte 0xe9 at offset {offset} · rows.jsonl:2 · as ")
    assert "élèves" in str(error)
    assert "data.encoding=cp1252" in str(error)
    assert "iconv" not in str(error)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_d16_gb18030_is_named_and_read_as_told(
    refuse: Callable[..., DataError], tmp_path: Path, name: str
) -> None:
    line = '{"instruction": "皇上驾到", "output": "皇上万福金安"}'
    content = f"{GOOD_LINE}\n{line}\n" if name == "rows.jsonl" else f"[{GOOD_LINE},\n{line}]"
    error = refuse(content.encode("gb18030"), name)
    assert f"{name}:2 · as gb18030 it reads" in str(error)
    assert "皇上驾到" in str(error)
    assert "data.encoding=gb18030" in str(error)
    config = DataConfig(train=(name,), encoding="gb18030")
    found = list(read_conversations(config, root=tmp_path))
    assert [m.content for m in found[1].messages] == ["皇上驾到", "皇上万福金安"]


def test_a_wrong_encoding_is_refused_with_the_place(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(f'{GOOD_LINE}\n{{"instruction": "é'.encode("latin-1"))
    with pytest.raises(DataError, match=r"not gb18030: byte 0xe9 at offset 54 · rows\.jsonl:2"):
        list(read_conversations(DataConfig(train=("rows.jsonl",), encoding="gb18030"), root=tmp_path))


@pytest.mark.parametrize("encoding", ["base64", "no-such"])
def test_what_is_no_encoding_of_text_is_refused_by_the_config(encoding: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.encoding"):
        parse_config({"data": {"train": "x", "encoding": encoding}})


def test_14_encodings_are_recognised_or_asked_for_and_no_advice_is_wrong() -> None:
    """The figure: at least 95 % of 14 encodings x 5 texts, and never a single answer that spoils the text."""
    told, wrong = 0, 0
    for encoding, texts in TEXTS.items():
        assert len(texts) == 5
        for text in texts:
            assert len(text) >= 200
            raw = text.encode(encoding)
            found = readings(raw)
            right = [one for one in found if raw.decode(one.encoding) == text]
            told += bool(right)
            wrong += len(found) == 1 and not right
    assert len(TEXTS) == 14
    assert told >= 0.95 * 70
    assert wrong == 0


@pytest.mark.parametrize("encoding", TEXTS)
def test_what_the_question_offers_reads_the_file(encoding: str, tmp_path: Path) -> None:
    """Each offered name is one that data.encoding takes, and the right one gives the text back."""
    text = TEXTS[encoding][0]
    (tmp_path / "t.jsonl").write_bytes(
        json.dumps({"instruction": "q", "output": text}, ensure_ascii=False).encode(encoding)
    )
    with pytest.raises(DataError) as caught:
        list(read_conversations(DataConfig(train=("t.jsonl",)), root=tmp_path))
    offered = re.findall(r"data\.encoding=([\w-]+)", str(caught.value))
    read_back: list[str | None] = []
    for name in offered:
        config = DataConfig(train=("t.jsonl",), encoding=name)
        read_back.append(next(read_conversations(config, root=tmp_path)).messages[1].content)
    assert text in read_back


def test_d16_one_damaged_byte_in_utf8_is_no_other_encoding(refuse: Callable[..., DataError]) -> None:
    raw = '{"instruction": "皇上驾到皇上驾到", "output": "安"}'.encode()
    assert "damaged" in str(refuse(raw.replace("安".encode(), b"\xe5")))


@pytest.mark.parametrize("codec", ["utf-16", "utf-32"])
def test_d17_utf16_with_a_mark_is_read(read: Callable[..., list[Row]], codec: str) -> None:
    for name in ("rows.jsonl", "rows.json"):
        content = f"{GOOD_LINE}\n{GOOD_LINE}" if name == "rows.jsonl" else f"[{GOOD_LINE},{GOOD_LINE}]"
        assert values(read(content.encode(codec), name)) == [GOOD] * 2


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_d17_utf16_without_a_mark_is_named(refuse: Callable[..., DataError], codec: str) -> None:
    message = str(refuse(f"{GOOD_LINE}\n{GOOD_LINE}".encode(codec)))
    assert message.startswith(f"the file is {codec} without a mark · rows.jsonl:1")
    assert message.endswith(f"data.encoding={codec}")


def test_file_of_nul_bytes_is_binary(refuse: Callable[..., DataError]) -> None:
    assert "the file is binary" in str(refuse(b"\0" * 500))
