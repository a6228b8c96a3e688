"""What goes wrong is said once, in four parts, with its own exit code."""

from __future__ import annotations

import pytest

from sapwood import errors
from sapwood.errors import DataError, Problem, SapwoodError, Stopped


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
