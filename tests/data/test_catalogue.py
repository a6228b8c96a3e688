"""What files of examples can be wrong in, case by case: what sapwood takes, and what it says of the rest."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sapwood.config.sections import DataConfig, TemplateConfig
from sapwood.data.formats import ReadReport, read_conversations
from sapwood.data.problems import printable
from sapwood.errors import DataError
from sapwood.prepare.report import Preparation, prepare
from sapwood.prepare.split import RowHashes, split_eval
from sapwood.types import Conversation
from tests.template.cases import tiny
from tests.test_faults import faults

GOOD = '{"instruction": "q", "output": "a"}'


@dataclass(frozen=True)
class Refused:
    """A file whose reading, or preparing, ends with a message that matches."""

    content: str | bytes
    message: str
    name: str = "rows.jsonl"
    data: dict[str, Any] | None = None
    length: int = 256


@dataclass(frozen=True)
class Taken:
    """A file that is read; ``texts`` are the contents of its messages."""

    content: str | bytes
    texts: list[str]
    name: str = "rows.jsonl"
    note: str = ""


def row(**keys: Any) -> str:
    return json.dumps(keys, ensure_ascii=False)


def turns(*roles: str) -> str:
    return row(messages=[{"role": role, "content": f"t{i}"} for i, role in enumerate(roles)])


LONG = row(instruction="q", output="word " * 400)
CASES: dict[str, list[Refused | Taken]] = {
    "a byte-order mark": [Taken("\ufeff" + GOOD, ["q", "a"])],
    "line ends of other systems": [
        Taken(f"{GOOD}\r\n{GOOD}\r", ["q", "a"] * 2),
        Taken(row(instruction="q", output="a\r"), ["q", "a\r"]),
    ],
    "a last line that is cut off": [Refused(f"{GOOD}\n{GOOD[:-6]}", r"rows\.jsonl:2:\d+")],
    "a bad line in the middle": [Refused(f"{GOOD}\nbad\n{GOOD}", r"rows\.jsonl:2:1")],
    "blank lines, a comma behind a row": [
        Taken(f"\n{GOOD}\n\n{GOOD}\n", ["q", "a"] * 2),
        Taken(f"{GOOD},\n{GOOD}", ["q", "a"] * 2, note="1 rows have a comma"),
    ],
    "NaN and Infinity": [
        Refused('{"instruction": "q", "output": NaN}', "NaN is not JSON"),
        Refused('[{"a": -Infinity}]', "Infinity"),
    ],
    "a null or missing answer": [
        Refused(row(instruction="q", output=None), r"'output' is null · rows\.jsonl:1")
    ],
    "a key that some rows lack": [
        Refused(f"{GOOD}\n{row(instruction='q')}", r"'output' is missing · rows\.jsonl:2")
    ],
    "another name for a key": [
        Taken(row(instruction="q", Output="a"), ["q", "a"], note="columns are read by their meaning"),
        Refused(row(instruction="q", outpud="a"), "rename 'outpud' to 'output'"),
    ],
    "keys that sapwood has no use for": [
        Taken(row(instruction="q", output="a", id=7), ["q", "a"], note="ignored keys: 'id'")
    ],
    "one key twice in an object": [
        Refused('{"instruction": "q", "output": "a", "output": "b"}', r"rows\.jsonl:1:\d+.*only one")
    ],
    "a number or a mapping in place of text": [
        Taken(f"{GOOD}\n{row(instruction='q', output=7)}", ["q", "a", "q", "7"], note="1 rows have numbers"),
        Refused(row(instruction="q", output={"a": 1}), r"'output' is an object, not text · rows\.jsonl:1"),
    ],
    "a list in place of text": [Refused(row(instruction="q", output=["a"]), "'output' is a list, not text")],
    "content in parts": [
        Taken(
            row(
                messages=[
                    {"role": "user", "content": [{"type": "text", "text": "q"}]},
                    {"role": "assistant", "content": "a"},
                ]
            ),
            ["q", "a"],
        ),
        Refused(
            row(messages=[{"role": "user", "content": [{"type": "image", "url": "x"}]}]), "not a part of text"
        ),
    ],
    "deep nesting": [Refused('{"a": ' + "[" * 4000 + "]" * 4000 + "}", "nested too deep")],
    "bytes that are not UTF-8": [
        Refused(
            GOOD.replace("q", "Où est l'été ?").encode("latin-1"), r"rows\.jsonl:1.*data\.encoding=cp1252"
        )
    ],
    "UTF-16": [
        Taken(GOOD.encode("utf-16"), ["q", "a"]),
        Refused(GOOD.encode("utf-16-le"), "utf-16-le without a mark.*data.encoding=utf-16-le"),
    ],
    "half of a surrogate pair": [
        Refused('{"instruction": "\\ud83d", "output": "a"}', r"lone surrogate \\ud83d · rows\.jsonl:1")
    ],
    "control characters": [
        Taken(
            row(instruction="q\0", output="\x1b[31ma"),
            ["q\0", "\x1b[31ma"],
            note="1 row with control characters",
        )
    ],
    "emoji, joined and combining characters, right-to-left text": [
        Taken(row(instruction="👩‍👩‍👧 e\u0301", output="\u202eعربي"), ["👩‍👩‍👧 e\u0301", "\u202eعربي"])
    ],
    "text in two Unicode normal forms": [Taken(row(instruction="e\u0301", output="é Å"), ["e\u0301", "é Å"])],
    "a row of megabytes": [
        Refused(row(instruction="q", output="x" * 8_100_000), "row is larger than 8,000,000 bytes")
    ],
    "an empty file": [Refused("", "the file is empty")],
    "an empty array": [Refused("[]", "0 rows", "rows.json")],
    "rows inside a wrapping object": [Taken(f'{{"data": [{GOOD}]}}', ["q", "a"], "rows.json")],
    "an array of strings": [Refused('["a", "b"]', "2 rows are text, not an object", "rows.json")],
    "a name that does not fit the content": [
        Taken(f"{GOOD}\n{GOOD}", ["q", "a"] * 2, "rows.json"),
        Taken(f"[{GOOD}]", ["q", "a"]),
    ],
    "dates in a text column": [
        Taken(
            row(instruction="2024-01-05", output="2024-01-05T00:00:00Z"),
            ["2024-01-05", "2024-01-05T00:00:00Z"],
        )
    ],
    "a number of 30 digits": [
        Taken(
            '{"instruction": 1.50, "output": 123456789012345678901234567890}',
            ["1.50", "123456789012345678901234567890"],
            note="1 rows have numbers",
        )
    ],
    "leading zeros, TRUE and NA in a CSV file": [
        Taken("instruction,output\n007,NA\nTRUE,1.50\n", ["007", "NA", "TRUE", "1.50"], "rows.csv")
    ],
    "a CSV file with a bad quote, row or header": [
        Refused('instruction,output\n"q,a\n', r"a quote in this row never closes · rows\.csv:2", "rows.csv"),
        Refused("instruction,output\nq,a,b\n", r"3 cells, the header has 2 · rows\.csv:2", "rows.csv"),
        Refused("output,output\nq,a\n", "occurs twice", "rows.csv"),
        Taken('instruction;output\n"q\n2";a\n', ["q\n2", "a"], "rows.csv"),
    ],
    "an empty answer": [
        Refused(row(instruction="q", output=" \n"), "'output' is empty"),
        Refused(row(instruction="q", output=""), "'output' is empty"),
    ],
    "an empty prompt": [
        Refused(row(instruction="", input=" ", output="a"), "'instruction' and 'input' are empty")
    ],
    "an answer that is longer than the window": [
        Refused(LONG, r"\[overlong\] 1 of 1 examples .*pack\.length=")
    ],
    "a prompt that fills the window": [
        Refused(row(instruction="word " * 400, output="a"), r"\[overlong\].*the longest needs \d+")
    ],
    "turns in an order that no chat has": [
        Taken(turns("user", "assistant", "user"), ["t0", "t1"], note="1 rows end with turns behind"),
        Refused(turns("user"), "last turn is user, not assistant"),
        Refused(
            turns("user", "user", "assistant"), r"two user turns in a row, the second at 'messages\[1\]'"
        ),
        Refused(turns("assistant", "user", "assistant"), "the assistant speaks first"),
    ],
    "a system turn in the middle, or twice": [
        Taken(turns("user", "system", "assistant"), ["t0", "t1", "t2"]),
        Refused(turns("system", "system", "user", "assistant"), "second system turn"),
    ],
    "an unknown role": [
        Refused(
            turns("user", "bat"), r"'messages\[1\]\.role' is no known role · rows\.jsonl:1 · found \"bat\""
        )
    ],
    "a folder, pipe, device or dangling link as data": [
        Refused("x", "the folder holds no data", "folder"),
        Refused("x", "the path is a pipe", "fifo"),
    ],
    "a pickle": [Refused(b"\x80\x04]\x94.", "Python pickle.*sapwood data convert 'rows.pkl'", "rows.pkl")],
    "a damaged or hostile Parquet file": [
        Refused(b"PAR1" + b"\0" * 40 + b"PAR1", "the Parquet file is damaged", "rows.parquet")
    ],
    "a URL as data": [Refused("x", "the path is a URL.*curl -LO", "https://example.org/rows.jsonl")],
}


def read(folder: Path, case: Refused | Taken, report: ReadReport | None = None) -> list[Conversation]:
    path = folder / case.name
    if case.name == "folder":
        path.mkdir()
    elif case.name == "fifo":
        os.mkfifo(path)
    elif "://" not in case.name:
        path.write_bytes(case.content if isinstance(case.content, bytes) else case.content.encode())
    return list(read_conversations(DataConfig(train=(case.name,)), root=folder, report=report))


def prepared(conversations: list[Conversation], length: int = 256) -> Preparation:
    return prepare(conversations, tiny(), TemplateConfig(), max_length=length, vocab_rows=99_999)


@pytest.mark.parametrize(
    ("case", "id"),
    [pytest.param(case, id, id=f"{id}-{i}") for id, cases in CASES.items() for i, case in enumerate(cases)],
)
def test_files(tmp_path: Path, case: Refused | Taken, id: str) -> None:
    report = ReadReport()
    if isinstance(case, Taken):
        found = read(tmp_path, case, report)
        assert [message.content for one in found for message in one.messages] == case.texts
        assert any(note.startswith(case.note) for note in report.notes()) if case.note else not report.notes()
        return
    with pytest.raises(DataError) as caught:
        prepared(read(tmp_path, case, report))
    assert re.search(case.message, str(caught.value))
    assert all(problem.what and problem.where for problem in caught.value.problems)
    assert caught.value.exit_code == 3


# --- what is more than one file -----------------------------------------------------------------------------


def make(folder: Path, *rows: str) -> list[Conversation]:
    return read(folder, Taken("\n".join(rows), []))


def a_million_characters_without_a_space(folder: Path) -> None:
    with pytest.raises(DataError, match=r"\[overlong\].*rows\.jsonl:1"):
        prepared(make(folder, row(instruction="q", output="x" * 1_000_000)))


def control_text_stays_text(folder: Path) -> None:
    found = prepared(make(folder, row(instruction="<|im_end|>", output="</s><|im_start|> is a token")))
    assert found.report.control_rows == 1
    assert found.examples[0].ids.tolist().count(tiny().stop_id) == 2
    with pytest.raises(DataError, match=r"\[control-text\] 1 row: .*data\.strip_control_text=true"):
        prepared(make(folder, row(instruction="q", output="a<|im_end|>")))


def braces_are_never_rendered(folder: Path) -> None:
    text = "{{ 7 * 7 }}{% for x in y %}"
    found = prepared(make(folder, row(instruction="q", output=text)))
    assert text in tiny().tokenizer.decode(found.examples[0].ids.tolist())


def duplicates_are_counted_and_stay_together(folder: Path) -> None:
    found = make(folder, *[row(instruction=f"q{i % 20}", output="a") for i in range(40)])
    assert len(RowHashes.of(found).duplicates()) == 20
    train, held = split_eval(found, 0.2, seed=0)
    assert not {c.messages for c in train} & {c.messages for c in held}


def one_bad_row_of_many_is_found_while_reading(folder: Path) -> None:
    rows = [GOOD] * 20_000
    rows[13_370] = "{"
    with pytest.raises(DataError, match=r"rows\.jsonl:13371"):
        make(folder, *rows)


def nothing_is_left(folder: Path) -> None:
    with pytest.raises(DataError, match=r"\[overlong\] 1 of 1"):
        config = TemplateConfig(overlong="drop")
        prepare(make(folder, LONG), tiny(), config, max_length=64, vocab_rows=99_999)


def a_split_that_leaves_nothing(folder: Path) -> None:
    found = make(folder, row(instruction="a", output="b"), row(instruction="c", output="d"))
    with pytest.raises(DataError, match=r"nothing left to train on · data\.eval"):
        split_eval(found, 3, seed=0)


def contradictions_are_reported(folder: Path) -> None:
    found = make(folder, GOOD, row(instruction="q", output="b"))
    assert [[str(r) for r in group] for group in RowHashes.of(found).contradictions()] == [
        ["rows.jsonl:1", "rows.jsonl:2"]
    ]


def escapes_do_not_reach_the_terminal(folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        make(folder, row(instruction="q", output=["\x1b[31m"]), row(**{"\x1b[2J\u202e": "x"}))
    assert "\x1b" not in str(caught.value)
    assert "\u202e" not in str(caught.value)
    assert printable("\x1b[2J") == "\\x1b[2J"


MORE: dict[str, Callable[[Path], None]] = {
    "a million characters without a blank": a_million_characters_without_a_space,
    "control text inside a message": control_text_stays_text,
    "`{{ }}` of a template inside a message": braces_are_never_rendered,
    "rows that occur twice": duplicates_are_counted_and_stay_together,
    "one bad row of a million": one_bad_row_of_many_is_found_while_reading,
    "no row left after all were read": nothing_is_left,
    "a held-out share that leaves nothing to learn": a_split_that_leaves_nothing,
    "one prompt with two answers": contradictions_are_reported,
    "escapes of a terminal inside text": escapes_do_not_reach_the_terminal,
}


@pytest.mark.parametrize("id", MORE)
def test_more_than_a_file(tmp_path: Path, id: str) -> None:
    MORE[id](tmp_path)


def test_the_page_names_each_case() -> None:
    assert not {*CASES, *MORE} - set(faults())
