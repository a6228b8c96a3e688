"""Files to rows: each case of the catalogue of bad files (D…) that a reader answers for."""

from __future__ import annotations

import datetime
import json
import tracemalloc
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.config.sections import DataConfig
from sapwood.data.files.sources import read_rows, stream_rows
from sapwood.data.formats import read_conversations
from sapwood.data.problems import ProblemLog
from sapwood.errors import DataError
from sapwood.types import Row

GOOD = {"instruction": "a", "output": "b"}
GOOD_LINE = json.dumps(GOOD)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def values(rows: list[Row]) -> list[Any]:
    return [row.value for row in rows]


# --- good files ---------------------------------------------------------------------------------------------


def test_rows_of_an_array_know_their_line_and_index(read: Callable[..., list[Row]]) -> None:
    rows = read('[\n  {"a": 1},\n\n  {"a":\n 2}, {"a": 3}\n]\n', "rows.json")
    assert values(rows) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert [(row.id.source, row.id.index, row.id.line) for row in rows] == [
        ("rows.json", 0, 2),
        ("rows.json", 1, 4),
        ("rows.json", 2, 5),
    ]


def test_rows_that_share_a_line_are_told_apart(read: Callable[..., list[Row]]) -> None:
    rows = read('[{"a": 1}, {"a": 2},\n{"a": 3}]', "rows.json")
    assert [str(row.id) for row in rows] == ["rows.json:1", "rows.json:1 row 1", "rows.json:2 row 2"]


def test_files_are_read_in_order_and_each_counts_from_zero(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text(f"{GOOD_LINE}\n{GOOD_LINE}\n")
    (tmp_path / "two.json").write_text(f"[{GOOD_LINE}]")
    rows = list(read_rows(["one.jsonl", "two.json"], root=tmp_path))
    assert [str(row.id) for row in rows] == ["one.jsonl:1", "one.jsonl:2", "two.json:1"]
    assert [row.id.index for row in rows] == [0, 1, 0]


def test_relative_paths_start_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text(GOOD_LINE)
    monkeypatch.chdir(tmp_path)
    assert values(list(read_rows(["rows.jsonl"]))) == [GOOD]


def test_rows_come_before_the_file_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(f"{GOOD_LINE}\nbroken\n")
    rows = read_rows(["rows.jsonl"], root=tmp_path)
    assert next(rows).value == GOOD
    with pytest.raises(DataError):
        next(rows)


def test_builtin_data_are_read_from_the_package() -> None:
    if not resources.files("sapwood").joinpath("assets", "nursery.jsonl").is_file():
        pytest.skip("the built-in dataset is not in this checkout")
    rows = list(read_rows(["builtin:nursery"]))
    assert len(rows) >= 240
    assert str(rows[0].id) == "builtin:nursery:1"


def test_unknown_builtin_name_is_refused() -> None:
    with pytest.raises(DataError, match="no built-in data of this name · builtin:nurse"):
        list(read_rows(["builtin:nurse"]))


def test_numbers_and_dates_stay_what_they_are(read: Callable[..., list[Row]]) -> None:
    big = 10**4000 + 1
    line = f'{{"date": "2024-01-05", "big": {big}, "zeros": "007", "no": "no", "float": 1.50}}'
    row = values(read(line))[0]
    assert row == {"date": "2024-01-05", "big": big, "zeros": "007", "no": "no", "float": 1.5}
    assert not isinstance(row["date"], datetime.date)
    assert isinstance(row["big"], int)


@given(text=TEXT, ascii=st.booleans())
@settings(max_examples=150, deadline=None)
def test_d20_any_text_comes_back_character_by_character(
    text: str, ascii: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    line = json.dumps({"instruction": text, "output": text}, ensure_ascii=ascii)
    (folder / "round.jsonl").write_text(line, encoding="utf-8", newline="")
    (folder / "round.json").write_text(f"[{line}]", encoding="utf-8", newline="")
    one, two = read_rows(["round.jsonl", "round.json"], root=folder)
    assert one.value == two.value == {"instruction": text, "output": text}


def test_d21_no_text_is_normalised(read: Callable[..., list[Row]]) -> None:
    row = {"a": "e\u0301 \u00e9 \u212b A\u030a \uff21"}
    assert values(read(json.dumps(row, ensure_ascii=False))) == [row]


# --- sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_d22_row_beyond_8_mb_is_refused_and_others_are_read(
    refuse: Callable[..., DataError], name: str
) -> None:
    huge = json.dumps({"instruction": "a", "output": "x" * 8_100_000})
    rows = [GOOD_LINE, huge, "{broken}"]
    error = refuse("\n".join(rows) if name == "rows.jsonl" else f"[{', '.join(rows)}]", name)
    assert len(error.problems) == 2
    assert str(error).startswith(f"row is larger than 8,000,000 bytes · {name}:")


def test_d22_row_below_8_mb_is_read(read: Callable[..., list[Row]]) -> None:
    row = {"instruction": "a", "output": "é" * 3_900_000}
    assert values(read(json.dumps(row, ensure_ascii=False))) == [row]


def test_row_of_one_line_without_end_is_refused(refuse: Callable[..., DataError]) -> None:
    error = refuse(json.dumps({"instruction": "a", "output": "x" * 8_100_000}))
    assert "row is larger than 8,000,000 bytes" in str(error)


DOCUMENTS = [
    '[{"a": "中文"}, {"b": [1, 2, {"c": "}"}]} ,\r\n 12345, "x"]\n',
    '\ufeff[\r{"a": 1},\r\n\r\n{"b": "👩‍👩‍👧‍👦"}\n]\r\n',
    '[{"a": 1}, {"a": 1, "a": 2}, {"n": NaN}, {"b": "\\ud800"}, {"c": 3}]',
    '[{"a": 1}, {"a": "x\ny"}, {"b": 2}]',
    '[{"a": 1} {"b": 2}]',
    '[{"a": 1}, {"b": 2},\n]',
    '[{"a": 1}]\n{"b": 2}',
    '[{"a": 1}, {"b": "never closed}, {"c": 3}]',
    "[1, 2, 3",
    "[]",
    '{"version": 1, "data": [{"a": 1},\r\n{"b": "]}\\\\"}], "m": {"n": [null, 1.5e3]}, "n": "x"}\n',
    '{"data": [{"a": 1}, {"a": 1, "a": 2}, {"c": 3}], "n": -12}',
    '{"data": [{"a": 1}], "n": NaN}',
    '{"data": [{"a": 1}]} {"b": 2}',
    '{"data": [{"a": 1}, {"b": 2}',
    '{"data": [{"a": "never closed}]}',
    '{"a": {"b": [1]}, "a": 2}',
    '{"train": [{"a": 1}], "test": []}',
    '{"instruction": "a", "output": "b", "history": [["a", "b"]]}',
    '{"a" 1}',
    '{"a": 1,}',
    "{'a': 1}",
    "{}",
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_an_array_is_read_alike_through_any_window(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> list[Any]:
        log = ProblemLog()
        try:
            rows = list(stream_rows(["rows.json"], tmp_path, log))
        except DataError as error:
            return [str(error)]
        return [[(str(row.id), row.value) for row in rows], [str(problem) for problem in log.kept]]

    (tmp_path / "rows.json").write_bytes(document.encode("utf-8"))
    whole = told()
    for size in (1, 2, 3, 7):
        monkeypatch.setattr("sapwood.data.files.window.CHUNK", size)
        assert told() == whole


@pytest.mark.parametrize(("before", "behind"), [("", ""), ('{"n": 1, "data": ', ', "m": {}}')])
def test_memory_is_flat_in_the_size_of_a_json_array(before: str, behind: str, tmp_path: Path) -> None:
    row = json.dumps({"instruction": "a", "output": "x" * 1000})
    (tmp_path / "rows.json").write_text(f"{before}[\n{f',{chr(10)}'.join([row] * 30_000)}\n]{behind}")
    tracemalloc.start()
    try:
        lines = [found.id.line for found in read_rows(["rows.json"], root=tmp_path)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert lines == list(range(2, 30_002))
    assert peak < 12_000_000


def test_memory_is_flat_in_the_size_of_a_jsonl_file(tmp_path: Path) -> None:
    line = json.dumps({"instruction": "a", "output": "x" * 1000})
    (tmp_path / "rows.jsonl").write_text(f"{line}\n" * 30_000)
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_rows(["rows.jsonl"], root=tmp_path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 30_000
    assert peak < 10_000_000  # the file has 30 MB


# --- what a file really is ----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", " \n\n", "\ufeff", "\ufeff\n"])
def test_d24_empty_file_is_refused(refuse: Callable[..., DataError], content: str) -> None:
    assert "the file is empty · rows.jsonl" in str(refuse(content))


@pytest.mark.parametrize("content", ["[]", "[\n]\n", '{"data": []}'])
def test_d25_empty_array_has_no_rows(refuse: Callable[..., DataError], content: str) -> None:
    assert str(refuse(content, "rows.json")).startswith("0 rows · rows.json")


@pytest.mark.parametrize("indent", [None, 1])
def test_d26_object_around_one_list_stands_for_it(read: Callable[..., list[Row]], indent: int | None) -> None:
    rows = read(json.dumps({"version": 1, "data": [GOOD, GOOD]}, indent=indent), "rows.json")
    assert values(rows) == [GOOD, GOOD]
    assert [row.id.line for row in rows] == ([1, 1] if indent is None else [4, 8])


def test_d26_object_around_rows_on_lines_of_their_own_is_a_document(read: Callable[..., list[Row]]) -> None:
    assert [row.id.line for row in read(f'{{"data": [\n{GOOD_LINE},\n{GOOD_LINE}\n]}}')] == [2, 3]


def test_d26_object_around_several_lists_is_refused_with_their_names(
    refuse: Callable[..., DataError],
) -> None:
    error = refuse(json.dumps({"train": [GOOD], "test": [GOOD], "n": 1}), "rows.json")
    assert "'train', 'test'" in str(error)
    assert "say which: data.records=train" in str(error)


def test_d26_the_list_that_the_config_names_is_read(tmp_path: Path) -> None:
    content = {"train": [GOOD, GOOD], "test": [GOOD], "n": 1}
    (tmp_path / "rows.json").write_text(json.dumps(content))

    def count(records: str) -> int:
        config = DataConfig(train=("rows.json",), records=records)
        return len(list(read_conversations(config, root=tmp_path)))

    assert (count("train"), count("test")) == (2, 1)
    for wrong in ("n", "Train"):
        with pytest.raises(
            DataError, match=f"no list is under '{wrong}' · rows.json · lists: 'train', 'test'"
        ):
            count(wrong)


def test_columns_instead_of_rows_are_read_row_by_row(
    read: Callable[..., list[Row]], refuse: Callable[..., DataError]
) -> None:
    for columns in (
        {"instruction": ["a", "c"], "output": ["b", "d"]},
        {"instruction": {"0": "a", "1": "c"}, "output": {"0": "b", "1": "d"}},
    ):
        rows = read(json.dumps(columns), "rows.json")
        assert values(rows) == [{"instruction": "a", "output": "b"}, {"instruction": "c", "output": "d"}]
    short = {"instruction": ["a", "c"], "output": ["b"]}
    assert "columns of different lengths" in str(refuse(json.dumps(short), "rows.json"))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "a"}], "tools": []},
        {"instruction": "a", "output": "b", "history": [["a", "b"]]},
        {"instruction": "a", "output": "b"},
    ],
)
def test_object_that_is_a_row_is_one_row(read: Callable[..., list[Row]], row: dict[str, Any]) -> None:
    assert values(read(json.dumps(row, indent=1), "row.json")) == [row]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"n": NaN, "data": []}', "NaN"),
        ('{"data": [], "data": []}', "occurs twice"),
        ('{"data": [{"a": 1}', "the row is cut short"),
        ('{"data": [{"a": 1}]', "the text ends"),
        ('{"data" []}', "no colon"),
        ('{"data": [], x}', "not JSON"),
        ('{"a": 1 "data": []}', "no comma"),
        ('{"data": []}\n]', "text after the value"),
    ],
)
def test_damaged_wrapper_is_refused(refuse: Callable[..., DataError], content: str, words: str) -> None:
    assert words in str(refuse(content.replace(": ", ":\n"), "rows.json"))


def test_d27_array_of_strings_is_refused_once(refuse: Callable[..., DataError]) -> None:
    error = refuse(json.dumps(["a", "b", "c", 1]), "rows.json")
    assert [problem.what for problem in error.problems] == [
        "3 rows are text, not an object",
        "row is a number, not an object",
    ]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.txt", "rows.csv", "rows"])
def test_d28_content_decides_and_not_the_name(read: Callable[..., list[Row]], name: str) -> None:
    assert values(read(f"{GOOD_LINE}\n{GOOD_LINE}\n", name)) == [GOOD, GOOD]
    assert values(read(f"[{GOOD_LINE},{GOOD_LINE}]", name)) == [GOOD, GOOD]


@pytest.mark.parametrize("between", ["\n", ",\n", " "])
def test_objects_one_behind_the_other_are_rows(read: Callable[..., list[Row]], between: str) -> None:
    pretty = json.dumps(GOOD, indent=2)
    for name in ("rows.jsonl", "rows.json"):
        rows = read(f"{pretty}{between}{pretty}{between}{pretty}\n", name)
        assert values(rows) == [GOOD] * 3


def test_jsonl_whose_first_line_is_broken_is_still_jsonl(refuse: Callable[..., DataError]) -> None:
    error = refuse(f"{GOOD_LINE[:-5]}\n{GOOD_LINE}\n{{}}x\n")
    assert [problem.where.split(":")[1] for problem in error.problems] == ["1", "3"]
    error = refuse(f"x{GOOD_LINE}\n{GOOD_LINE}\n")
    assert [problem.where for problem in error.problems] == ["rows.jsonl:1:1"]


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\x1f\x8b\x08\0", "the gzip file can't be unpacked"),
        (b"PK\x03\x04", "the zip file can't be unpacked"),
        (b"PAR1", "Parquet"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\n<!DOCTYPE html>\n", "web page"),
        (b"once upon a time\n", "neither JSON, JSONL nor a table · rows.json:1"),
        (b"\xff\xfa\xfa", "not UTF-8"),
    ],
)
def test_other_files_are_named(refuse: Callable[..., DataError], start: bytes, words: str) -> None:
    assert words in str(refuse(start + b" and so on", "rows.json"))
