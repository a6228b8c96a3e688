"""A process of its own around one command line of sapwood: ``python -m sapwood.page.work.runner JOB``.

This process outlives the page that started it. A training that is to wait begins when every job before it has
ended, and no run of the folder is held. The job's folder holds what happens::

    job.json   what is to be run: verb, words, when it was made, whether it waits
    pid        of this process;  child: of the command
    out.txt    what the command said;  err.txt: its errors
    exit       its exit code, when it has ended
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sapwood.run.lock import is_locked

JOB, PID, CHILD, OUT, ERR, EXIT = "job.json", "pid", "child", "out.txt", "err.txt", "exit"
CANCELLED = "cancelled"
LOOK = 1.0  # seconds between two looks at what a job waits for


def main(folder: Path) -> int:
    told: dict[str, Any] = json.loads((folder / JOB).read_text(encoding="utf-8"))
    write(folder / PID, os.getpid())
    if told["waits"]:
        while not its_turn(folder):
            if (folder / CANCELLED).exists():
                return 0
            time.sleep(LOOK)
    with (folder / OUT).open("wb") as out, (folder / ERR).open("wb") as err:
        child = subprocess.Popen(
            [sys.executable, "-m", "sapwood", *told["words"]],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=out,
            stderr=err,
        )
    write(folder / CHILD, child.pid)
    write(folder / EXIT, child.wait())
    return 0


def its_turn(folder: Path) -> bool:
    """Whether all earlier jobs have ended, and no run is held."""
    jobs = sorted(path for path in folder.parent.iterdir() if (path / JOB).is_file())
    if any(trains(job) and is_open(job) for job in jobs[: jobs.index(folder)]):
        return False
    runs = folder.parents[2]
    return not any(is_locked(run) for run in runs.iterdir() if run.is_dir())


def is_open(job: Path) -> bool:
    """A job that waits or works: it has not ended, and its process is there."""
    return not (job / EXIT).exists() and not (job / CANCELLED).exists() and lives(read(job / PID))


def trains(job: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return json.loads((job / JOB).read_text(encoding="utf-8")).get("verb") in ("train", "resume")
    return False


def lives(pid: int | None) -> bool:
    """Whether the process still runs, and isn't only an entry in the system's table."""
    import psutil

    if pid is None:
        return False
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def read(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text(encoding="ascii"))
    return None


def write(path: Path, value: int) -> None:
    path.write_text(str(value), encoding="ascii")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
