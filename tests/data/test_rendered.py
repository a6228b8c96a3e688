"""Text files: a document is one row, rendered conversations are one row each."""

from __future__ import annotations

from collections.abc import Callable

import pytest

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


def test_d22_a_document_beyond_the_limit_is_refused(refuse: Callable[..., DataError]) -> None:
    assert "row is larger than 8,000,000 bytes · story.txt:1" in str(
        refuse("x" * 8_100_000 + " y\n.", "story.txt")
    )


def test_a_text_file_beyond_memory_is_refused(
    refuse: Callable[..., DataError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sapwood.data.rendered.MAX_TEXT_BYTES", 10)
    assert "the file is too large" in str(refuse("once upon a time", "story.txt"))
