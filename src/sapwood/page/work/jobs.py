"""Command lines of sapwood that the page started: trainings, those that wait, exports, evaluations.

Each job is a process of its own (`page.work.runner`) with a folder below the runs, so that a page that is
closed or killed touches none of them, and the next page finds them all.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from sapwood.page.work.runner import CANCELLED, CHILD, ERR, EXIT, JOB, OUT, PID, is_open, lives, read
from sapwood.run.files import to_json

FOLDER = Path(".page") / "jobs"
CONFIG = "config.yaml"
TAIL = 64 << 10  # bytes of what a command said that are shown
STARTS = 20.0  # seconds in which a process that was started must have written its pid

State = Literal["waiting", "working", "done", "failed", "lost", "cancelled"]


@dataclass(frozen=True, slots=True)
class Job:
    """One command line. ``code``: its exit code; ``lost``: its process is gone, and left no exit code."""

    path: Path
    verb: str
    words: tuple[str, ...]
    title: str
    made: float
    state: State
    code: int | None
    child: int | None

    @property
    def id(self) -> str:
        return self.path.name

    def said(self) -> str:
        """The end of the command's output."""
        return "\n".join(part for name in (OUT, ERR) if (part := tail(self.path / name).strip("\n")))

    def result(self) -> Any:
        """What a command with ``--json`` printed; None if that is no JSON."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.path / OUT).read_bytes())
        return None


class Jobs:
    """The jobs of a folder of runs."""

    def __init__(self, runs: Path) -> None:
        self.folder = runs.absolute() / FOLDER
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self, verb: str, words: Sequence[str], title: str, *, waits: bool = False, config: str | None = None
    ) -> Job:
        """Start ``sapwood VERB WORDS``, detached. ``config`` is written beside the job and comes first."""
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        path = self.folder / f"{stamp}-{verb}-{secrets.token_hex(2)}"
        path.mkdir(parents=True)
        told = [verb, *words]
        if config is not None:
            (path / CONFIG).write_text(config, encoding="utf-8")
            told = [verb, str(path / CONFIG), *words]
        facts = {"verb": verb, "words": told, "title": title, "made": time.time(), "waits": waits}
        (path / JOB).write_text(to_json(facts), encoding="utf-8")
        self._spawn(path)
        return self.read(path)

    def _spawn(self, path: Path) -> None:
        words = [sys.executable, "-m", "sapwood.page.work.runner", str(path)]
        nowhere, apart = subprocess.DEVNULL, sys.platform != "win32"
        self._started.append(
            subprocess.Popen(words, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=apart)
        )

    def cancel(self, job: Job) -> None:
        """Take a waiting job out of the queue."""
        (job.path / CANCELLED).touch()

    def again(self, job: Job) -> Job:
        """Start anew what waited when the machine went down."""
        self._spawn(job.path)
        return self.read(job.path)

    def all(self) -> list[Job]:
        """Newest first."""
        self._started = [process for process in self._started if process.poll() is None]
        if not self.folder.is_dir():
            return []
        paths = sorted((p for p in self.folder.iterdir() if (p / JOB).is_file()), reverse=True)
        return [self.read(path) for path in paths]

    def find(self, id: str) -> Job | None:
        path = self.folder / Path(id).name
        return self.read(path) if (path / JOB).is_file() else None

    def of(self, title: str, verb: str) -> Job | None:
        """The newest job of that title and verb."""
        return next((job for job in self.all() if job.title == title and job.verb == verb), None)

    def read(self, path: Path) -> Job:
        told: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            told = json.loads((path / JOB).read_bytes())
        code, child = read(path / EXIT), read(path / CHILD)
        made = float(told.get("made", 0.0))
        words = tuple(str(word) for word in told.get("words", ()))
        state = _state(path, code, child, made)
        return Job(
            path, str(told.get("verb", "")), words, str(told.get("title", "")), made, state, code, child
        )


def _state(path: Path, code: int | None, child: int | None, made: float) -> State:
    if code is not None:
        return "done" if code == 0 else "failed"
    if (path / CANCELLED).exists():
        return "cancelled"
    if child is not None:  # the process around a command still runs until the exit code is written
        return "working" if lives(child) or lives(read(path / PID)) else "lost"
    young = read(path / PID) is None and time.time() - made < STARTS
    return "waiting" if young or is_open(path) else "lost"


def tail(path: Path, most: int = TAIL) -> str:
    """The last lines of a text file, ``most`` bytes of them."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - most))
        content = file.read().decode("utf-8", "replace")
        return content if size <= most else content.partition("\n")[2]
    return ""
