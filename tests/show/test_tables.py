from __future__ import annotations

import io
import json
import os
import pty
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest
from rich.cells import cell_len

from sapwood.run.query import compare_runs, list_runs, summarise
from sapwood.run.store import open_run
from sapwood.show.tables import hanging, show_comparison, show_runs, side_by_side, summary
from tests.run.conftest import Make
from tests.run.shared import sample
from tests.show.test_console import words


def test_a_pipe_gets_one_aligned_line_for_each_run(root: Path, make_run: Make) -> None:
    oak, elm = make_run("oak"), make_run("老树", steps=120, status="failed")
    out = io.StringIO()
    show_runs(out, list_runs(root))
    head, *rows = out.getvalue().splitlines()
    assert head.split() == ["run", "status", "base", "step", "loss", "held-out", "before", "tokens/s", "time"]
    assert [row.split() for row in rows] == [
        [elm.name, "failed", "builtin:smollm2", "120/120", "1.0000", "2.0000", "3.0000", "310", "4m09s"],
        [oak.name, "finished", "builtin:smollm2", "8/8", "1.2707", "2.0000", "3.0000", "310", "25s"],
    ]
    columns = {
        line.index(word) + line.count("老") + line.count("树")
        for line, word in zip([head, *rows], ("status", "failed", "finished"), strict=True)
    }
    assert len(columns) == 1


def test_a_pipe_gets_nothing_but_the_head_where_there_are_no_runs(tmp_path: Path) -> None:
    out = io.StringIO()
    show_runs(out, list_runs(tmp_path))
    assert len(out.getvalue().splitlines()) == 1


@contextmanager
def terminal() -> Generator[tuple[TextIO, list[bytes]]]:
    """A terminal in this process: a stream to write to, and what arrived at the other side."""
    ours, theirs = pty.openpty()
    arrived: list[bytes] = []
    reader = threading.Thread(target=lambda: [arrived.append(b) for b in iter(lambda: _read(ours), b"")])
    reader.start()
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        yield stream, arrived
    reader.join()
    os.close(ours)


def _read(handle: int) -> bytes:
    try:
        return os.read(handle, 65536)
    except OSError:  # EIO: the other side is closed
        return b""


def test_a_narrow_terminal_drops_the_columns_that_matter_least(
    root: Path, make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_run("oak")
    for columns, has_base in (("140", True), ("80", False)):
        monkeypatch.setenv("COLUMNS", columns)
        with terminal() as (stream, arrived):
            show_runs(stream, list_runs(root))
        shown = words(b"".join(arrived).decode())
        (line,) = (line for line in shown.splitlines() if path.name in line)
        assert ("builtin:smollm2" in line) == has_base
        assert "finished" in line
        assert "1.2707" in line
        assert cell_len(line) <= int(columns)


def test_a_comparison_shows_figures_and_what_differs(make_run: Make) -> None:
    runs = [
        make_run("oak", train={"lr": 1e-4}),
        make_run("oak", train={"lr": 2e-4}, lora={"targets": ["q", "v"]}),
    ]
    out = io.StringIO()
    show_comparison(out, compare_runs(runs))
    rows = {line[:16].strip(): line[16:].split("  ") for line in out.getvalue().splitlines()}
    cells = {key: [cell.strip() for cell in row if cell.strip()] for key, row in rows.items()}
    assert cells[""] == [run.name for run in runs]
    assert cells["held-out, before"] == ["3.0000", "3.0000"]
    assert cells["train.lr"] == ["0.0001", "0.0002"]
    assert cells["lora.targets"] == ["all-linear", "q, v"]
    assert "train.epochs" not in cells


def test_a_comparison_on_a_terminal_is_a_table(make_run: Make) -> None:
    with terminal() as (stream, arrived):
        show_comparison(stream, compare_runs([make_run("oak"), make_run("elm")]))
    assert "────" in b"".join(arrived).decode()


@pytest.mark.parametrize("width", [50, 76, 120])
def test_answers_stand_side_by_side_whatever_their_script(width: int) -> None:
    chinese = "苗圃的老看守人会说:北墙就种绣球藤吧,它爱阴凉。" * 4
    pairs = [
        (
            sample("As an AI, " * 12, stopped=False, prompt="What grows? 请用中文"),
            sample(chinese + "\n\nNext."),
        ),
        (sample("\x1b[2J[red]"), sample("")),
    ]
    text = side_by_side(pairs, width, ("before", "after"))
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text
    assert "› What grows? 请用中文" in text
    first = [line for line in text.split("› ")[1].splitlines() if "─" not in line]
    split = min(line.index("苗") for line in first if "苗" in line)
    joined = "".join(line[split:].strip() for line in first)
    assert chinese in joined  # nothing is cut
    assert text.count("[stopped by itself]") == 3
    assert text.count("[cut at 42 tokens]") == 1
    assert r"\x1b[2J[red]" in text


def test_side_by_side_has_colour_only_where_asked() -> None:
    pair = (sample(stopped=False), sample())
    assert "\x1b[" in side_by_side([pair], 80, ("", ""), color=True)
    assert side_by_side([], 80, ("", "")) == ""


def test_a_summary_says_what_happened_and_what_to_type_next(make_run: Make) -> None:
    path = make_run("oak")
    (path / "adapter").mkdir()
    (path / "loss.png").write_bytes(b"")
    out = io.StringIO()
    summary(out, summarise(path))
    text = out.getvalue()
    assert text.startswith("oak finished: 8/8 steps in 25s\n")
    assert "held-out  3.0000 (before) to 2.0000, -1.0000, -33 %; best 2.0000" in text
    assert f"adapter   {path / 'adapter'}" in text
    assert f"curve     {path / 'loss.png'}" in text
    assert f"sapwood chat {path}\n" in text
    assert f"sapwood runs {path}\n" in text


def test_a_stopped_run_is_told_how_to_go_on(root: Path) -> None:
    with open_run(root / "with space", name="oak", config_yaml="{}", facts={}) as store:
        store.set_status("stopped")
    run = replace(summarise(store.path), damaged_lines=2)
    out = io.StringIO()
    summary(out, run)
    assert f"sapwood resume '{store.path}'\n" in out.getvalue()
    assert "sapwood chat" not in out.getvalue()
    assert "held-out  -\n" in out.getvalue()
    assert "2 lines of the record can't be read" in out.getvalue()


def test_a_held_out_loss_without_its_base_stands_alone(make_run: Make) -> None:
    path = make_run("oak")
    records = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    kept = [json.dumps(r) + "\n" for r in records if not (r["kind"] == "evaluated" and r["step"] == 0)]
    (path / "events.jsonl").write_text("".join(kept))
    out = io.StringIO()
    summary(out, summarise(path))
    assert "held-out  2.0000; best 2.0000\n" in out.getvalue()


def test_facts_hang_behind_their_word_on_a_terminal_and_stay_whole_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = "rows without a system prompt learn under the template's own:  'You are kind'"
    text = f"rows       4\nnote       {told}"
    assert hanging(text) == text
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "50")
    assert hanging(text).splitlines() == [
        "rows       4",
        "note       rows without a system prompt learn",
        "           under the template's own:  'You are",
        "           kind'",
    ]
