"""The table of shapes: each example is read, and the docs are made of it; files as people have them."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import io
import json
import lzma
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest
import zstandard

from sapwood.config.sections import DataConfig
from sapwood.config.words import Format
from sapwood.data.formats import ReadReport, detect_format, read_conversations
from sapwood.data.shapes.table import SHAPES
from sapwood.errors import DataError
from sapwood.types import Conversation

ROOT = Path(__file__).parents[2]
REAL = ROOT / "../shared/data/real-files"
GOOD = {"instruction": "q", "output": "a"}
GOOD_LINE = json.dumps(GOOD)


def read(
    folder: Path,
    content: str | bytes,
    name: str = "rows.jsonl",
    report: ReadReport | None = None,
    **data: Any,
) -> list[Conversation]:
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(raw)
    return list(read_conversations(DataConfig(train=(name,), **data), root=folder, report=report))


def texts(conversation: Conversation) -> list[tuple[str, str | None]]:
    return [(message.role, message.content) for message in conversation.messages]


def refused(folder: Path, content: str | bytes, name: str = "rows.jsonl", **data: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, content, name, **data)
    return str(caught.value)


def lines(*rows: Any) -> str:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


# --- the table ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_the_example_of_a_shape_is_known_by_its_keys_and_read(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    assert detect_format(json.loads(shape.example)) == name
    report = ReadReport()
    (found,) = read(tmp_path, shape.example, report=report)
    assert report.formats == {"rows.jsonl": name}
    if name == "text":
        assert found.text
    else:
        assert [m.role for m in found.messages if m.role != "system"][-1] == "assistant"
        assert read(tmp_path, shape.example, format=name) == [found]


def test_the_config_knows_the_shapes_of_the_table() -> None:
    assert {*get_args(Format)} == {"auto", *SHAPES}


def test_the_pages_are_what_the_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("data_pages", ROOT / "docs" / "data.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, page in module.pages().items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == page, "run: python docs/data.py"


# --- rows that were refused, though a person expects them to work -------------------------------------------

Q, A = ("user", "q"), ("assistant", "a")
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
Q_TURN, A_TURN = TURNS
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
BARE = {"name": "f", "arguments": {"x": 1}}
TREE: dict[str, Any] = {
    "message_tree_id": "t",
    "prompt": {
        "role": "prompter",
        "text": "q",
        "replies": [
            {"role": "assistant", "text": "worse", "rank": 1, "replies": []},
            {
                "role": "assistant",
                "text": "a",
                "rank": 0,
                "replies": [
                    {
                        "role": "prompter",
                        "text": "q2",
                        "replies": [{"role": "assistant", "text": "a2", "replies": []}],
                    },
                    {"role": "prompter", "text": "nobody replied", "replies": []},
                ],
            },
        ],
    },
}
ROWS: dict[str, tuple[Any, list[tuple[str, str | None]]]] = {
    "the case of names": ({"Instruction": "q", "OUTPUT": "a"}, [Q, A]),
    "Chinese headers": (
        {"指令": "q", "输入": "i", "输出": "a", "系统": "s"},
        [("system", "s"), ("user", "q\ni"), A],
    ),
    "OpenOrca": (
        {"id": "1", "system_prompt": "s", "question": "q", "response": "a"},
        [("system", "s"), Q, A],
    ),
    "Dolly": ({"instruction": "q", "context": "c", "response": "a", "category": "x"}, [("user", "q\nc"), A]),
    "Firefly": ({"kind": "NLI", "input": "q", "target": "a"}, [Q, A]),
    "UltraChat": ({"id": "0", "data": ["q", "a", "q2", "a2"]}, [Q, A, ("user", "q2"), ("assistant", "a2")]),
    "MOSS": ({"conversation": [{"human": "q", "assistant": "a"}]}, [Q, A]),
    "XTuner": ({"conversation": [{"system": "s", "input": "q", "output": "a"}]}, [("system", "s"), Q, A]),
    "MOSS under another key": ({"conversations": [{"human": "q", "assistant": "a"}]}, [Q, A]),
    "pairs in lists": ({"conversation": [["q", "a"]]}, [Q, A]),
    "ShareGPT under messages": (
        {"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        [Q, A],
    ),
    "ShareGPT's other roles": (
        {"conversations": [{"from": "user", "value": "q"}, {"from": "bing", "value": "a"}]},
        [Q, A],
    ),
    "Llama's ipython": (
        {
            "messages": [
                *TURNS[:1],
                {"role": "assistant", "content": "x"},
                {"role": "ipython", "content": "r"},
                TURNS[1],
            ]
        },
        [Q, ("assistant", "x"), ("tool", "r"), A],
    ),
    "a tool result that is an object": (
        {"messages": [*TURNS, {"role": "tool", "content": {"t": "4°"}}, TURNS[1]]},
        [Q, A, ("tool", '{"t": "4°"}'), A],
    ),
    "ms-swift's calls": (
        {
            "messages": [
                TURNS[0],
                {"role": "tool_call", "content": json.dumps(BARE)},
                {"role": "tool_call", "content": json.dumps(BARE)},
                {"role": "tool_response", "content": "r"},
                {"role": "tool_response", "content": "r"},
                TURNS[1],
            ]
        },
        [Q, ("assistant", None), ("tool", "r"), ("tool", "r"), A],
    ),
    "null beside calls": (
        {"messages": [TURNS[0], {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
        [Q, ("assistant", None)],
    ),
    "several answers of the assistant in a row": ({"messages": [*TURNS, TURNS[1]]}, [Q, A, A]),
    "a system turn in the middle": (
        {"messages": [*TURNS, {"role": "system", "content": "s"}, *TURNS]},
        [Q, A, ("system", "s"), Q, A],
    ),
    "a dialogue that ends with the user": ({"messages": [*TURNS, TURNS[0]]}, [Q, A]),
    "numbers as answers": ({"question": "q", "answer": 42}, [Q, ("assistant", "42")]),
    "booleans as answers": ({"question": "q", "answer": True}, [Q, ("assistant", "true")]),
    "TRL's lists": ({"prompt": TURNS[:1], "completion": TURNS[1:]}, [Q, A]),
    "TRL's prompt and a text": ({"prompt": TURNS[:1], "completion": "a"}, [Q, A]),
    "turns as JSON text": ({"messages": json.dumps(TURNS)}, [Q, A]),
    "turns as Python prints them": ({"messages": str(TURNS)}, [Q, A]),
    "history as JSON text": (
        {"instruction": "q", "output": "a", "history": '[["x", "y"]]'},
        [("user", "x"), ("assistant", "y"), Q, A],
    ),
    "the case of a turn's keys": (
        {"Messages": [{"Role": "User", "Content": "q"}, {"ROLE": "assistant", "CONTENT": "a"}]},
        [Q, A],
    ),
    "speakers and their utterances": (
        {"dialogue": [{"speaker": "user", "utterance": "q"}, {"speaker": "bot", "utterance": "a"}]},
        [Q, A],
    ),
    "turns whose key says who speaks": (
        {"messages": [{"system": "s"}, {"user": "q"}, {"assistant": "a"}]},
        [("system", "s"), Q, A],
    ),
    "each turn as JSON text": ({"messages": [json.dumps(turn) for turn in TURNS]}, [Q, A]),
    "turns as JSON text that was written twice": ({"messages": json.dumps(json.dumps(TURNS))}, [Q, A]),
    "turns as numpy prints them": (
        {"messages": "[{'role': 'user', 'content': 'q'}\n {'role': 'assistant', 'content': 'a'}]"},
        [Q, A],
    ),
    "history as objects": (
        {"instruction": "q", "output": "a", "history": [{"prompt": "x", "response": "y"}]},
        [("user", "x"), ("assistant", "y"), Q, A],
    ),
    "tools and calls as Python's nothing": (
        {"messages": [Q_TURN, {**A_TURN, "tool_calls": "None"}], "tools": "nan"},
        [Q, A],
    ),
    "SQuAD's answers as objects": (
        {"question": "q", "answers": [{"text": "a", "answer_start": 1}, {"text": "a", "answer_start": 9}]},
        [Q, A],
    ),
    "parts with what is no content": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "q", "cache_control": {}}]},
                A_TURN,
            ]
        },
        [Q, A],
    ),
    "parts with null": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q", "image": None}]}, TURNS[1]]},
        [Q, A],
    ),
    "SQuAD": (
        {"question": "q", "context": "c", "answers": {"text": ["a", "a"], "answer_start": [0, 9]}},
        [("user", "q\nc"), A],
    ),
    "the best path of a tree": (TREE, [Q, A, ("user", "q2"), ("assistant", "a2")]),
    "xLAM": (
        {"query": "q", "tools": json.dumps([{"name": "f"}]), "answers": json.dumps([BARE])},
        [Q, ("assistant", None)],
    ),
    "Glaive": (
        {
            "system": 'SYSTEM: Be kind -\n{"name": "f", "parameters": {}}',
            "chat": 'USER: q\n\n\nASSISTANT: <functioncall> {"name": "f", "arguments": \'{"x": 1}\'} '
            "<|endoftext|>\n\n\nFUNCTION RESPONSE: r\n\n\nASSISTANT: a <|endoftext|>\n\n",
        },
        [("system", "Be kind"), Q, ("assistant", ""), ("tool", "r"), A],
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_read_as_a_person_expects(name: str, tmp_path: Path) -> None:
    row, expected = ROWS[name]
    (found,) = read(tmp_path, lines(row))
    assert texts(found) == expected


def test_calls_of_any_shape_are_the_same_calls(tmp_path: Path) -> None:
    for name in ("ms-swift's calls", "null beside calls", "xLAM", "Glaive"):
        (found,) = read(tmp_path, lines(ROWS[name][0]))
        (calls, *_) = [message.tool_calls for message in found.messages if message.tool_calls]
        assert [call["function"] for call in calls] == [BARE] * (2 if "swift" in name else 1)
        assert not found.tools or found.tools[0]["name" if name == "xLAM" else "function"]


def test_one_call_or_one_tool_without_its_list_is_that_one(tmp_path: Path) -> None:
    turn = {"role": "assistant", "content": None, "tool_calls": CALL}
    (found,) = read(tmp_path, lines({"messages": [Q_TURN, turn], "tools": {"name": "f"}}))
    assert found.messages[1].tool_calls == (CALL,)
    assert found.tools == ({"name": "f"},)


@pytest.mark.parametrize("part", [{"type": "thinking", "thinking": "hm"}, {"type": "think", "think": "hm"},
                                  {"type": "reasoning", "text": "hm"}])  # fmt: skip
def test_a_part_that_is_reasoning_is_the_reasoning(part: Any, tmp_path: Path) -> None:
    parts = [part, {"type": "text", "text": "a"}]
    (found,) = read(tmp_path, lines({"messages": [Q_TURN, {"role": "assistant", "content": parts}]}))
    assert (found.messages[1].content, found.messages[1].reasoning) == ("a", "hm")


def test_a_role_nobody_knows_is_a_question_whose_mend_works(tmp_path: Path) -> None:
    row = {"messages": [{"role": "pupil", "content": "q"}, {"role": "sage", "content": "a"}]}
    mends = re.findall(r"data\.roles\.(\w+)=(\w+)", refused(tmp_path, lines(row)))
    assert mends == [("pupil", "user"), ("sage", "assistant")]
    assert texts(read(tmp_path, lines(row), roles=dict(mends))[0]) == [Q, A]


def test_a_dialogue_that_is_one_text_is_a_question_about_columns(tmp_path: Path) -> None:
    row = {"dialogue": "Ann: Hi\nBob: Hello, how are you?", "summary": "Ann and Bob greet each other."}
    message = refused(tmp_path, lines(row))
    assert "data.columns.prompt=dialogue data.columns.completion=summary" in message
    columns = {"prompt": "dialogue", "completion": "summary"}
    assert texts(read(tmp_path, lines(row), columns=columns)[0])[1][1] == row["summary"]


def test_a_comparison_of_two_answers_says_how_to_learn_the_better_one(tmp_path: Path) -> None:
    row = {"conversations": TURNS[:1], "chosen": TURNS[1], "rejected": {"role": "assistant", "content": "b"}}
    message = refused(tmp_path, lines(row))
    assert "data.columns.prompt=conversations data.columns.completion=chosen" in message
    columns = {"prompt": "conversations", "completion": "chosen"}
    assert texts(read(tmp_path, lines(row), columns=columns)[0]) == [Q, A]


def test_every_path_of_a_tree_is_a_row_when_asked_for(tmp_path: Path) -> None:
    found = read(tmp_path, lines(TREE, TREE), paths="all")
    assert [texts(one)[-1][1] for one in found] == ["a2", "worse"] * 2
    assert [one.row.index for one in found] == [0, 1, 2, 3]
    assert [one.row.line for one in found] == [1, 1, 2, 2]


def test_hc3_asks_which_answer_and_both_mends_work(tmp_path: Path) -> None:
    row = {"question": "q", "human_answers": ["h"], "chatgpt_answers": ["c"], "source": "x"}
    message = refused(tmp_path, lines(row))
    found = re.findall(r"data\.columns\.prompt=(\w+) data\.columns\.completion=(\w+)", message)
    assert [answer for _, answer in found] == ["chatgpt_answers", "human_answers"] or len(found) == 2
    answers = {
        texts(read(tmp_path, lines(row), columns={"prompt": prompt, "completion": answer})[0])[1][1]
        for prompt, answer in found
    }
    assert answers == {"h", "c"}


def test_several_answers_are_a_question_and_its_mends_work(tmp_path: Path) -> None:
    row = {"question": "q", "answers": {"text": ["a", "b"]}}
    assert "data.answers=first takes the first; data.bad_rows=drop" in refused(tmp_path, lines(row))
    assert texts(read(tmp_path, lines(row), answers="first")[0]) == [Q, A]
    assert (
        len(read(tmp_path, lines(row, {"question": "q", "answers": {"text": ["a"]}}), bad_rows="drop")) == 1
    )


def test_two_columns_of_unknown_names_are_a_question_with_both_answers(tmp_path: Path) -> None:
    message = refused(tmp_path, lines({"eins": "q", "zwei": "a"}))
    found = re.findall(r"data\.columns\.prompt=(\w+) data\.columns\.completion=(\w+)", message)
    assert found == [("eins", "zwei"), ("zwei", "eins")]
    columns = {"prompt": "frage", "completion": "antwort"}
    assert texts(read(tmp_path, lines({"frage": "q", "antwort": "a"}), columns=columns)[0]) == [Q, A]


@pytest.mark.parametrize(
    ("row", "mend"),
    [
        (
            {"prompt": "q", "chosen": "a", "rejected": "b"},
            "data.columns.prompt=prompt data.columns.completion=chosen",
        ),
        ({"message_id": "1", "parent_id": "0", "text": "a", "role": "assistant"}, "one tree a row"),
        ({"talk": TURNS, "id": 1}, "data.columns.messages=talk"),
    ],
)
def test_rows_of_another_kind_say_what_to_do(row: Any, mend: str, tmp_path: Path) -> None:
    assert mend in refused(tmp_path, lines(row, row))


# --- files --------------------------------------------------------------------------------------------------


def zipped(content: bytes, name: str = "rows.jsonl") -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
        archive.writestr("__MACOSX/._rows.jsonl", b"x")
    return sink.getvalue()


PACKED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("rows.jsonl.gz", gzip.compress),
    "zstd": ("rows.jsonl.zst", zstandard.compress),
    "xz": ("rows.jsonl.xz", lzma.compress),
    "bzip2": ("rows.jsonl.bz2", bz2.compress),
    "zip": ("rows.zip", zipped),
}


@pytest.mark.parametrize("kind", PACKED)
def test_a_packed_file_is_read_and_a_damaged_one_refused(kind: str, tmp_path: Path) -> None:
    name, pack = PACKED[kind]
    packed = pack((GOOD_LINE + "\n").encode() * 50)
    found = read(tmp_path, packed, name)
    assert [texts(one) for one in found] == [[Q, A]] * 50
    assert str(found[1].row) == f"{name}:2"
    assert f"the {kind} file can't be unpacked · {name}" in refused(
        tmp_path, packed[: len(packed) // 2], name
    )


def test_a_packed_table_is_known_by_the_name_inside(tmp_path: Path) -> None:
    assert texts(read(tmp_path, gzip.compress(b"prompt,completion\nq,a\n"), "t.csv.gz")[0]) == [Q, A]
    assert texts(read(tmp_path, zipped(b"prompt\tcompletion\nq\ta\n", "t.tsv"), "t.zip")[0]) == [Q, A]


def test_what_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sapwood.data.files.packed.LEAST", 1000)
    monkeypatch.setattr("sapwood.data.files.packed.RATIO", 2)
    bomb = gzip.compress(GOOD_LINE.encode() * 10_000)
    assert "the file unpacks to too much · rows.jsonl.gz" in refused(tmp_path, bomb, "rows.jsonl.gz")


def workbook(*sheets: tuple[str, list[list[str | float | None]]]) -> bytes:
    """A workbook as the format's description has it, with texts inside the cells."""

    def cell(value: str | float | None) -> str:
        if value is None:
            return "<c/>"
        if isinstance(value, str):
            return f'<c t="inlineStr"><is><t>{value}</t></is></c>'
        return f"<c><v>{value}</v></c>"

    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    names = "".join(f'<sheet name="{n}" sheetId="{i}" r:id="r{i}"/>' for i, (n, _) in enumerate(sheets, 1))
    links = "".join(
        f'<Relationship Id="r{i}" Type="{office}/worksheet" Target="worksheets/sheet{i}.xml"/>'
        for i in range(1, len(sheets) + 1)
    )
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        root = f'<Relationship Id="r1" Type="{office}/officeDocument" Target="xl/workbook.xml"/>'
        archive.writestr(
            "_rels/.rels", f'<Relationships xmlns="{package}/relationships">{root}</Relationships>'
        )
        archive.writestr("[Content_Types].xml", f'<Types xmlns="{package}/content-types"/>')
        archive.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>{names}</sheets></workbook>',
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{package}/relationships">{links}</Relationships>',
        )
        for i, (_, rows) in enumerate(sheets, 1):
            body = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
            archive.writestr(
                f"xl/worksheets/sheet{i}.xml",
                f'<worksheet xmlns="{main}"><sheetData>{body}</sheetData></worksheet>',
            )
    return sink.getvalue()


def test_a_workbook_is_read_and_asks_for_the_sheet(tmp_path: Path) -> None:
    rows: list[list[str | float | None]] = [
        ["Question", "Answer", None],
        ["q", "a", None],
        [None, None, None],
        ["q", 3, None],
    ]
    report = ReadReport()
    found = read(tmp_path, workbook(("Rows", rows), ("Empty", [])), "t.xlsx", report)
    assert [texts(one) for one in found] == [[Q, A], [Q, ("assistant", "3")]]
    assert [one.row.line for one in found] == [2, 4]
    assert "1 rows of the table are blank, and left out" in report.notes()
    two = workbook(("One", rows), ("Two", rows))
    assert "say which: data.records=One or data.records=Two" in refused(tmp_path, two, "t.xlsx")
    assert len(read(tmp_path, two, "t.xlsx", records="Two")) == 2
    broken = zipped(b"<workbook", "xl/workbook.xml")
    assert "the workbook can't be read · t.xlsx" in refused(tmp_path, broken, "t.xlsx")


LOOSE = {
    "a comma behind each row": (f"{GOOD_LINE},\n{GOOD_LINE},\n", "rows.jsonl", "comma"),
    "objects one behind the other": (json.dumps(GOOD, indent=1) * 2, "rows.json", "one behind the other"),
    "a mark in the middle": (f"\ufeff{GOOD_LINE}\n\ufeff{GOOD_LINE}\n", "rows.jsonl", "byte-order mark"),
    "Python's rows": (f"{GOOD}\n{GOOD}\n", "rows.jsonl", "Python"),
    "Python's list": (str([GOOD, GOOD]), "rows.json", "Python"),
    "Python's list as text": (str([GOOD, GOOD]), "rows.txt", "Python"),
    "comments in lines": (f"// made by hand\n{GOOD_LINE} // one\n{GOOD_LINE}\n", "rows.jsonl", "comments"),
    "comments in a document": (
        '[ // rows\n{"instruction": "q", // asked\n"output": "a"},\n// more\n' + GOOD_LINE + "]",
        "rows.json",
        "comments",
    ),
    "blank rows of a table": (
        "instruction,output\nq,a\n,\nq,a\n,\n",
        "rows.csv",
        "2 rows of the table are blank",
    ),
    "empty columns at the end": ("instruction,output,,\nq,a,,\nq,a,,\n", "rows.csv", ""),
    "more commas than columns": ("instruction,output\nq,a,,\nq,a,\n", "rows.csv", ""),
    "Excel's first line": ("sep=;\r\ninstruction;output\r\nq;a\r\nq;a\r\n", "rows.csv", ""),
    "pandas' index": (",instruction,output\n0,q,a\n1,q,a\n", "rows.csv", ""),
    "columns of pandas": (
        '{"instruction": {"0": "q", "1": "q"}, "output": {"0": "a", "1": "a"}}',
        "rows.json",
        "object of columns",
    ),
    "rows by their names": (f'{{"x": {GOOD_LINE}, "y": {GOOD_LINE}}}', "rows.json", "by their names"),
}


@pytest.mark.parametrize("name", LOOSE)
def test_a_file_that_can_be_read_in_one_way_is_read_and_that_is_said(name: str, tmp_path: Path) -> None:
    content, file, said = LOOSE[name]
    report = ReadReport()
    found = read(tmp_path, content, file, report)
    assert [texts(one) for one in found] == [[Q, A], [Q, A]]
    assert any(said in note for note in report.notes()) if said else report.notes() == []


def test_one_row_as_python_prints_it_is_a_row(tmp_path: Path) -> None:
    report = ReadReport()
    (found,) = read(tmp_path, f"{GOOD}\n", report=report)
    assert texts(found) == [Q, A]
    assert report.notes() == ["1 rows are written as Python prints them: read as such"]


def test_columns_apart_from_their_names_say_how_to_write_them(tmp_path: Path) -> None:
    split = '{"columns": ["instruction", "output"], "index": [0], "data": [["q", "a"]]}'
    assert "orient='records'" in refused(tmp_path, split, "rows.json")


def test_a_cell_under_no_name_is_refused(tmp_path: Path) -> None:
    assert "a cell in column 3, which has no name · rows.csv:3" in refused(
        tmp_path, "instruction,output,\nq,a,\nq,a,b\n", "rows.csv"
    )


def save_to_disk(folder: Path, rows: list[dict[str, str]]) -> None:
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text('{"_data_files": []}')
    (folder / "dataset_info.json").write_text('{"features": {}}')


def test_folders_of_save_to_disk_are_read(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "one", [GOOD] * 3)
    assert len(list(read_conversations(DataConfig(train=("one",)), root=tmp_path))) == 3
    save_to_disk(tmp_path / "both/train", [GOOD] * 4)
    save_to_disk(tmp_path / "both/test", [{"instruction": "t", "output": "t"}])
    (tmp_path / "both/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    report = ReadReport()
    assert len(list(read_conversations(DataConfig(train=("both/",)), root=tmp_path, report=report))) == 4
    assert "'train/data-00000-of-00001.arrow' is learnt; 'test/data-" in report.notes()[0]


def test_dataset_info_beside_a_file_names_its_columns_and_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "lf").mkdir()
    (tmp_path / "lf/mine.json").write_text(json.dumps([{"frage": "q", "antwort": "a", "prompt": "not this"}]))
    columns = {"prompt": "frage", "response": "antwort", "system": "none"}
    (tmp_path / "lf/dataset_info.json").write_text(
        json.dumps({"m": {"file_name": "mine.json", "columns": columns}})
    )
    for entry in ("lf", "lf/mine.json"):
        report = ReadReport()
        config = DataConfig(train=(entry,))
        (found,) = read_conversations(config, root=tmp_path, report=report)
        assert texts(found) == [Q, A]
        assert "dataset_info.json beside it has columns read: 'frage' as 'instruction'" in report.notes()[0]


def described(folder: Path, entry: dict[str, Any], *rows: Any, **data: Any) -> tuple[list[Any], ReadReport]:
    (folder / "mine.json").write_text(json.dumps(rows))
    (folder / "dataset_info.json").write_text(json.dumps({"m": {"file_name": "mine.json", **entry}}))
    report = ReadReport()
    config = DataConfig(train=("mine.json",), **data)
    return list(read_conversations(config, root=folder, report=report)), report


def test_dataset_info_names_the_keys_of_turns_and_whose_they_are(tmp_path: Path) -> None:
    tags = {
        "role_tag": "wer", "content_tag": "was", "user_tag": "kunde", "assistant_tag": "wren",
        "observation_tag": "ergebnis", "function_tag": "aufruf", "system_tag": "rahmen",
    }  # fmt: skip
    said = [("rahmen", "s"), ("kunde", "q"), ("aufruf", '{"name": "f", "arguments": {}}'), ("ergebnis", "1")]
    turns = [{"wer": role, "was": text} for role, text in (*said, ("wren", "a"))]
    entry = {"formatting": "sharegpt", "columns": {"messages": "gespraech"}, "tags": tags}
    (found,), report = described(tmp_path, entry, {"gespraech": turns})
    assert [message.role for message in found.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert found.messages[2].tool_calls[0]["function"]["name"] == "f"
    assert "'wren' as 'assistant'" in report.notes()[0]


def test_a_ranking_of_dataset_info_is_one_question_whose_answer_works(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "q"}]
    ranked = {
        "conversations": turns,
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    }
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
    entry = {"formatting": "sharegpt", "ranking": True, "columns": columns}
    with pytest.raises(DataError) as caught:
        described(tmp_path, entry, *[ranked] * 5)
    (problem,) = caught.value.problems
    assert problem.what == "row is a pair of answers to compare (5 times)"
    mapped = dict(word.removeprefix("data.columns.").split("=") for word in problem.mend.split())
    (found,), _ = described(tmp_path, entry, ranked, columns=mapped)
    assert texts(found) == [Q, A]
    plain = {"frage": "q", "gut": "a", "schlecht": "b"}
    entry = {"ranking": True, "columns": {"prompt": "frage", "chosen": "gut", "rejected": "schlecht"}}
    with pytest.raises(DataError, match=r"data\.columns\.prompt=frage data\.columns\.completion=gut"):
        described(tmp_path, entry, plain)


def test_dataset_info_names_the_mark_of_bad_answers(tmp_path: Path) -> None:
    columns = {"prompt": "instruction", "response": "output", "kto_tag": "gut"}
    rows = [{"instruction": "q", "output": "a", "gut": good} for good in (True, False)]
    with pytest.raises(DataError, match="the row is labelled as bad"):
        described(tmp_path, {"columns": columns}, *rows)
    found, _ = described(tmp_path, {"columns": columns}, *rows, bad_rows="drop")
    assert len(found) == 1


# --- messages -----------------------------------------------------------------------------------------------


def test_one_fault_of_15000_rows_is_one_message_with_the_true_count(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, lines({"words": "q", "thing": 1}) * 15_000)
    (problem,) = caught.value.problems
    assert "(15,000 times)" in problem.what
    assert problem.where == "rows.jsonl:1, rows.jsonl:2, rows.jsonl:3 and 14,997 more"


def test_bad_rows_are_left_out_by_name_counted_and_listed(tmp_path: Path) -> None:
    rows = [GOOD, {"instruction": "q", "output": None}, GOOD, {"instruction": "q", "output": ""}]
    report = ReadReport()
    found = read(tmp_path, lines(*rows) + "{broken\n", report=report, bad_rows="drop")
    assert [one.row.line for one in found] == [1, 3]
    assert report.num_dropped == 3
    assert report.dropped == [
        "rows.jsonl:2: 'output' is null",
        "rows.jsonl:4: 'output' is empty",
        "rows.jsonl:5:2: not JSON",
    ]
    assert report.notes()[0].startswith("left out (data.bad_rows: drop): 3 rows, first rows.jsonl:2")


# --- the files of others ------------------------------------------------------------------------------------

ASKED = {  # every other file of the collection is read
    "08-iconv-mend-damages-the-text": "data.encoding=",
    "kto.jsonl": "data.bad_rows=drop",
    "qa_null.jsonl": "data.empty=drop",
    "sg_odd.jsonl": "data.bad_rows=drop",
    "dataset_info.json": "",
    "state.json": "",
    "dataset_dict.json": "",
}
FILES = sorted(
    str(path.relative_to(REAL))
    for path in (REAL.rglob("*") if REAL.is_dir() else ())
    if path.suffix in (".jsonl", ".csv", ".json", ".parquet", ".arrow")
)


@pytest.mark.skipif(not FILES, reason="shared/data/real-files is not on this machine")
@pytest.mark.parametrize("name", FILES)
def test_files_as_people_have_them_are_read_or_asked_about(name: str) -> None:
    mend = next((mend for part, mend in ASKED.items() if part in name.split("/")), None)
    config = DataConfig(train=(name,))
    if mend is None:
        assert list(read_conversations(config, root=REAL))
        return
    with pytest.raises(DataError) as caught:
        list(read_conversations(config, root=REAL))
    assert mend in str(caught.value)
    if mend.endswith("=drop"):
        key = mend.removeprefix("data.").removesuffix("=drop")
        dropping = DataConfig.model_validate({"train": [name], key: "drop"})
        assert list(read_conversations(dropping, root=REAL))
