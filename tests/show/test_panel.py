from __future__ import annotations

import io

import pytest
from rich.console import Console

from sapwood.show.console import LiveReporter, Pace
from sapwood.show.panel import HISTORY, Panel
from sapwood.show.stream import SafeStream
from sapwood.types import Finished
from tests.run.shared import evaluated, sample, stepped


def drawn(panel: Panel, width: int = 72) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(panel)
    return out.getvalue().splitlines()


@pytest.fixture
def panel() -> Panel:
    return Panel("demo", 120, Pace(120, lambda: 100.0))


def test_before_the_first_step_it_says_what_it_waits_for(panel: Panel) -> None:
    panel.evaluated(evaluated(0, 3.0), 3.0)
    text = "\n".join(drawn(panel))
    assert "step 0/120  0 %  first step …" in text
    assert "held-out 3.0000 (before training)" in text


def test_it_shows_where_the_training_is(panel: Panel) -> None:
    for step in range(1, 13):
        panel.stepped(stepped(step, 3.0 - step / 10))
    panel.evaluated(evaluated(12, 2.0), 3.0)
    lines = drawn(panel)
    assert {len(line) for line in lines} == {72}
    assert lines[0].startswith("╭─ demo ")
    assert "step 12/120  10 %  left " in lines[1]
    assert lines[3].startswith("│ 2.90 ") and lines[7].startswith("│ 1.80 ")
    first, last = (line[7:-2].replace("⠀", " ") for line in (lines[3], lines[7]))
    assert first[0] != " " and not last[0].strip()  # it begins above and ends below
    assert len(last.rstrip()) < 0.7 * len(last)  # twelve steps of the twenty that there is room for
    assert "loss 1.8000   held-out 2.0000 (-1.0000, -33 %)" in lines[9]
    panel.finished = True
    assert "done" in drawn(panel)[1]


def test_a_resumed_run_has_no_base_to_compare_with(panel: Panel) -> None:
    panel.evaluated(evaluated(12, 2.0), None)
    assert any("held-out 2.0000  " in line for line in drawn(panel))


def test_the_curve_is_of_the_recent_steps(panel: Panel) -> None:
    for step in range(1, HISTORY + 2):
        panel.stepped(stepped(step, 100.0 if step == 1 else 2.0, seconds=0.0))
    text = "\n".join(drawn(panel))
    assert "100.00" not in text
    assert "tokens/s -" in text


@pytest.mark.parametrize("width", [30, 60, 300])
def test_it_fits_any_terminal(panel: Panel, width: int) -> None:
    panel.stepped(stepped(1))
    assert max(len(line) for line in drawn(panel, width)) <= min(width, 100)


def test_the_live_view_leaves_all_that_was_said_and_the_last_panel() -> None:
    out = io.StringIO()
    with LiveReporter(SafeStream(out), 2, title="demo") as live:
        live.show(evaluated(0, 3.0, sample("an answer")))
        live.show(stepped(1))
        live.show(stepped(2))
        live.note("[red]saved[/red]")
        live.show(Finished(2, "done", 4.0))
    text = out.getvalue()
    assert "[red]saved[/red]" in text and "an answer" not in text
    assert "done at step 2/2 in 4s" in text
    assert text.index("saved") < text.rindex("step 2/2  100 %  done")


def test_a_fact_above_the_panel_hangs_behind_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    out = io.StringIO()
    with LiveReporter(SafeStream(out), 2, title="demo") as live:
        live.note("time       about 10s without loading and sample answers")
    assert "time       about 10s without loading and\n           sample answers\n" in out.getvalue()
