from __future__ import annotations

import math

import pytest

from sapwood.show.curve import curve


def test_a_curve_falls_from_the_top_on_the_left_to_the_bottom_on_the_right() -> None:
    drawn = curve([8, 7, 6, 5, 4, 3, 2, 1], 8, 2)
    assert drawn is not None and (drawn.high, drawn.low) == (8, 1)
    upper, lower = drawn.lines
    assert upper[:4].strip("⠀") and not upper[4:].strip("⠀")
    assert lower[4:].strip("⠀") and not lower[:3].strip("⠀")


@pytest.mark.parametrize("count", [1, 2, 59, 60, 61, 1000])
def test_a_curve_has_its_width_whatever_the_number_of_values(count: int) -> None:
    drawn = curve([math.sin(n) for n in range(count)], 60, 3)
    assert drawn is not None and [len(line) for line in drawn.lines] == [60] * 3
    assert any(line.strip("⠀") for line in drawn.lines)


def test_the_first_values_take_their_share_of_the_width_and_not_all_of_it() -> None:
    drawn = curve([3.0, 2.0, 1.0], 40, 4, at_least=20)
    assert drawn is not None
    assert max(len(line.rstrip("⠀")) for line in drawn.lines) <= 5


def test_a_level_curve_is_a_line_and_what_is_no_number_is_left_out() -> None:
    drawn = curve([2.0, math.nan, math.inf, 2.0], 6, 2)
    assert drawn is not None and (drawn.high, drawn.low) == (2.0, 2.0)
    assert [bool(line.strip("⠀")) for line in drawn.lines] == [False, True]


def test_nothing_is_drawn_of_nothing_or_without_room() -> None:
    assert curve([], 10, 3) is None
    assert curve([math.nan], 10, 3) is None
    assert curve([1.0], 0, 3) is None


def test_an_ascii_terminal_sees_where_the_dots_are() -> None:
    drawn = curve([3.0, 1.0], 6, 2, ascii_only=True)
    assert drawn is not None and "".join(drawn.lines).isascii()
    assert (
        set("".join(drawn.lines)) <= set(" .':") and drawn.lines[0][0] in "':" and drawn.lines[1][-1] in ".:"
    )
