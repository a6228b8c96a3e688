"""What goes wrong is said once, in four parts, with its own exit code."""

from __future__ import annotations

import pytest

from sapwood import errors
from sapwood.errors import DataError, Problem, SapwoodError, Stopped, brief, first_line


def test_a_problem_is_what_where_why_and_mend() -> None:
    assert str(Problem("row has no answer", "a.json:3", "nothing to learn", "add one")) == (
        "row has no answer · a.json:3 · nothing to learn · add one"
    )
    assert str(Problem("no disk", mend="free some")) == "no disk · free some"


def test_one_problem_is_written_out_in_the_call() -> None:
    error = SapwoodError("what", "where", "why", "mend")
    assert error.problems == (Problem("what", "where", "why", "mend"),)
    assert str(error) == "what · where · why · mend"
    assert error.args == (str(error),)


def test_all_problems_are_kept_and_twenty_are_shown() -> None:
    error = DataError([Problem(f"p{i}") for i in range(23)])
    lines = str(error).splitlines()
    assert lines == [*[f"p{i}" for i in range(20)], "… and 3 more"]
    assert len(error.problems) == 23
    assert "more" not in str(DataError([Problem(f"p{i}") for i in range(20)]))


def test_an_error_without_a_problem_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        SapwoodError([])


def test_exit_codes_are_those_of_the_manual() -> None:
    codes = {
        name: child.exit_code
        for name, child in vars(errors).items()
        if isinstance(child, type) and issubclass(child, SapwoodError)
    }
    assert codes == {
        "SapwoodError": 1,
        "ShortageError": 5,
        "OutOfMemoryError": 1,
        "ConfigError": 2,
        "DataError": 3,
        "ModelError": 4,
        "StorageError": 5,
        "NumericsError": 6,
        "BadStepError": 6,
        "LockedError": 7,
        "ExportError": 8,
        "LostProcessError": errors.STOPPED_RESUMABLE,
        "Stopped": errors.STOPPED_RESUMABLE,
    }
    assert Stopped.exit_code == 75


def test_what_a_library_says_ends_with_a_sentence_or_at_a_word() -> None:
    said = "401 Client Error. (Request ID: Root=1-6)\n\n" + "Access is refused to you. " * 20
    assert brief(said, 100) == (
        "401 Client Error. (Request ID: Root=1-6) Access is refused to you. Access is refused to you."
    )
    assert brief("word " * 60, 100) == "word " * 19 + "…"
    assert brief("x" * 300, 100) == "x" * 98 + " …"
    assert brief("不能读取这个模型。" * 40, 100) == "不能读取这个模型。" * 11
    assert brief("Short. " + "word " * 60, 100).endswith("word …"), "a short sentence says too little"
    for text in (said, "word " * 60, "x" * 300):
        assert len(brief(text, 100)) <= 100
    assert brief("two\n lines") == "two lines"
    assert brief(OSError()) == first_line(OSError()) == "OSError"
    assert first_line(ValueError("\n the first \nthe second")) == "the first"
