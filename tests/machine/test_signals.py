"""Real signals to a real process: the first asks, the second leaves."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sapwood.machine.signals import STOP_SIGNALS, stop_signals

CHILD = """
import signal, sys, time
from sapwood.machine.signals import stop_signals
with stop_signals() as request:
    print("ready", bool(request), flush=True)
    while not request:
        time.sleep(0.01)
    print("asked", request.signal.name, flush=True)
    for line in sys.stdin:
        break
print("left in order", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, flush=True)
"""


@contextmanager
def child() -> Iterator[subprocess.Popen[str]]:
    source = str(Path(__file__).parents[2] / "src")
    with subprocess.Popen(
        [sys.executable, "-c", CHILD],
        env={"PYTHONPATH": source},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_first_signal_asks_and_the_run_ends_in_its_own_time(number: signal.Signals) -> None:
    with child() as process:
        assert heard(process) == "ready False"
        process.send_signal(number)
        assert heard(process) == f"asked {number.name}"
        process.communicate("go on\n", timeout=60)
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("first", "second"), [("SIGINT", "SIGINT"), ("SIGTERM", "SIGINT"), ("SIGHUP", "SIGTERM")]
)
def test_the_second_signal_leaves_at_once(first: str, second: str) -> None:
    with child() as process:
        assert heard(process) == "ready False"
        process.send_signal(signal.Signals[first])
        assert heard(process) == f"asked {first}"
        process.send_signal(signal.Signals[second])
        assert process.wait(timeout=60) == 128 + signal.Signals[second]
        assert heard(process) == ""


def test_the_handlers_of_before_come_back_after_the_block() -> None:
    with child() as process:
        assert heard(process) == "ready False"
        process.send_signal(signal.SIGINT)
        assert heard(process) == "asked SIGINT"
        out, _ = process.communicate("go on\n", timeout=60)
        assert out.strip() == "left in order True"


def test_inside_this_process_too_and_after_an_error() -> None:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    with pytest.raises(RuntimeError), stop_signals() as request:
        assert not request
        signal.raise_signal(signal.SIGHUP)
        assert request and request.signal is signal.SIGHUP
        raise RuntimeError
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before


def test_outside_the_main_thread_nothing_is_installed() -> None:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    seen: list[bool] = []

    def work() -> None:
        with stop_signals() as request:
            seen.append(bool(request) or {n: signal.getsignal(n) for n in STOP_SIGNALS} != before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
