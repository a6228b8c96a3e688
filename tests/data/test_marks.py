"""Keys that say which answers are bad, which turns count and what an answer's reasoning is, as files spell
them: each is used, or a question whose mends work."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sapwood.config.sections import DataConfig
from sapwood.data.formats import ReadReport, read_conversations
from sapwood.errors import DataError
from sapwood.types import Conversation

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
PAIR = {"prompt": "q", "completion": "a"}


def read(folder: Path, *rows: Any, report: ReadReport | None = None, **data: Any) -> list[Conversation]:
    text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    return list(read_conversations(DataConfig(train=("rows.jsonl",), **data), root=folder, report=report))


def refused(folder: Path, *rows: Any, **data: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, *rows, **data)
    return str(caught.value)


# --- verdicts on answers ------------------------------------------------------------------------------------

BAD = [
    {"label": False}, {"Label": "FALSE"}, {"label": "bad"}, {"label": "Undesirable"},
    {"label": "thumbs down"}, {"kto_tag": False}, {"is_good": "false"}, {"accepted": False},
    {"chosen": False}, {"is_correct": False}, {"rejected": True}, {"thumbs_down": "true"},
    {"feedback": "negative"}, {"rating": "bad"},
]  # fmt: skip
GOOD = [
    {"label": True}, {"label": "desirable"}, {"kto_tag": True}, {"rejected": False}, {"feedback": "positive"},
]  # fmt: skip
NO_VERDICT = [
    {"label": "sports"}, {"label": 3}, {"rating": 4.5}, {"correct": "B"}, {"rejected": "another answer"},
    {"rejected": "true"}, {"feedback": "It was long."}, {"label": None}, {"score": 0.5},
]  # fmt: skip
DOUBTFUL = [{"label": value} for value in (0, 1, "0", "1", -1, 0.3)] + [{"is_good": 0}, {"feedback": -1}]


@pytest.mark.parametrize("mark", BAD, ids=str)
def test_a_verdict_in_any_spelling_keeps_a_bad_answer_out(mark: dict[str, Any], tmp_path: Path) -> None:
    message = refused(tmp_path, {**PAIR, **mark}, {"prompt": "q", "completion": "other"})
    assert message.startswith("the row is labelled as bad · rows.jsonl:1")
    key = next(iter(mark)).casefold()
    assert f"data.ignore={key} " in message
    assert len(read(tmp_path, {**PAIR, **mark}, ignore=key)) == 1
    kept = read(tmp_path, {**PAIR, **mark}, {"prompt": "q", "completion": "other"}, bad_rows="drop")
    assert [one.messages[1].content for one in kept] == ["other"]


@pytest.mark.parametrize("mark", GOOD, ids=str)
def test_a_good_verdict_is_used_and_not_noted(mark: dict[str, Any], tmp_path: Path) -> None:
    report = ReadReport()
    assert len(read(tmp_path, {**PAIR, **mark}, report=report)) == 1
    assert not report.ignored_keys


@pytest.mark.parametrize("mark", NO_VERDICT, ids=str)
def test_what_is_no_verdict_is_noted(mark: dict[str, Any], tmp_path: Path) -> None:
    report = ReadReport()
    assert len(read(tmp_path, {**PAIR, **mark}, report=report)) == 1
    assert [*report.ignored_keys] == [*mark]


@pytest.mark.parametrize("mark", DOUBTFUL, ids=str)
def test_a_verdict_that_may_be_a_class_is_a_question(mark: dict[str, Any], tmp_path: Path) -> None:
    key = next(iter(mark))
    assert f"'{key}' is {float(mark[key]):g}, which can mean two things" in refused(
        tmp_path, {**PAIR, **mark}
    )
    assert len(read(tmp_path, {**PAIR, **mark}, ignore=key)) == 1


def test_verdicts_in_the_cells_of_a_table_are_read_like_any_other(tmp_path: Path) -> None:
    for cell, told in (("0", "two things"), ("FALSE", "labelled as bad"), ("rejected", "labelled as bad")):
        (tmp_path / "t.csv").write_text(f"prompt,completion,label\nq,a,{cell}\n")
        with pytest.raises(DataError, match=told):
            list(read_conversations(DataConfig(train=("t.csv",)), root=tmp_path))


def test_a_column_may_be_mapped_to_the_verdict_and_the_weight(tmp_path: Path) -> None:
    rows = [{**PAIR, "ok": True, "w": 0.5}, {**PAIR, "ok": False, "w": 1}]
    columns = {"label": "ok", "weight": "w"}
    (found,) = read(tmp_path, *rows, columns=columns, bad_rows="drop")
    assert found.weight == 0.5


# --- marks of turns and rows --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mark",
    [{"Loss": False}, {"TRAIN": "false"}, {"masked": True}, {"loss_weight": 0}, {"loss_scale": 0.0},
     {"trainable": False}, {"label": False}],
    ids=str,
)  # fmt: skip
def test_a_mark_of_a_turn_counts_in_any_spelling(mark: dict[str, Any], tmp_path: Path) -> None:
    report = ReadReport()
    (found,) = read(tmp_path, {"messages": [Q, A, Q, {**A, **mark}]}, report=report)
    assert [m.trained for m in found.messages] == [None, None, None, False]
    assert not report.ignored_keys


@pytest.mark.parametrize("key", ["train_on_turn", "is_masked", "weights", "learn", "train_detail"])
def test_a_key_of_a_turn_that_may_be_a_mark_is_a_question(key: str, tmp_path: Path) -> None:
    row = {"messages": [Q, {**A, key: [1]}]}
    assert f"'messages[1].{key}' is not read" in refused(tmp_path, row)
    assert len(read(tmp_path, row, ignore=key)) == 1


@pytest.mark.parametrize("mark", [{"loss": False}, {"output_with_loss": False}, {"mask": True}], ids=str)
def test_a_mark_beside_a_prompt_and_its_answer_counts_for_the_answer(
    mark: dict[str, Any], tmp_path: Path
) -> None:
    turns = [{"input": "q", "output": "a", **mark}, {"input": "q", "output": "b", "weight": 0.5}]
    (found,) = read(tmp_path, {"conversation": turns})
    assert [(m.trained, m.weight) for m in found.messages if m.role == "assistant"] == [
        (False, None),
        (True, 0.5),
    ]


@pytest.mark.parametrize(
    "mark", [{"train": False}, {"loss": 0}, {"mask": True}, {"Loss_Mask": "false"}], ids=str
)
def test_a_mark_of_a_whole_row_leaves_it_out_by_name(mark: dict[str, Any], tmp_path: Path) -> None:
    key = next(iter(mark)).casefold()
    for row in ({**PAIR, **mark}, {"messages": [Q, A], **mark}):
        message = refused(tmp_path, row)
        assert "it is not to be learnt" in message
        assert "data.bad_rows=drop" in message
        assert len(read(tmp_path, row, ignore=key)) == 1


def test_a_mark_of_a_row_that_is_none_is_a_question(tmp_path: Path) -> None:
    for mark in ({"loss": 2.31}, {"mask": "User"}, {"train": 0.5}):
        (key,) = mark
        assert f"'{key}' is not true or false" in refused(tmp_path, {**PAIR, **mark})
        assert read(tmp_path, {**PAIR, **mark}, ignore=key)[0].weight is None


def test_every_name_of_a_rows_weight_counts_and_a_blank_cell_is_none(tmp_path: Path) -> None:
    rows = [{**PAIR, "sample_weight": 0.5}, {**PAIR, "weight": ""}, {**PAIR, "weight": 0.5, "loss_weight": 4}]
    assert [one.weight for one in read(tmp_path, *rows)] == [0.5, None, 2.0]


def test_rows_of_several_splits_in_one_file_are_a_question(tmp_path: Path) -> None:
    rows = [{**PAIR, "split": split} for split in ("train", "Test", "validation_matched", "train")]
    message = refused(tmp_path, *rows)
    assert "rows of 3 splits in one file · rows.jsonl · train first at rows.jsonl:1" in message
    assert len(read(tmp_path, *rows, ignore="split")) == 4
    assert len(read(tmp_path, *[{**PAIR, "split": "test"}] * 2)) == 2


# --- reasoning ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["reasoning", "Reasoning_Content", "thinking", "Complex_CoT", "思维链"])
def test_the_reasoning_of_an_answer_in_a_column_of_its_own_is_read(key: str, tmp_path: Path) -> None:
    report = ReadReport()
    (found,) = read(tmp_path, {"question": "q", "answer": "a", key: "hm, so"}, report=report)
    assert found.messages[1].reasoning == "hm, so"
    assert not report.ignored_keys
    (switched,) = read(tmp_path, {"question": "q", "answer": "a", key: "off"})
    assert switched.messages[1].reasoning is None


def test_reasoning_that_has_no_place_is_a_question(tmp_path: Path) -> None:
    row = {"messages": [Q, A], "reasoning": "hm, so"}
    assert "'reasoning' is not read" in refused(tmp_path, row)
    assert len(read(tmp_path, row, ignore="reasoning")) == 1
    turn = {"messages": [Q, {**A, "reasoning_details": [{"text": "hm"}]}]}
    assert "it may be the reasoning of the turn" in refused(tmp_path, turn)
    assert read(tmp_path, {"messages": [Q, {**A, "thinking": False}]})[0].messages[1].reasoning is None


@pytest.mark.parametrize("key", ["passage", "document", "article", "choices", "options"])
def test_what_a_question_may_be_about_is_asked_for_and_the_mends_work(key: str, tmp_path: Path) -> None:
    value = ["x", "y"] if key in ("choices", "options") else "the text"
    row = {"question": "q", "answer": "a", key: value}
    message = refused(tmp_path, row)
    assert f"'{key}' is not read" in message
    assert read(tmp_path, row, ignore=key)[0].messages[0].content == "q"
    if mend := re.search(r"data\.columns\.context=(\w+)", message):
        columns = {"context": mend.group(1)}
        assert read(tmp_path, row, columns=columns)[0].messages[0].content == "q\nthe text"
    assert len(read(tmp_path, {"messages": [Q, A], key: value})) == 1


@pytest.mark.parametrize("key", ["image", "Images", "audio", "videos"])
def test_a_row_with_more_than_text_is_a_question(key: str, tmp_path: Path) -> None:
    for row in ({**PAIR, key: ["x"]}, {"messages": [Q, A], key: "x"}, {"messages": [{**Q, key: ["x"]}, A]}):
        assert "only text is learnt" in refused(tmp_path, row)
    assert len(read(tmp_path, {**PAIR, key: []}, {**PAIR, key: None})) == 2
    assert len(read(tmp_path, {**PAIR, key: ["x"]}, ignore=key.casefold())) == 1


@pytest.mark.parametrize("key", ["systemPrompt", "System Prompt", "sys_prompt", "system-message", "sys"])
def test_a_system_prompt_is_known_by_each_of_its_names(key: str, tmp_path: Path) -> None:
    for row in ({**PAIR, key: "s"}, {"messages": [Q, A], key: "s"}):
        (found,) = read(tmp_path, row)
        assert (found.messages[0].role, found.messages[0].content) == ("system", "s")


def test_earlier_turns_are_read_or_asked_about(tmp_path: Path) -> None:
    (found,) = read(tmp_path, {**PAIR, "chat_history": [["x", "y"]]})
    assert [message.content for message in found.messages] == ["x", "y", "q", "a"]
    row = {"messages": [Q, A], "history": [["x", "y"]]}
    assert "it may be the turns before" in refused(tmp_path, row)
    assert len(read(tmp_path, row, ignore="history")) == 1


@pytest.mark.parametrize("key", ["tools", "functions", "context", "documents", "tool_responses"])
def test_a_key_of_a_turn_that_a_template_may_want_is_a_question(key: str, tmp_path: Path) -> None:
    row = {"messages": [{**Q, key: [{"name": "f"}]}, A]}
    assert f"'messages[0].{key}' is not read" in refused(tmp_path, row)
    assert len(read(tmp_path, row, ignore=key)) == 1


def test_a_second_text_of_a_turn_is_noted(tmp_path: Path) -> None:
    report = ReadReport()
    read(tmp_path, {"messages": [{**Q, "value": "other"}, {**A, "id": 3}]}, report=report)
    assert [*report.ignored_keys] == ["messages[].id", "messages[].value"]


def test_what_a_row_tells_the_template_is_a_question(tmp_path: Path) -> None:
    row = {"messages": [Q, A], "chat_template_kwargs": {"enable_thinking": False}}
    assert "'chat_template_kwargs' is not read" in refused(tmp_path, row)
    assert len(read(tmp_path, row, ignore="chat_template_kwargs")) == 1
    assert len(read(tmp_path, {"messages": [Q, A], "chat_template_kwargs": {}})) == 1
