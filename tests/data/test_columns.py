"""A file's own column names, by data.columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sapwood.config.file import parse_config
from sapwood.config.sections import DataConfig
from sapwood.data.formats import ReadReport, read_conversations
from sapwood.errors import ConfigError, DataError
from sapwood.types import Conversation


def read(
    folder: Path, rows: list[dict[str, Any]], columns: Any, report: ReadReport | None = None
) -> list[Conversation]:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = DataConfig(train=("rows.jsonl",), columns=columns)
    return list(read_conversations(config, root=folder, report=report))


def test_columns_take_the_place_of_keys(tmp_path: Path) -> None:
    row = {"q": "why?", "a": "so.", "s": "be brief", "prompt": "not this", "id": 7}
    report = ReadReport()
    columns = {"prompt": "q", "completion": "a", "system": "s"}
    (conversation,) = read(tmp_path, [row], columns, report)
    found = [(m.role, m.content) for m in conversation.messages]
    assert found == [("system", "be brief"), ("user", "why?"), ("assistant", "so.")]
    assert report.formats == {"rows.jsonl": "prompt-completion"}
    assert set(report.ignored_keys) == {"id"}


def test_turns_and_text_may_be_named_too(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    conversation, _ = read(tmp_path, [{"dialog": turns}] * 2, {"messages": "dialog"})
    assert [m.content for m in conversation.messages] == ["q", "a"]
    (document,) = read(tmp_path, [{"body": "words"}], {"text": "body"})
    assert (document.text, document.messages) == ("words", ())


def test_each_row_without_a_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    rows = [{"q": "a", "a": "b"}, {"Q": "a", "a": "b"}, {"x": 1}]
    with pytest.raises(DataError) as caught:
        read(tmp_path, rows, {"prompt": "q", "completion": "a", "system": "s"})
    assert [str(problem) for problem in caught.value.problems] == [
        "column 'q' is missing · rows.jsonl:2 · data.columns reads 'prompt' from it · "
        "set data.columns.prompt=Q",
        "column 'q' is missing · rows.jsonl:3 · data.columns reads 'prompt' from it · columns: 'x'",
        "column 'a' is missing · rows.jsonl:3 · data.columns reads 'completion' from it · columns: 'x'",
    ]


def test_a_key_that_no_shape_has_is_refused_by_the_config() -> None:
    with pytest.raises(ConfigError, match=r"data\.columns"):
        parse_config({"data": {"train": "x", "columns": {"promt": "q"}}})
