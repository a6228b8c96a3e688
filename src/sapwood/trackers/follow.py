"""Trackers beside a training: each in a process of its own, which reads the run's directory.

A tracker's library installs signal handlers, redirects the terminal, starts threads, asks for keys, and may
hang at its end. None of that reaches the training. The process is watched; if it ends too early, there is one
warning. The end of its stdin tells the process that the run is over. That comes even if the training is
killed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from sapwood.config.sections import TrackConfig
from sapwood.errors import StorageError
from sapwood.run.query import TRACKERS
from sapwood.run.store import RunStore

GRACE = 30.0  # seconds that a tracker has for what it holds back, once the run is over
POLL = 1.0  # seconds between two looks at the run's events
POLITE = 10  # niceness: the training goes first
log = logging.getLogger("sapwood.trackers")


class Follower:
    """One tracker's process."""

    def __init__(self, run: RunStore, name: str) -> None:
        self.name = name
        self._run = run
        self._warned = False
        self._log = run.path / TRACKERS / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        command = [sys.executable, "-m", "sapwood", "track", str(run.path), "--to", name, "--follow"]
        try:
            self._log.parent.mkdir(exist_ok=True)
            with self._log.open("wb") as written:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=written, stderr=written, start_new_session=True
                )
        except OSError as error:
            self._warn(0, str(error))

    def check(self, step: int) -> None:
        """Warn, once, if the tracker has ended before the run."""
        if self._process is not None and not self._warned and self._process.poll() is not None:
            self._warn(step, self._last_words())

    def close(self, step: int, until: float) -> None:
        """Tell the tracker that the run is over, and wait for it until the clock says ``until``."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self._warn(step, "it didn't come to an end in time")
        if process.returncode:
            self._warn(step, self._last_words())

    def _warn(self, step: int, why: str) -> None:
        if self._warned:
            return
        self._warned = True
        text = f"{self.name} stopped, training didn't: {why}"
        if "sapwood track" not in why:
            text += f" · sapwood track {self._run.path} --to {self.name}"
        log.warning("%s", text)
        self._run.note("note", step, text=text)

    def _last_words(self) -> str:
        assert self._process is not None
        try:
            lines = [line for line in self._log.read_text("utf-8", "replace").splitlines() if line.strip()]
        except OSError:
            lines = []
        own = [line.removeprefix("sapwood: ") for line in lines if line.startswith("sapwood: ")]
        code = self._process.returncode
        return own[-1] if own else f"exit code {code}, see {self._log}"


@contextmanager
def followed(run: RunStore, config: TrackConfig) -> Generator[Callable[[int], None]]:
    """While this context is open, the run's trackers follow it. Yields a function to call after each recorded
    event, with the step. The function looks after the trackers, and takes no time."""
    names = () if config.mode == "disabled" else config.to
    followers = [Follower(run, name) for name in names]
    last = 0

    def check(step: int) -> None:
        nonlocal last
        last = step
        for follower in followers:
            follower.check(step)

    try:
        yield check
    finally:
        until = time.monotonic() + GRACE
        for follower in followers:
            with contextlib.suppress(StorageError):
                follower.close(last, until)


def until_stdin_ends() -> Callable[[], bool]:
    """The other side: waits a little, and returns False once the parent has closed this process's stdin.

    What a library reads as stdin from now on is empty, so that nothing can wait for an answer.
    """
    lifeline = os.dup(0)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    ended = threading.Event()

    def wait() -> None:  # not select, which takes only sockets on Windows
        while os.read(lifeline, 1):
            pass
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    return lambda: not ended.wait(POLL)
