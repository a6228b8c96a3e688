"""Text files: a document is one row, rendered conversations are one row each."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from sapwood.data.files.sources import read_rows, stream_rows
from sapwood.data.problems import ProblemLog
from sapwood.errors import DataError
from sapwood.types import Row

CHATML = "<|im_start|>user\nq\n\nmore<|im_end|>\n<|im_start|>assistant\na<|im_end|>"
LLAMA = "<s>[INST] q\nmore [/INST] a </s><s>[INST] q2 [/INST] a2 </s>"
GEMMA = "<bos><start_of_turn>user\nq<end_of_turn>\n<start_of_turn>model\na<end_of_turn>"


def texts(rows: list[Row]) -> list[str]:
    return [row.value["text"] for row in rows]


@pytest.mark.parametrize(
    "document",
    ["Once upon a time.\n\nThe end.", "a, b\nc, d", "{not json}\nbut a poem", "see [INST] in the manual"],
)
def test_a_document_is_one_row(read: Callable[..., list[Row]], document: str) -> None:
    assert texts(read(f"{document}\n", "story.txt")) == [document]


@pytest.mark.parametrize("conversation", [LLAMA, GEMMA, f"<|im_start|>system\ns<|im_end|>\n{CHATML}"])
@pytest.mark.parametrize("between", ["\n", "\r\n", "\n\n"])
def test_rendered_conversations_are_a_row_each(
    read: Callable[..., list[Row]], conversation: str, between: str
) -> None:
    rows = read(between.join([conversation] * 3) + "\n", "rows.txt")
    assert texts(rows) == [conversation] * 3
    step = conversation.count("\n") + between.count("\n")
    assert [row.id.line for row in rows] == [1, 1 + step, 1 + 2 * step]


def test_turns_without_an_opener_are_cut_at_empty_lines_only(read: Callable[..., list[Row]]) -> None:
    assert texts(read(f"{CHATML}\n\n{CHATML}\n{CHATML}", "rows.txt")) == [CHATML, f"{CHATML}\n{CHATML}"]


def test_json_and_tables_named_txt_are_still_found(read: Callable[..., list[Row]]) -> None:
    assert read('{"text": "a"}\n{"text": "b"}\n', "rows.txt")[1].value == {"text": "b"}
    assert read("instruction,output\na,b\n", "rows.txt")[0].value == {"instruction": "a", "output": "b"}
    assert read('[\n{"text": "a"}\n]', "rows.txt")[0].id.line == 2


def test_a_document_beyond_the_limit_is_refused(refuse: Callable[..., DataError]) -> None:
    assert "row is larger than 8,000,000 bytes · story.txt:1" in str(
        refuse("x" * 8_100_000 + " y\n.", "story.txt")
    )


ONE = "<|im_start|>user\nq\n\nmore<|im_end|>\n<|im_start|>assistant\na<|im_end|>"
FILES = [
    f"{ONE}\n\n{ONE}\n",
    "\n\n  <s>[INST] q [/INST] a </s>\r\n<s>[INST] 问\r\n题 [/INST] 答 </s>\r\n\r\n",
    f"{ONE}\n \t\n\n{ONE}\n\n\n\n{ONE}",
    "once upon a time\n\n<s> in a text\n",
    "\n\n<s>\n\n",
]


@pytest.mark.parametrize("content", FILES)
def test_text_is_cut_alike_through_any_window(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.txt").write_bytes(content.encode())
    whole = [(row.id, row.value) for row in read_rows(["rows.txt"], root=tmp_path)]
    for size in (1, 2, 5, 40):
        monkeypatch.setattr("sapwood.data.files.window.CHUNK", size)
        assert [(row.id, row.value) for row in read_rows(["rows.txt"], root=tmp_path)] == whole


def test_memory_is_flat_in_the_size_of_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text(f"<s>[INST] q [/INST] {'a' * 1000} </s>\n" * 20_000)
    tracemalloc.start()
    try:
        lines = [row.id.line for row in read_rows(["rows.txt"], root=tmp_path)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert lines == list(range(1, 20_001))
    assert peak < 12_000_000


def test_a_conversation_beyond_the_limit_is_refused_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sapwood.data.rendered.MAX_ROW_BYTES", 1000)
    monkeypatch.setattr("sapwood.data.files.window.CHUNK", 100)
    small, large = "<s>[INST] q [/INST] a </s>\n", f"<s>[INST] q [/INST] {'word ' * 900} </s>\n"
    (tmp_path / "rows.txt").write_text(small + large + small + large)
    log = ProblemLog()
    rows = list(stream_rows(["rows.txt"], tmp_path, log))
    assert [row.id.line for row in rows] == [1, 3]
    assert [problem.where for problem in log.kept] == ["rows.txt:2", "rows.txt:4"]
