from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sapwood.errors import LockedError, StorageError
from sapwood.run import lock as lock_module
from sapwood.run.lock import HOLDER, LOCK, RunLock, is_locked

RACER = """
import sys
from pathlib import Path
from sapwood.errors import LockedError
from sapwood.run.lock import RunLock
print("ready", flush=True)
for line in sys.stdin:
    try:
        held = RunLock(Path(line.strip()))
        print("won", flush=True)
    except LockedError as error:
        print("lost", error, flush=True)
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "PATIENCE", 0.05)


@pytest.mark.usefixtures("impatient")
def test_the_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    first = RunLock(tmp_path / LOCK)
    with pytest.raises(LockedError) as fault:
        RunLock(tmp_path / LOCK)
    text = str(fault.value)
    assert f"process {os.getpid()} on {socket.gethostname()}, since 20" in text
    assert f"kill {os.getpid()}" in text
    assert fault.value.exit_code == 7
    first.release()
    RunLock(tmp_path / LOCK).release()


@pytest.mark.usefixtures("impatient")
def test_a_lock_file_that_says_nothing_still_locks(tmp_path: Path) -> None:
    with_nothing = RunLock(tmp_path / LOCK)
    (tmp_path / HOLDER).write_text("{")
    with pytest.raises(LockedError, match="process unknown"):
        RunLock(tmp_path / LOCK)
    with_nothing.release()
    assert not with_nothing.held


def test_looking_tells_and_disturbs_nobody(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    lock = RunLock(tmp_path / LOCK)
    assert is_locked(tmp_path)
    lock.release()
    lock.release()
    assert not is_locked(tmp_path)


def test_of_two_racing_processes_exactly_one_wins(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACER]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for number in range(6):
            for racer in racers:
                assert racer.stdin is not None
                racer.stdin.write(f"{tmp_path / str(number)}\n")
                racer.stdin.flush()
            answers = {racer.pid: racer.stdout.readline() for racer in racers if racer.stdout}
            winner = [pid for pid, answer in answers.items() if answer == "won\n"]
            assert len(winner) == 1, answers
            (loser,) = (answer for answer in answers.values() if answer != "won\n")
            assert f"process {winner[0]} on" in loser
    finally:
        for racer in racers:
            racer.communicate()


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            held = RunLock(tmp_path / LOCK)
            os.write(tell, b"y" if held.held else b"n")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(ready, 1) == b"y"
    assert is_locked(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not is_locked(tmp_path)
    RunLock(tmp_path / LOCK).release()


def test_a_lock_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        RunLock(tmp_path / "absent" / LOCK)
