"""What was once learnt in silence though it was not meant, where it is decided as rows are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sapwood.config.sections import DataConfig, RunConfig, TemplateConfig
from sapwood.data.formats import ReadReport, read_conversations
from sapwood.data.held_out import held_out_files
from sapwood.errors import DataError
from sapwood.prepare.answers import learnt_answers
from sapwood.prepare.dataset import prepare_dataset
from sapwood.prepare.rows import Rules
from sapwood.prepare.split import split_eval
from sapwood.types import Conversation, Example
from tests.template.cases import TOOLS, tiny

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def write(folder: Path, *rows: Any, name: str = "rows.jsonl") -> str:
    text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return name


def read(folder: Path, *rows: Any, report: ReadReport | None = None, **data: Any) -> list[Conversation]:
    config = DataConfig(train=(write(folder, *rows),), **data)
    return list(read_conversations(config, root=folder, report=report))


def refused(folder: Path, *rows: Any, **data: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, *rows, **data)
    return str(caught.value)


def test_an_answer_that_is_labelled_as_bad_is_never_learnt_as_a_good_one(tmp_path: Path) -> None:
    good, bad = ({"prompt": "q", "completion": str(label), "label": label} for label in (True, False))
    message = refused(tmp_path, good, bad)
    assert message.startswith("the row is labelled as bad · rows.jsonl:2")
    assert "data.bad_rows=drop" in message
    assert "data.ignore=label" in message
    assert [c.messages[1].content for c in read(tmp_path, good, bad, bad_rows="drop")] == ["True"]
    assert len(read(tmp_path, good, bad, ignore="label")) == 2
    assert "can mean two things" in refused(tmp_path, {**good, "label": 1})
    assert "labelled as bad" in refused(tmp_path, {**good, "label": "False"})
    assert len(read(tmp_path, {**good, "label": "sports"})) == 1


@pytest.mark.parametrize(
    "mark", [{"loss": False}, {"training": False}, {"mask": True}, {"loss_mask": 0}, {"weight": 0}]
)
def test_a_turn_that_another_tool_marks_is_not_learnt(mark: dict[str, Any], tmp_path: Path) -> None:
    turns = [TURNS[0], {**TURNS[1], **mark}, *TURNS]
    report = ReadReport()
    (found,) = read(tmp_path, {"messages": turns}, report=report)
    assert learnt_answers(found, "assistant") == [3]
    assert not report.ignored_keys


def prepared(folder: Path, *rows: Any, processes: int = 1, **sections: Any) -> list[Example]:
    name = write(folder, *rows)
    config = RunConfig(data=DataConfig(train=(str(folder / name),), eval=0.0), **sections)
    rules = Rules(config.template, 256, 512)
    return [*prepare_dataset(config, tiny(), rules, processes).train.examples]


@pytest.mark.parametrize("processes", [1, 2])
def test_fractional_weights_of_turns_and_rows_count_in_the_loss(tmp_path: Path, processes: int) -> None:
    turns = [TURNS[0], {**TURNS[1], "weight": 0.5}, TURNS[0], {**TURNS[1], "loss": True}]
    rows = [{"messages": turns}, {"messages": turns, "weight": 0.5}, {"messages": TURNS}]
    both, row, plain = prepared(tmp_path, *rows, processes=processes)
    runs = np.flatnonzero(np.diff(both.trained.astype(int), prepend=0) == 1)
    assert both.weights is not None
    assert both.weights[both.trained & (np.arange(len(both)) < runs[1])].tolist() == [0.5] * (
        both.num_targets // 2
    )
    assert both.weights[runs[1] :][both.trained[runs[1] :]].tolist() == [1] * (both.num_targets // 2)
    assert row.weight == both.weight / 2
    assert plain.weight == plain.num_targets


def test_rows_with_a_fractional_weight_are_counted_and_other_rows_keep_theirs(tmp_path: Path) -> None:
    report = ReadReport()
    rows = [{"prompt": "q", "completion": "a", "weight": weight} for weight in (0.5, 1, "2.5", 1.0)]
    found = read(tmp_path, *rows, report=report)
    assert [one.weight for one in found] == [0.5, None, 2.5, None]
    assert any("2 rows have a weight" in note for note in report.notes())
    assert [one.weight for one in read(tmp_path, *rows, ignore="weight")] == [None] * 4


def test_a_row_of_text_has_its_weight(tmp_path: Path) -> None:
    (found,) = prepared(
        tmp_path, {"text": "a document", "weight": 0.25}, template=TemplateConfig(train_on="all")
    )
    assert found.weight == found.num_targets / 4


def test_a_weight_that_can_be_none_is_refused_with_mends_that_work(tmp_path: Path) -> None:
    row = {"prompt": "q", "completion": "a"}
    for weight in (-1, 1e9, 1e-9):
        message = refused(tmp_path, {**row, "weight": weight})
        assert "'weight' is no weight" in message
        assert "data.ignore=weight" in message
        assert "data.bad_rows=drop" in message
        assert read(tmp_path, {**row, "weight": weight}, ignore="weight")[0].weight is None
        assert len(read(tmp_path, {**row, "weight": weight}, row, bad_rows="drop")) == 1
    assert "data.ignore=weight" in refused(tmp_path, {**row, "weight": "much"})


def test_turns_with_weights_can_not_be_learnt_as_one_text(tmp_path: Path) -> None:
    turns = [TURNS[0], {**TURNS[1], "weight": 0.5}]
    with pytest.raises(DataError, match=r"template\.train_on=all gives every turn the same weight"):
        prepared(tmp_path, {"messages": turns}, template=TemplateConfig(train_on="all"))


BLANK = [
    {"prompt": "q", "completion": ""},
    {"prompt": " ", "completion": "a"},
    {"prompt": "q", "completion": None},
    {"messages": []},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": None}]},
    {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "a"}]},
]


@pytest.mark.parametrize("blank", BLANK, ids=str)
def test_rows_without_prompt_or_answer_are_an_error_or_left_out_by_name(
    blank: dict[str, Any], tmp_path: Path
) -> None:
    good = {"messages": TURNS} if "messages" in blank else {"prompt": "q", "completion": "a"}
    message = refused(tmp_path, *[blank] * 10, good)
    assert message.count("\n") == 0
    assert "(10 times)" in message
    assert "data.empty=drop leaves such rows out" in message
    report = ReadReport()
    assert len(read(tmp_path, *[blank] * 10, good, empty="drop", report=report)) == 1
    (note,) = [note for note in report.notes() if "left out" in note]
    assert note.startswith(
        "left out (data.empty: drop): 10 rows without prompt or answer, first rows.jsonl:1"
    )


def test_a_blank_row_with_another_fault_is_no_blank_row(tmp_path: Path) -> None:
    message = refused(tmp_path, {"prompt": "", "completion": {"a": 1}}, empty="drop")
    assert "'completion' is an object" in message


def test_nulls_that_only_the_columns_type_brought_are_dropped_and_counted(tmp_path: Path) -> None:
    def row(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        call = {"function": {"name": name, "arguments": arguments}}
        tool = {
            "function": {
                "name": name,
                "parameters": {"properties": {key: {"type": "x"} for key in arguments}},
            }
        }
        return {
            "messages": [TURNS[0], {"role": "assistant", "content": "", "tool_calls": [call]}],
            "tools": [tool],
        }

    rows = [row("weather", {"city": "Oslo"}), row("book", {"people": 2})]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "rows.parquet")
    with pa.ipc.new_stream(str(tmp_path / "rows.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert table.to_pylist()[1] != rows[1]
    for name in ("rows.parquet", "rows.arrow"):
        report = ReadReport()
        found = list(read_conversations(DataConfig(train=(name,)), root=tmp_path, report=report))
        assert [c.messages[1].tool_calls[0] for c in found] == [
            r["messages"][1]["tool_calls"][0] for r in rows
        ]
        assert [[dict(tool) for tool in c.tools] for c in found] == [r["tools"] for r in rows]
        assert "2 rows have nulls that only the column's type brought: dropped" in report.notes()


def test_nulls_of_a_table_that_was_written_as_json_are_dropped_and_other_nulls_counted(
    tmp_path: Path,
) -> None:
    def row(properties: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
        tool = {"function": {"name": "book", "parameters": {"properties": properties}}}
        call = {"function": {"name": "book", "arguments": arguments}}
        turn = {"role": "assistant", "content": None, "tool_calls": [call]}
        return {"messages": [TURNS[0], turn], "tools": [tool]}

    report = ReadReport()
    filled = row({"people": {"type": "integer"}, "city": None}, {"people": 2, "city": None})
    (found,) = read(tmp_path, filled, report=report)
    assert found.messages[1].tool_calls[0]["function"]["arguments"] == {"people": 2}
    assert found.tools[0]["function"]["parameters"]["properties"] == {"people": {"type": "integer"}}
    assert report.notes() == ["1 rows have nulls that only the column's type brought: dropped"]
    report = ReadReport()
    (found,) = read(tmp_path, row({"city": {}}, {"city": None}), report=report)
    assert found.messages[1].tool_calls[0]["function"]["arguments"] == {"city": None}
    assert report.notes() == ["1 rows have calls with arguments that are null: learnt as null"]


def test_arguments_in_a_column_of_maps_are_an_object(tmp_path: Path) -> None:
    arguments = pa.map_(pa.string(), pa.string())
    call = pa.struct([("function", pa.struct([("name", pa.string()), ("arguments", arguments)]))])
    turn = pa.struct([("role", pa.string()), ("content", pa.string()), ("tool_calls", pa.list_(call))])
    said = {"function": {"name": "f", "arguments": [("city", "Oslo")]}}
    turns = [{**TURNS[0]}, {"role": "assistant", "content": "", "tool_calls": [said]}]
    pq.write_table(pa.table({"messages": pa.array([turns], pa.list_(turn))}), tmp_path / "rows.parquet")
    (found,) = read_conversations(DataConfig(train=("rows.parquet",)), root=tmp_path)
    assert found.messages[1].tool_calls[0]["function"]["arguments"] == {"city": "Oslo"}


def test_a_context_is_a_part_of_the_prompt_or_a_question(tmp_path: Path) -> None:
    row = {"question": "q", "context": "c", "answer": "a"}
    report = ReadReport()
    (found,) = read(tmp_path, row, report=report)
    assert found.messages[0].content == "q\nc"
    assert (
        "1 rows have a 'context': it follows 'question' in the prompt, after a line break" in report.notes()
    )
    assert read(tmp_path, row, ignore="context")[0].messages[0].content == "q"
    assert "data.ignore=context" in refused(tmp_path, {"messages": TURNS, "context": "c"})
    assert len(read(tmp_path, {"messages": TURNS, "context": None})) == 1


def test_the_former_function_call_is_the_tool_call_that_it_is(tmp_path: Path) -> None:
    call = {"name": "f", "arguments": '{"x": 1}'}
    turns = [TURNS[0], {"role": "assistant", "content": "see", "function_call": call},
             {"role": "function", "name": "f", "content": "4"}, TURNS[1]]  # fmt: skip
    report = ReadReport()
    (found,) = read(tmp_path, {"messages": turns, "functions": [{"name": "f"}]}, report=report)
    assert found.messages[1].content == "see"
    assert found.messages[1].tool_calls == ({"type": "function", "function": call},)
    assert (found.messages[2].role, found.messages[2].name) == ("tool", "f")
    assert found.tools == ({"type": "function", "function": {"name": "f"}},)
    assert not report.ignored_keys


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content", "thinking"])
def test_the_reasoning_of_a_turn_is_kept_under_each_of_its_names(key: str, tmp_path: Path) -> None:
    (found,) = read(tmp_path, {"messages": [TURNS[0], {**TURNS[1], key: "hm"}]})
    assert found.messages[1].reasoning == "hm"


def test_name_and_tool_call_id_of_a_turn_are_kept(tmp_path: Path) -> None:
    turn = {"role": "tool", "name": "f", "tool_call_id": "call00000", "content": "4"}
    (found,) = read(tmp_path, {"messages": [*TURNS, turn, TURNS[1]]})
    assert (found.messages[2].name, found.messages[2].tool_call_id) == ("f", "call00000")


def test_null_beside_calls_stays_null(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    for content, kept in ((None, None), ("", "")):
        turn = {"role": "assistant", "content": content, "tool_calls": [call]}
        assert read(tmp_path, {"messages": [TURNS[0], turn]})[0].messages[1].content == kept


def test_quotes_in_the_cells_of_a_tsv_are_text_unless_they_balance_in_every_row(tmp_path: Path) -> None:
    def cells(text: str) -> tuple[list[list[str | None]], list[str]]:
        (tmp_path / "rows.tsv").write_text(text)
        report = ReadReport()
        found = read_conversations(DataConfig(train=("rows.tsv",)), root=tmp_path, report=report)
        return [[m.content for m in c.messages] for c in found], report.notes()

    text = 'prompt\tcompletion\n"Hi" she said\tyes\n"Stop\tno\nand"\tend\n'
    rows, notes = cells(text)
    assert rows == [['"Hi" she said', "yes"], ['"Stop', "no"], ['and"', "end"]]
    assert "quotes don't balance in every row" in notes[0]
    rows, notes = cells('prompt\tcompletion\n"a ""b"""\t"c"\n')
    assert (rows, notes) == ([['a "b"', "c"]], [])
    rows, notes = cells('prompt\tcompletion\n"two\nlines"\t"c"\n')
    assert (rows, notes) == ([["two\nlines", "c"]], [])
    rows, notes = cells('prompt\tcompletion\n"two\nlines"\t"c"\n"Stop\tno\nand"\tend\n')
    assert rows[1] == ["Stop\tno\nand", "end"]
    assert notes == ["1 rows have a cell with a tab and a line break between its quotes"]


def test_the_names_of_splits_in_a_folder_are_obeyed(tmp_path: Path) -> None:
    for name, count in (("train", 8), ("validation", 4), ("test", 4)):
        write(
            tmp_path,
            *({"prompt": f"{name}{i}", "completion": "a"} for i in range(count)),
            name=f"d/{name}.jsonl",
        )
    report = ReadReport()
    config = DataConfig(train=("d",))
    found = list(read_conversations(config, root=tmp_path, report=report))
    assert {str(c.messages[0].content)[:5] for c in found} == {"train"}
    assert report.notes()[0] == (
        "d: 'train.jsonl' is learnt; 'validation.jsonl', 'test.jsonl' is another split, and not learnt"
    )
    assert held_out_files(config, tmp_path) == ["d/validation.jsonl"]
    assert held_out_files(DataConfig(train=("d",), eval=0.1), tmp_path) == []
    (tmp_path / "d/validation.jsonl").unlink()
    assert held_out_files(config, tmp_path) == ["d/test.jsonl"]
    (tmp_path / "d/train.jsonl").unlink()
    with pytest.raises(
        DataError, match=r"none of the folder's files is to train on · d .*data\.train=d/test\.jsonl"
    ):
        list(read_conversations(config, root=tmp_path))


@pytest.mark.parametrize(
    ("learnt", "held"),
    [("trainset", "testset"), ("训练集", "测试集"), ("train_1", "eval_1"), ("rows", "held-out"),
     ("a", "验证"), ("TrainData", "DevData"), ("all", "validate")],
)  # fmt: skip
def test_the_names_of_splits_are_obeyed_in_any_spelling(learnt: str, held: str, tmp_path: Path) -> None:
    for name in (learnt, held):
        write(tmp_path, {"prompt": name, "completion": "a"}, name=f"d/{name}.jsonl")
    config = DataConfig(train=("d",))
    assert [c.messages[0].content for c in read_conversations(config, root=tmp_path)] == [learnt]
    assert held_out_files(config, tmp_path) == [f"d/{held}.jsonl"]


def test_a_word_that_holds_the_name_of_a_split_is_none(tmp_path: Path) -> None:
    for name in ("latest", "contest", "device", "evaluator"):
        write(tmp_path, {"prompt": name, "completion": "a"}, name=f"d/{name}.jsonl")
    assert len(list(read_conversations(DataConfig(train=("d",)), root=tmp_path))) == 4


def test_what_was_mapped_must_be_used(tmp_path: Path) -> None:
    row = {"messages": TURNS, "before": [["x", "y"]]}
    message = refused(tmp_path, row, columns={"history": "before"})
    assert "'history' is mapped by data.columns and not used" in message
    assert "remove data.columns.history" in message
    pair = {"prompt": "q", "completion": "a", "t": [{"name": "f"}]}
    assert read(tmp_path, pair, columns={"tools": "t"})[0].tools


# --- what is held out is not learnt -------------------------------------------------------------------------


def leaks(train: list[Conversation], held: list[Conversation]) -> int:
    """Held-out answers that are learnt after the very same turns."""
    learnt = {c.messages[: at + 1] for c in train for at in learnt_answers(c, "assistant")}
    return sum(c.messages[: at + 1] in learnt for c in held for at in learnt_answers(c, "assistant"))


def dialogue(chat: int, upto: int) -> dict[str, Any]:
    turns = [
        ({"role": role, "content": f"c{chat} {role} {i}"})
        for i in range(upto)
        for role in ("user", "assistant")
    ]
    return {"messages": turns}


def test_rows_that_continue_one_another_stay_on_one_side_of_the_split(tmp_path: Path) -> None:
    rows = read(tmp_path, *(dialogue(chat, upto) for chat in range(12) for upto in (1, 2, 3)))
    for seed in range(20):
        train, held = split_eval(rows, 0.3, seed)
        assert held
        assert leaks(train, held) == 0


def test_paths_of_one_tree_stay_on_one_side_of_the_split(tmp_path: Path) -> None:
    def node(role: str, text: str, *replies: Any) -> dict[str, Any]:
        return {"role": role, "text": text, "replies": list(replies)}

    def tree(name: str) -> dict[str, Any]:
        ends = [node("assistant", f"{name}{i}") for i in range(2)]
        middle = [node("assistant", f"{name}m{i}", node("prompter", f"{name}p{i}", *ends)) for i in range(2)]
        return {"message_tree_id": name, "prompt": node("prompter", name, *middle)}

    rows = read(tmp_path, *(tree(f"t{i}") for i in range(10)), paths="all")
    assert len(rows) == 40
    for seed in range(20):
        train, held = split_eval(rows, 0.3, seed)
        assert held
        assert leaks(train, held) == 0


def test_only_answers_that_are_learnt_keep_rows_together(tmp_path: Path) -> None:
    turns = [TURNS[0], {**TURNS[1], "train": False}]
    rows = read(
        tmp_path, *({"messages": [*turns, {"role": "user", "content": str(i)}, TURNS[1]]} for i in range(20))
    )
    assert len(split_eval(rows, 5, 0)[1]) == 5


def test_rows_that_are_the_same_but_for_case_and_blanks_stay_on_one_side_of_the_split(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{lead}question {i}", "completion": "a"} for i in range(20) for lead in ("", "\n  Q: ")
    ]
    rows += [{"prompt": f"QUESTION  {i}", "completion": "\uff21"} for i in range(20)]
    found = read(tmp_path, *rows)
    for seed in range(20):
        sides = [
            {
                str(one.messages[0].content).casefold().split()[-1]
                for one in side
                if "Q:" not in one.messages[0].text
            }
            for side in split_eval(found, 0.3, seed)
        ]
        assert sides[1]
        assert not sides[0] & sides[1]


def test_a_dialogue_as_history_and_as_turns_stays_on_one_side_of_the_split(tmp_path: Path) -> None:
    rows: list[Any] = []
    for chat in range(12):
        pairs = [[f"c{chat} user {i}", f"c{chat} assistant {i}"] for i in range(3)]
        rows += [{"prompt": p, "completion": a, "history": pairs[:i]} for i, (p, a) in enumerate(pairs)]
    found = read(tmp_path, *rows)
    for seed in range(20):
        train, held = split_eval(found, 0.3, seed)
        assert held
        assert leaks(train, held) == 0


def dataset(folder: Path, **data: Any) -> Any:
    config = RunConfig(data=DataConfig(train=(str(folder / "tr.jsonl"),), **data))
    return prepare_dataset(config, tiny(), Rules(config.template, 256, 99_999), 1)


def test_held_out_files_whose_rows_are_learnt_are_an_error_with_the_lines(tmp_path: Path) -> None:
    def pair(i: int, text: str = "q") -> dict[str, Any]:
        asked = {"role": "user", "content": f"{text}{i} please"}
        return {"messages": [asked, {"role": "assistant", "content": f"a{i}"}]}

    write(tmp_path, *(pair(i) for i in range(10)), dialogue(0, 2), name="tr.jsonl")
    held = str(tmp_path / write(tmp_path, pair(3), pair(4, " Q"), pair(77), dialogue(0, 1), name="ev.jsonl"))
    with pytest.raises(DataError) as caught:
        dataset(tmp_path, eval=held)
    (problem,) = caught.value.problems
    assert problem.what == "3 of 4 held-out rows are learnt as well"
    pairs = [one.replace(f"{tmp_path}/", "") for one in problem.where.split(", ")]
    assert pairs == ["ev.jsonl:1 = tr.jsonl:4", "ev.jsonl:2 = tr.jsonl:5", "ev.jsonl:4 = tr.jsonl:11"]
    assert "data.overlap=allow" in problem.mend
    found = dataset(tmp_path, eval=held, overlap="allow")
    assert "3 of 4 held-out rows are learnt as well, first" in found.notes.notes()[0]


def test_a_fault_of_rows_that_are_learnt_and_of_held_out_ones_is_one_message(tmp_path: Path) -> None:
    said = {"role": "assistant", "content": "a", "reasoning": "Two and two."}
    rows = [{"messages": [{"role": "user", "content": f"q{i}"}, said]} for i in range(40)]
    write(tmp_path, *rows, name="tr.jsonl")
    with pytest.raises(DataError) as caught:
        dataset(tmp_path, eval=0.25)
    (problem,) = caught.value.problems
    assert problem.what.startswith("[content-lost] 40 rows")
    assert problem.where == ", ".join(f"{tmp_path}/tr.jsonl:{line}" for line in (1, 2, 3)) + ", …"
    held = str(tmp_path / write(tmp_path, *rows, name="ev.jsonl"))
    with pytest.raises(DataError, match=r"\[content-lost\] 80 rows"):
        dataset(tmp_path, eval=held, overlap="allow")


@pytest.mark.parametrize(
    ("arguments", "told"), [('{"city": "Oslo"}', "parsed into the objects"), ({"city": "Oslo"}, None)]
)
def test_arguments_that_were_parsed_are_counted(arguments: Any, told: str | None, tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    write(tmp_path, *[{"messages": [TURNS[0], turn]}] * 3, name="tr.jsonl")
    config = RunConfig(data=DataConfig(train=(str(tmp_path / "tr.jsonl"),), eval=0.0))
    found = prepare_dataset(config, tiny(TOOLS), Rules(config.template, 256, 9999), 1)
    notes = [note for note in found.notes.notes() if "arguments" in note]
    assert len(notes) == (told is not None)
    assert all(note.startswith("3 rows have calls") and told in note for note in notes if told)


def test_rows_that_are_too_long_on_both_sides_are_one_message(tmp_path: Path) -> None:
    write(tmp_path, *({"prompt": f"q{i}", "completion": "long " * 200} for i in range(20)), name="tr.jsonl")
    with pytest.raises(DataError) as caught:
        dataset(tmp_path, eval=0.25)
    (problem,) = caught.value.problems
    assert problem.what.startswith("[overlong] 20 of 20 examples")


def test_rows_may_be_left_out_and_the_rest_is_split_all_the_same(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "completion": "a" if i % 3 else None} for i in range(30)]
    write(tmp_path, *rows, name="tr.jsonl")
    found = dataset(tmp_path, eval=0.2, bad_rows="drop")
    assert found.notes.num_dropped == 10
    assert found.train.report.rows == 16
    assert int(np.count_nonzero(~found.learnt)) == 4
