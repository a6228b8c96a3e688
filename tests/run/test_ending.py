"""What is said of a process that could say nothing itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sapwood.run.ending import FOR_MEMORY, KILLED, RESTARTED, cause_of_death, circumstances
from sapwood.run.lock import HOLDER, why_it_ended

HOLD = """
import sys, time
from pathlib import Path
from sapwood.run.lock import RunLock
lock = RunLock(Path(sys.argv[1]) / "LOCK")
print("held", flush=True)
sys.stdin.readline()
hoard = []
while True:
    hoard.append(bytearray(b"x") * 10_000_000)
"""


def holder(run: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A control group of 200 MB, where this process may make one."""
    line = next((x for x in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in x), None)
    if line is None:
        pytest.skip("no control group for memory here")
    group = Path("/sys/fs/cgroup/memory") / line.split(":", 2)[2].lstrip("/") / f"sapwood-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text("200000000")
    except OSError as error:
        pytest.skip(f"a control group can't be made here: {error}")
    yield group
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            group.rmdir()
            return
        except OSError:  # the last process is still leaving
            time.sleep(0.1)


def test_one_that_was_killed_for_memory(tmp_path: Path, little_memory: Path) -> None:
    process = holder(tmp_path)
    (little_memory / "cgroup.procs").write_text(str(process.pid))
    process.communicate("go on\n", timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert why_it_ended(tmp_path) == FOR_MEMORY


def test_one_that_a_person_killed(tmp_path: Path) -> None:
    process = holder(tmp_path)
    process.kill()
    process.communicate()
    assert why_it_ended(tmp_path) == KILLED


def test_one_on_another_machine_and_one_that_said_nothing(tmp_path: Path) -> None:
    (tmp_path / HOLDER).write_text(json.dumps({"host": "elsewhere", **circumstances()}))
    assert why_it_ended(tmp_path) is None
    (tmp_path / HOLDER).write_text(json.dumps({"host": socket.gethostname()}))
    assert why_it_ended(tmp_path) == KILLED
    (tmp_path / HOLDER).write_text("[]")
    assert why_it_ended(tmp_path) is None


def test_a_machine_that_was_restarted_counts_anew() -> None:
    then, now = {"boot": "a", "killed_for_memory": 5}, {"boot": "b", "killed_for_memory": 7}
    assert cause_of_death(then, now) == RESTARTED
    assert cause_of_death({}, now) == KILLED
