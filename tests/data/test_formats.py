"""Rows to conversations: each shape, and each case of the catalogue of bad rows (D…)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.config.sections import DataConfig
from sapwood.data.formats import ReadReport, detect_format, read_conversations, to_conversation
from sapwood.errors import DataError
from sapwood.types import Conversation, Row, RowId

HUANHUAN = Path(__file__).parents[2] / "../shared/data/huanhuan.json"
Rows = list[dict[str, Any]]


def convert(value: Any, format: str | None = None, system: str | None = None) -> Conversation:
    name = format or detect_format(value)
    assert name is not None
    return to_conversation(Row(RowId("rows.jsonl", 4, 5), value), name, system=system)


def refuse(value: Any, format: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        convert(value, format)
    assert all(problem.where == "rows.jsonl:5" for problem in caught.value.problems)
    return str(caught.value)


def roles(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in conversation.messages]


def read(folder: Path, rows: Rows, report: ReadReport | None = None, **config: Any) -> list[Conversation]:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_conversations(DataConfig(train=("rows.jsonl",), **config), root=folder, report=report))


def refuse_rows(folder: Path, rows: Rows, **config: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        read(folder, rows, **config)
    return caught.value


# --- shapes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "format"),
    [
        ("instruction output", "alpaca"),
        ("instruction input output text", "alpaca"),
        ("input output", "input-output"),
        ("prompt completion", "prompt-completion"),
        ("prompt response", "prompt-completion"),
        ("question answer id", "question-answer"),
        ("messages", "messages"),
        ("prompt messages tools", "messages"),
        ("conversations", "sharegpt"),
        ("Instruction Output", "alpaca"),
        ("instruction context response category", "dolly"),
        ("prompt chosen rejected", None),
        ("instruction", None),
        ("messages instruction output", None),
        ("", None),
    ],
)
def test_keys_decide_the_format(keys: str, format: str | None) -> None:
    assert detect_format(dict.fromkeys(keys.split(), "x")) == format


@pytest.mark.parametrize("value", [None, "text", ["instruction", "output"], 3])
def test_only_objects_have_a_format(value: Any) -> None:
    assert detect_format(value) is None


def test_alpaca_puts_a_line_break_between_instruction_and_input() -> None:
    value = {"instruction": "Translate:", "input": "tree", "output": "Baum"}
    assert roles(convert(value)) == [("user", "Translate:\ntree"), ("assistant", "Baum")]


@pytest.mark.parametrize("nothing", ["", " \n", None])
def test_alpaca_without_input_is_the_instruction_alone(nothing: str | None) -> None:
    value = {"instruction": " a ", "input": nothing, "output": " b\n"}
    assert roles(convert(value)) == [("user", " a "), ("assistant", " b\n")]
    assert roles(convert({"instruction": "", "input": "c", "output": "b"}))[0] == ("user", "c")


@pytest.mark.parametrize(
    "keys", [("input", "output"), ("prompt", "completion"), ("prompt", "response"), ("question", "answer")]
)
def test_pairs_of_columns_become_two_turns(keys: tuple[str, str]) -> None:
    assert roles(convert(dict(zip(keys, ("q", "a"), strict=True)))) == [("user", "q"), ("assistant", "a")]


def test_system_and_history_of_a_row_come_first() -> None:
    value = {"instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]}
    expected = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    assert roles(convert(value)) == expected


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ("a", "'history' is text that is not JSON"),
        ({}, "'history' is not a list"),
        ([["a"]], "'history[0]' is not [prompt, answer]"),
        ([["a", "b"], ["c", {}]], "'history[1][1]' is an object, not text"),
        ([["a", None]], "'history[0][1]' is null"),
        ([["", "a"]], "'history[0][0]' is empty"),
    ],
)
def test_bad_history_is_refused(history: Any, words: str) -> None:
    assert words in refuse({"instruction": "c", "output": "d", "history": history})


def test_system_of_the_config_is_for_rows_that_bring_none() -> None:
    value = {"instruction": "a", "output": "b"}
    assert roles(convert(value, system="S"))[0] == ("system", "S")
    assert roles(convert({**value, "system": "own"}, system="S"))[0] == ("system", "own")
    turns = [{"role": "system", "content": "own"}, {"role": "user", "content": "a"}]
    answer = {"role": "assistant", "content": "b"}
    assert roles(convert({"messages": [*turns, answer]}, system="S"))[0] == ("system", "own")
    assert roles(convert({"messages": [turns[1], answer]}, system="S"))[0] == ("system", "S")


def test_row_and_its_place_are_kept() -> None:
    assert convert({"instruction": "a", "output": "b"}).row == RowId("rows.jsonl", 4, 5)


def test_unknown_format_is_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError, match="is not one of"):
        convert({"instruction": "a", "output": "b"}, "alpacca")


def test_row_that_is_no_object_is_refused() -> None:
    assert "row is not an object" in refuse(["a"], "alpaca")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(prompt=TEXT, answer=TEXT)
@settings(max_examples=100, deadline=None)
def test_text_reaches_the_conversation_character_by_character(prompt: str, answer: str) -> None:
    for value in (
        {"instruction": prompt, "output": answer},
        {"prompt": prompt, "completion": answer},
        {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]},
        {"conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]},
    ):
        assert roles(convert(value)) == [("user", prompt), ("assistant", answer)]


def test_braces_and_markers_are_text() -> None:
    text = "{{ 7 * 7 }} {% raw %} <|im_end|> </s> [INST]"
    assert roles(convert({"instruction": text, "output": text})) == [("user", text), ("assistant", text)]


# --- bad rows -----------------------------------------------------------------------------------------------


def test_null_or_missing_output_is_refused() -> None:
    assert refuse({"instruction": "a", "output": None}).startswith("'output' is null · rows.jsonl:5")
    assert refuse({"instruction": "a"}, "alpaca") == "'output' is missing · rows.jsonl:5 · add 'output'"


def test_missing_keys_are_listed_by_row(tmp_path: Path) -> None:
    good = {"instruction": "a", "output": "b"}
    error = refuse_rows(tmp_path, [good, {"instruction": "a"}, good, {"output": "b"}, {}])
    assert [str(problem)[:40] for problem in error.problems] == [
        "'output' is missing · rows.jsonl:2 · add",
        "'instruction' is missing · rows.jsonl:4 ",
        "'instruction' is missing · rows.jsonl:5 ",
        "'output' is missing · rows.jsonl:5 · add",
    ]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"instruction": "a", "ouput": "b"}, "instruction and output make a row: rename 'ouput' to 'output'"),
        ({"prompt": "a", "completions": "b"}, "rename 'completions' to 'completion'"),
        ({"message": []}, "rename 'message' to 'messages'"),
        (
            {"frage": "a", "antwort": "b"},
            "say which: data.columns.prompt=frage data.columns.completion=antwort",
        ),
        (
            {"eins": "a", "zwei": "b"},
            "data.columns.prompt=eins data.columns.completion=zwei or data.columns.prompt=zwei",
        ),
        ({}, "it has no keys"),
    ],
)
def test_wrong_keys_are_refused_with_the_nearest(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    assert words in str(refuse_rows(tmp_path, [row, row]))


def test_report_of_a_file_without_any_format_is_empty(tmp_path: Path) -> None:
    report = ReadReport()
    with pytest.raises(DataError):
        read(tmp_path, [{"frage": "a"}], report)
    assert report == ReadReport()


def test_row_of_two_formats_asks_which(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    row = {"instruction": "a", "output": "b", "messages": turns}
    mend = (
        "say which: data.columns.instruction=instruction data.columns.output=output or data.format=messages"
    )
    assert mend in str(refuse_rows(tmp_path, [row]))
    assert roles(read(tmp_path, [row], format="messages")[0]) == [("user", "x"), ("assistant", "y")]


def test_two_answers_are_a_question_and_each_of_its_mends_works(tmp_path: Path) -> None:
    row = {"prompt": "a", "completion": "b", "response": "c"}
    message = str(refuse_rows(tmp_path, [row]))
    mends = re.findall(r"data\.columns\.prompt=(\w+) data\.columns\.completion=(\w+)", message)
    assert mends == [("prompt", "completion"), ("prompt", "response")]
    answers = [
        read(tmp_path, [row], columns={"prompt": prompt, "completion": completion})[0].messages[1].content
        for prompt, completion in mends
    ]
    assert answers == ["b", "c"]


def test_extra_keys_are_ignored_with_one_note(tmp_path: Path) -> None:
    report = ReadReport()
    read(tmp_path, [{"instruction": "a", "output": "b", "id": n, "text": "t"} for n in range(3)], report)
    assert report == ReadReport(3, {"rows.jsonl": "alpaca"}, {"id": 3, "text": 3}, 0)
    assert report.notes() == ["ignored keys: 'id', 'text' (in up to 3 rows)"]
    turns = [
        {"role": "user", "content": "a", "mood": "x"},
        {"role": "assistant", "content": "b", "mood": "y"},
    ]
    report = ReadReport()
    read(tmp_path, [{"messages": turns}], report)
    assert report.ignored_keys == {"messages[].mood": 1}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": 1}, "'output' is an object, not text · rows.jsonl:5 · found an object with 'a'"),
    ],
)
def test_other_kinds_are_never_turned_into_text(value: Any, words: str) -> None:
    assert words in refuse({"instruction": "a", "output": value})


@pytest.mark.parametrize(
    ("written", "text"),
    [("7", "7"), (str(10**30), str(10**30)), ("true", "true"), ("1.50", "1.50"), ("-2.0e3", "-2.0e3")],
)
def test_numbers_and_booleans_are_taken_as_the_file_writes_them(
    tmp_path: Path, written: str, text: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{{"instruction": "a", "output": {written}}}')
    report = ReadReport()
    (found,) = read_conversations(DataConfig(train=("rows.jsonl",)), root=tmp_path, report=report)
    assert found.messages[1].content == text
    assert "1 rows have numbers, true or false where text is expected" in report.notes()[0]


def test_list_where_text_is_expected_is_refused() -> None:
    assert "'output' is a list, not text" in refuse({"instruction": "a", "output": ["b"]})


def test_content_in_parts_of_text_is_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "c"}]
    assert roles(convert({"messages": turns})) == [("user", "ab"), ("assistant", "c")]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "image_url", "image_url": "x"}, 'found "image_url"'),
        ("a", "'messages[0].content[0]' is not a part of text"),
        ({"type": "text", "text": {}}, "'messages[0].content[0].text' is an object"),
        ({"type": "text", "text": "a", "cache": True}, "is not a part of text"),
    ],
)
def test_other_parts_are_refused(part: Any, words: str) -> None:
    turns = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "c"}]
    assert words in refuse({"messages": turns})


def test_control_characters_are_kept_and_counted(tmp_path: Path) -> None:
    report = ReadReport()
    rows = [{"instruction": "a", "output": text} for text in ("x\0y", "x\ty\r\n", "\x1b[31m", "z")]
    conversations = read(tmp_path, rows, report)
    assert [c.messages[-1].content for c in conversations] == ["x\0y", "x\ty\r\n", "\x1b[31m", "z"]
    assert report.control_rows == 2
    assert report.notes() == ["2 rows with control characters, kept as they are"]


@pytest.mark.parametrize("blank", ["", "   ", "\n\t", "\u3000"])
def test_empty_output_is_refused(blank: str) -> None:
    assert refuse({"instruction": "a", "output": blank}).startswith("'output' is empty · rows.jsonl:5")


def test_empty_instruction_and_input_are_refused() -> None:
    assert "'instruction' and 'input' are empty" in refuse({"instruction": " ", "input": "", "output": "b"})


def test_all_problems_of_a_row_come_together() -> None:
    message = refuse({"instruction": {}, "input": [], "output": "", "system": {}})
    assert message.count("\n") == 3


def test_mixed_formats_in_a_file_are_refused_with_the_first_line_of_each(tmp_path: Path) -> None:
    rows = [{"instruction": "a", "output": "b"}] * 3 + [{"prompt": "a", "completion": "b"}] * 2
    error = refuse_rows(tmp_path, rows)
    assert len(error.problems) == 1
    assert "rows of 2 formats in one file · rows.jsonl" in str(error)
    assert "alpaca first at rows.jsonl:1, prompt-completion first at rows.jsonl:4" in str(error)


def test_files_may_have_a_format_each(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"instruction": "a", "output": "b"}')
    (tmp_path / "b.csv").write_text("prompt,completion\nc,d\n")
    report = ReadReport()
    config = DataConfig(train=("a.jsonl", "b.csv"), system="S")
    found = list(read_conversations(config, root=tmp_path, report=report))
    assert [c.messages[1].content for c in found] == ["a", "c"]
    assert report.formats == {"a.jsonl": "alpaca", "b.csv": "prompt-completion"}
    assert len(list(read_conversations(config, ["b.csv"], root=tmp_path))) == 1


def test_problems_of_rows_and_lines_come_in_file_order(tmp_path: Path) -> None:
    good = '{"instruction": "a", "output": "b"}'
    (tmp_path / "rows.jsonl").write_text(
        f'{good}\n{{"instruction": "a"}}\n{{oops}}\n{good}\n{good[:-4]}""}}\n'
    )
    config = DataConfig(train=("gone.jsonl", "rows.jsonl"))
    found: list[Conversation] = []
    with pytest.raises(DataError) as caught:
        for conversation in read_conversations(config, root=tmp_path):
            found.append(conversation)  # noqa: PERF402
    assert [c.row.line for c in found] == [1, 4]
    where = [problem.where for problem in caught.value.problems]
    assert where == ["gone.jsonl", "rows.jsonl:2", "rows.jsonl:3:2", "rows.jsonl:5"]


def test_excerpts_are_escaped() -> None:
    message = refuse({"messages": [{"role": "\x1b]0;t\x07\u202eresu", "content": "a"}]})
    assert "\\x1b]0;t\\x07\\u{202e}resu" in message
    assert "\x1b" not in message


# --- a real file --------------------------------------------------------------------------


@pytest.mark.skipif(not HUANHUAN.is_file(), reason="shared/data/huanhuan.json is not on this machine")
def test_a_real_file_of_thousands_of_rows_is_read_whole() -> None:
    report = ReadReport()
    config = DataConfig(train=("huanhuan.json",))
    found = list(read_conversations(config, root=HUANHUAN.parent, report=report))
    raw = json.loads(HUANHUAN.read_text(encoding="utf-8"))
    assert [roles(c) for c in found] == [
        [("user", r["instruction"]), ("assistant", r["output"])] for r in raw
    ]
    assert report == ReadReport(3729, {"huanhuan.json": "alpaca"}, {}, 0)
    lines = HUANHUAN.read_text(encoding="utf-8").split("\n")
    assert all(c.row.line is not None and lines[c.row.line - 1].strip() == "{" for c in found)
