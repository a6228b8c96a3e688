"""What is not strict JSON is refused with line and column, and never with a RecursionError."""

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


def test_d3_truncated_last_line_is_named_with_line_and_column(refuse: Callable[..., DataError]) -> None:
    error = refuse(f'{GOOD_LINE}\n{{"instruction": "a", "outp')
    assert str(error).startswith("text has no closing quote · rows.jsonl:2:22")
    error = refuse(f'{GOOD_LINE}\n{{"instruction": "a",')
    assert str(error).startswith("the row is cut short · rows.jsonl:2:21")


def test_d4_bad_line_in_the_middle_does_not_hide_later_ones(refuse: Callable[..., DataError]) -> None:
    error = refuse("\n".join([GOOD_LINE, "{oops}", GOOD_LINE, "{'a': x}", GOOD_LINE, '{"a": None}']))
    assert [problem.where for problem in error.problems] == [
        "rows.jsonl:2:2",
        "rows.jsonl:4:2",
        "rows.jsonl:6:7",
    ]
    assert "single quotes" in str(error)
    assert "write null" in str(error)


def test_d5_blank_lines_and_commas_behind_rows_are_fine_and_trailing_commas_are_not(
    read: Callable[..., list[Row]], refuse: Callable[..., DataError]
) -> None:
    assert [row.id.line for row in read(f"\n\n{GOOD_LINE}\n  \n{GOOD_LINE}\n\n")] == [3, 5]
    assert [row.id.line for row in read(f"{GOOD_LINE},\n{GOOD_LINE}")] == [1, 2]
    assert "comma before a closing bracket · rows.jsonl:1" in str(refuse('{"a": 1,}\n{"a": [1,]}'))
    assert "comma before the closing bracket · rows.json:1" in str(refuse(f"[{GOOD_LINE},]", "rows.json"))


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_d6_nan_and_infinity_are_refused(refuse: Callable[..., DataError], word: str) -> None:
    error = refuse(f'{GOOD_LINE}\n{{"instruction": "a", "output": {word}}}\n{GOOD_LINE}')
    assert str(error).startswith(f"{word} is not JSON · rows.jsonl:2:32")


def test_d6_infinity_as_a_large_number_is_refused(refuse: Callable[..., DataError]) -> None:
    assert "1e999 is too large for a number · rows.jsonl:1:7" in str(refuse('{"a": 1e999}'))


def test_d11_duplicate_keys_are_refused(refuse: Callable[..., DataError]) -> None:
    error = refuse('[\n{"a": 1},\n{"a": {"b": 1, "b": 2}},\n{"a": {"b": 3}, "\\u0061": 4}\n]', "rows.json")
    assert [str(problem)[:60] for problem in error.problems] == [
        'key "b" occurs twice in one object · rows.json:3:16 · only o',
        'key "a" occurs twice in one object · rows.json:4:17 · only o',
    ]


@pytest.mark.parametrize("depth", [33, 3_000, 200_000])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_d15_deep_nesting_is_refused(refuse: Callable[..., DataError], depth: int, name: str) -> None:
    row = '{"a": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"
    content = f"{GOOD_LINE}\n{row}" if name == "rows.jsonl" else f"[{GOOD_LINE},\n{row}, {GOOD_LINE}]"
    error = refuse(content, name)
    assert f"nested too deep · {name}:2:38" in str(error)
    assert len(error.problems) == 1


def test_32_levels_are_accepted(read: Callable[..., list[Row]]) -> None:
    deep = '{"a": ' + "[" * 31 + "]" * 31 + "}"
    wide = '{"a": [' + ",".join(['[1, {"b": 2}]'] * 100) + "]}"
    assert len(read(f"{deep}\n{wide}")) == 2


def test_d18_lone_surrogate_is_refused(
    read: Callable[..., list[Row]], refuse: Callable[..., DataError]
) -> None:
    assert values(read('{"a": "\\ud83d\\ude00"}')) == [{"a": "😀"}]
    assert str(refuse(f'{GOOD_LINE}\n{{"a": ["x\\ud83d"]}}')).startswith(
        "lone surrogate \\ud83d · rows.jsonl:2:8"
    )
    assert "lone surrogate" in str(refuse('{"\\udc00": 1}'))


def test_raw_control_character_in_a_string_is_refused(refuse: Callable[..., DataError]) -> None:
    assert 'raw control character "\\t" inside text · rows.jsonl:1:8' in str(refuse('{"a": "\t"}'))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"a": "\\x41"}', "not a JSON escape"),
        ('{"a": 1} note', "text after the value"),
        ('{"a": 1 // note\n}', "comment"),
        ('{"a": 1}{"a": 2}', "two values on one line"),
        ('{"a" 1}', "not JSON"),
        ('{"a": 12' + "0" * 5000 + "}", "number of 5,002 digits"),
    ],
)
def test_other_faults_say_what_to_edit(refuse: Callable[..., DataError], line: str, words: str) -> None:
    assert words in str(refuse(f"{GOOD_LINE}\n{line}"))


def test_fault_in_an_array_does_not_hide_the_next_one(refuse: Callable[..., DataError]) -> None:
    error = refuse('[\n{"a": NaN},\n{"a": 1},\n{"a": 1,},\n{"a": tru},\n{"b": 1, "b": 1}\n]', "rows.json")
    assert [problem.where for problem in error.problems] == [
        f"rows.json:{n}" for n in ("2:7", "4:9", "5:7", "6:10")
    ]


def test_reading_goes_on_at_a_row_before_the_place_of_the_fault(refuse: Callable[..., DataError]) -> None:
    error = refuse('[\n{"a": "}, {\n}, NaN]', "rows.json")
    assert [problem.where for problem in error.problems] == ["rows.json:2:12", "rows.json:3:4"]


def test_array_without_end_is_refused(refuse: Callable[..., DataError]) -> None:
    assert "the text ends before its brackets close" in str(refuse(f"[\n{GOOD_LINE}\n", "rows.json"))
    assert "the row is cut short" in str(refuse(f"[\n{GOOD_LINE},\n", "rows.json"))
    assert "no comma between two values · rows.json:2:1" in str(
        refuse(f"[{GOOD_LINE}\n{GOOD_LINE}]", "rows.json")
    )
    assert "text after the value" in str(refuse(f"[{GOOD_LINE}]\nend", "rows.json"))
    assert "a second value" in str(refuse(f"[{GOOD_LINE}]\n[{GOOD_LINE}]", "rows.json"))


def test_document_full_of_faults_is_given_up(refuse: Callable[..., DataError]) -> None:
    error = refuse("[" + ",\n".join(['{"a": tru}'] * 5000) + "]", "rows.json")
    assert "more than 100 faults in one document" in str(error.problems[-1])
    assert "(100 times) · rows.json:1:8, rows.json:2:7, rows.json:3:7 and 97 more" in str(error)


def test_d43_one_fault_of_many_lines_is_one_problem_with_the_true_count(
    refuse: Callable[..., DataError],
) -> None:
    error = refuse("\n".join([GOOD_LINE, *["{broken}"] * 2500]))
    assert len(error.problems) == 1
    assert "(2,500 times) · rows.jsonl:2:2, rows.jsonl:3:2, rows.jsonl:4:2 and 2,497 more" in str(error)


def test_d43_kinds_of_faults_are_kept_within_bounds(refuse: Callable[..., DataError]) -> None:
    keys = [f"{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i // 676)}" for i in range(1500)]
    error = refuse("\n".join(f'{{"{key}": 1, "{key}": 2}}' for key in keys))
    assert len(error.problems) == 1001
    assert str(error.problems[-1]).startswith("500 more problems of other kinds")
