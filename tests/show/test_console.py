from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from fcntl import ioctl

import pytest

from sapwood.show.console import Pace, PlainReporter, reporter
from sapwood.show.stream import SafeStream
from sapwood.types import Finished
from tests.run.shared import evaluated, sample, stepped


def lines_of(show: Callable[[PlainReporter, list[float]], None]) -> list[str]:
    """What a plain reporter writes; ``show`` may move the clock, a list of one number."""
    out, clock = io.StringIO(), [0.0]
    with PlainReporter(SafeStream(out), 120, clock=lambda: clock[0]) as plain:
        show(plain, clock)
    return out.getvalue().splitlines()


def test_a_step_is_one_line_of_figures() -> None:
    lines = lines_of(lambda plain, clock: plain.show(stepped(12, 2.34512)))
    assert lines == ["step 12/120 loss 2.3451 lr 9.1e-05 tokens/s 310 left 3m36s mem 1.8 GB"]


def test_steps_are_shown_once_a_second_and_the_last_always() -> None:
    def show(plain: PlainReporter, clock: list[float]) -> None:
        for step in range(1, 36):
            plain.show(stepped(step))
            clock[0] += 0.125

    shown = [line.split()[1].partition("/")[0] for line in lines_of(show)]
    assert shown == ["1", "9", "17", "25", "33", "35"]


def test_lines_keep_the_order_of_the_events() -> None:
    def show(plain: PlainReporter, clock: list[float]) -> None:
        plain.show(stepped(1))
        plain.show(stepped(2))
        plain.show(evaluated(2, 2.0))
        plain.note("saved checkpoints/step-000002")
        plain.show(Finished(2, "stopped", 130.0))

    assert [line.partition(" lr")[0] for line in lines_of(show)] == [
        "step 1/120 loss 2.5000",
        "step 2/120 loss 2.5000",
        "held-out 2.0000 (perplexity 7.389) at step 2",
        "saved checkpoints/step-000002",
        "stopped at step 2/120 in 2m10s",
    ]


def test_the_time_left_counts_what_happens_between_steps() -> None:
    def show(plain: PlainReporter, clock: list[float]) -> None:
        for step in range(1, 31):
            clock[0] += 3  # 2 s of step, 1 s of other things
            plain.show(stepped(step))

    assert "left 4m30s" in lines_of(show)[-1]


def test_held_out_loss_is_held_against_the_base() -> None:
    def show(plain: PlainReporter, clock: list[float]) -> None:
        plain.show(evaluated(0, 3.0))
        plain.show(evaluated(40, 2.1))

    assert lines_of(show) == [
        "held-out 3.0000 (perplexity 20.09) at step 0 (before training)",
        "held-out 2.1000 (perplexity 8.166) at step 40 (before 3.0000, -0.9000, -30 %)",
    ]


def test_a_resumed_run_knows_the_loss_of_its_base() -> None:
    out = io.StringIO()
    with reporter(out, 120, base_loss=4.0) as plain:
        plain.show(evaluated(40, 3.0))
    assert out.getvalue() == "held-out 3.0000 (perplexity 20.09) at step 40 (before 4.0000, -1.0000, -25 %)\n"


def test_answers_are_not_shown_on_the_way() -> None:
    lines = lines_of(lambda plain, clock: plain.show(evaluated(0, 3.0, sample("one"))))
    assert lines == ["held-out 3.0000 (perplexity 20.09) at step 0 (before training)"]


def test_a_step_that_took_no_time_has_no_rate() -> None:
    lines = lines_of(lambda plain, clock: plain.show(stepped(1, seconds=0.0)))
    assert "tokens/s - " in lines[0]


def test_json_is_nothing_but_events() -> None:
    out = io.StringIO()
    with reporter(out, 2, json=True) as program:
        program.show(evaluated(0, 3.0, sample("树\n")))
        program.show(stepped(1, float("nan")))
        program.note("saved")
        program.show(Finished(2, "done", 9.0))
    records = [json.loads(line, parse_constant=pytest.fail) for line in out.getvalue().splitlines()]
    assert [(r["kind"], r["step"]) for r in records] == [
        ("evaluated", 0),
        ("stepped", 1),
        ("note", None),
        ("finished", 2),
    ]
    assert records[0]["data"]["samples"][0]["answer"] == "树\n"
    assert records[1]["data"]["loss"] is None
    assert records[2]["data"] == {"text": "saved"}


PREAMBLE = """
import sys, time
from sapwood.show.console import reporter
from tests.run.shared import evaluated, sample, stepped
from sapwood.types import Finished
"""
TRAINING = """
with reporter(sys.stdout, 30, title="sapwood demo") as live:
    live.show(evaluated(0, 3.0, sample("I am an AI", stopped=False)))
    for step in range(1, 31):
        live.show(stepped(step, 3.0 - step / 20))
        if step == 15:
            time.sleep(1.2)
            print("a warning from a library")
    live.show(evaluated(30, 1.5, sample()))
    live.note("[bold]saved[/bold] :tree: checkpoints/step-000030")
    live.show(Finished(30, "done", 61.0))
print("after")
"""


def on_terminal(code: str, columns: int = 90, **env: str) -> str:
    """What the program writes to a terminal of that width."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    full_env = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **env}
    child = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + code], stdin=theirs, stdout=theirs, stderr=theirs, env=full_env
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            block = os.read(ours, 65536)
        except OSError:  # EIO: the other side is closed
            break
        if not block:
            break
        output += block
    os.close(ours)
    assert child.wait() == 0, output.decode()
    return output.decode()


def words(output: str) -> str:
    """The output without the terminal's control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)


def test_a_person_sees_a_panel_that_stays_in_place() -> None:
    output = on_terminal(TRAINING)
    shown = words(output)
    assert "╭─ sapwood demo " in shown
    assert "step 30/30  100 %  done" in shown
    assert re.search(r"^│ 2\.95 [\u2801-\u28ff]", shown, re.MULTILINE)  # braille
    assert "loss 1.5000   held-out 1.5000 (-1.5000, -50 %)" in shown
    assert "lr 9.1e-05   tokens/s 310   peak memory 1.8 GB" in shown
    assert "a warning from a library" in shown
    assert "[bold]saved[/bold] :tree: checkpoints/step-000030" in shown
    assert shown.rstrip().endswith("after")
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1  # the cursor comes back
    widest = max(len(line) for line in shown.replace("\r", "\n").splitlines() if "│" in line)
    assert widest <= 90


def test_an_exception_gives_the_terminal_back() -> None:
    code = "try:\n  with reporter(sys.stdout, 3) as live:\n    live.show(stepped(1)); 1 / 0\n"
    output = on_terminal(code + "except ZeroDivisionError: print('raised')")
    assert output.index("\x1b[?25h") < output.index("raised")


def test_no_color_is_honoured() -> None:
    assert not re.search(r"\x1b\[(3[0-9]|38;)", on_terminal(TRAINING, NO_COLOR="1"))


def test_a_dumb_terminal_gets_plain_lines() -> None:
    output = on_terminal(TRAINING, TERM="dumb")
    assert "\x1b" not in output
    assert "step 1/30 loss 2.9500" in output


def test_an_ascii_terminal_gets_a_curve_of_its_own() -> None:
    output = on_terminal(TRAINING, PYTHONIOENCODING="ascii")
    assert output.isascii()
    assert "step 30/30" in words(output)
    assert re.search(r"2\.95 [':.]+", words(output))


def test_a_terminal_that_goes_away_does_not_stop_the_training() -> None:
    ours, theirs = pty.openpty()
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    code += "with reporter(sys.stdout, 200) as live:\n"
    code += "  for step in range(1, 200): live.show(stepped(step)); live.note('n' * 200); time.sleep(0.001)\n"
    child = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + code + "sys.stderr.write('trained')"],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
    )
    os.close(theirs)
    assert select.select([ours], [], [], 20)[0]
    os.read(ours, 1000)
    os.close(ours)
    assert child.communicate()[1] == b"trained"
    assert child.returncode == 0


def test_a_closed_pipe_does_not_stop_the_training() -> None:
    code = "with reporter(sys.stdout, 900) as plain:\n"
    code += "  for step in range(1, 900): plain.show(stepped(step)); plain.note('n' * 500)\n"
    child = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + code + "sys.stderr.write('trained')"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    assert child.stderr.read() == b"trained"
    assert child.wait() == 0


def test_the_reporter_loads_no_torch_and_rich_only_for_a_person() -> None:
    code = "import sys, sapwood.show.console, sapwood.show.plot, sapwood.run.files\n"
    code += "print(sorted({'torch', 'rich', 'matplotlib', 'pydantic', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_the_live_panel_counts_time_down_while_a_step_runs() -> None:
    clock = [100.0]
    pace = Pace(10, lambda: clock[0])
    assert pace.left() is None
    pace.stepped(stepped(5, seconds=4.0))
    assert pace.left() == 20.0
    clock[0] += 3
    assert pace.left() == 17.0
    clock[0] += 1000
    assert pace.left() == 0.0
