from __future__ import annotations

import pytest

from sapwood.show.figures import change, duration, number, size, steps, stop_reason, visible
from tests.run.shared import sample


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (130, "2m10s"),
        (3720, "1h02m"),
        (273600, "3d04h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(7, "7 B"), (7200, "7.2 kB"), (3e6, "3.0 MB"), (1.8e9, "1.8 GB"), (2e12, "2.0 TB")]
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def test_numbers_changes_and_steps() -> None:
    assert (number(2.34567), number(None), number(310.4, 0)) == ("2.3457", "-", "310")
    assert change(2.1, 3.0) == "-0.9000, -30 %"
    assert change(0.5, 0.0) == "+0.5000"
    assert (steps(3, 10), steps(3, None)) == ("3/10", "3")


def test_how_an_answer_ended() -> None:
    assert stop_reason(sample()) == "stopped by itself"
    assert stop_reason(sample(stopped=False)) == "cut at 42 tokens"


def test_a_terminal_never_sees_what_could_command_it() -> None:
    hostile = "\x1b]0;title\x07\r\x9b2J\u202egnp.exe\u2028\udc80\x7f"
    shown = visible(hostile)
    assert shown == r"\x1b]0;title\x07\x0d\x9b2J\u202egnp.exe\u2028\udc80\x7f"
    assert visible("两行\nline 👩‍🌾 é") == "两行\nline 👩‍🌾 é"
    assert visible("abcdef", 3) == "abc…"
