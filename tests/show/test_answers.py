from __future__ import annotations

import io
from pathlib import Path

import pytest

from sapwood.commands.answers import before_and_after, show_answers
from sapwood.run.store import open_run
from sapwood.show.stream import SafeStream
from tests.run.shared import evaluated, sample


def recorded(folder: Path, steps: tuple[int, ...], prompts: int) -> Path:
    with open_run(folder, name="trees", config_yaml="", facts={}) as run:
        for step in steps:
            answers = [
                sample(f"answer {step}.{i} " + "word " * 30, prompt=f"Tree {i}?", stopped=step > 0)
                for i in range(prompts)
            ]
            run.record(evaluated(step, 3.0, *answers))
    return run.path


def shown(run: Path, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    show_answers(run, SafeStream(out))
    return raw.getvalue().decode(encoding)


def test_the_base_stands_beside_the_last_adapter_and_nothing_between_them_is_shown(tmp_path: Path) -> None:
    text = shown(recorded(tmp_path, (0, 20, 40), 6))
    assert "answer 0.0" in text and "answer 40.0" in text and "answer 20.0" not in text
    assert text.count("›") == 4 and "and 2 more in samples.jsonl" in text
    line = next(line for line in text.splitlines() if "answer 0.0" in line)
    begin = line.index("answer 40.0")
    wrapped = text.splitlines()[text.splitlines().index(line) + 1]
    assert wrapped[begin:].startswith("word") and wrapped[begin - 1] == " "  # below its own beginning


@pytest.mark.parametrize("steps", [(), (0,), (20,)])
def test_where_one_of_the_two_was_not_asked_nothing_is_shown(tmp_path: Path, steps: tuple[int, ...]) -> None:
    run = recorded(tmp_path, steps, 2)
    assert before_and_after(run) == [] and shown(run) == ""


def test_an_ascii_terminal_is_written_nothing_that_it_cannot_show(tmp_path: Path) -> None:
    text = shown(recorded(tmp_path, (0, 40), 1), "ascii")
    assert "\\u" not in text and "> Tree 0?" in text and "----" in text
