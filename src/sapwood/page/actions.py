"""All that the page can change, each by the command line that does it. Read-only refuses them all."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sapwood.errors import ConfigError
from sapwood.page.places import Places
from sapwood.page.work.jobs import Job, Jobs
from sapwood.run.files import write_atomic
from sapwood.run.lock import holder, is_locked

UPLOADS = "uploads"  # below the runs: files that were dropped on the page
KEPT = "kept"  # and the rows and pairs that were kept from a chat
MOST_BYTES = 2 << 30


class Actions:
    def __init__(self, places: Places, jobs: Jobs, *, read_only: bool) -> None:
        self.places, self.jobs, self.read_only = places, jobs, read_only

    def may(self) -> None:
        """Raises ConfigError if the page may change nothing (`--read-only`)."""
        if self.read_only:
            raise ConfigError(
                "this page may change nothing", "--read-only", mend="start `sapwood ui` without --read-only"
            )

    # --- runs ---------------------------------------------------------------------------------------------

    def train(self, config: str, title: str, *, waits: bool) -> Job:
        """Start a training, or put it behind those that run."""
        self.may()
        return self.jobs.start("train", (), title, waits=waits, config=config)

    def stop(self, run: Path) -> None:
        """Ask a run to save and stop, as a Ctrl-C does. Raises ConfigError if nobody here holds it."""
        self.may()
        pid = self._holder(run)
        if _frozen(pid):
            self.wake(run)
        os.kill(pid, signal.SIGTERM)

    def wake(self, run: Path) -> None:
        """Continue a process that a signal has stopped."""
        import psutil

        self.may()
        psutil.Process(self._holder(run)).resume()

    def resume(self, run: Path) -> Job:
        self.may()
        return self.jobs.start("resume", (str(run), "--runs", str(self.places.runs)), run.name)

    def _holder(self, run: Path) -> int:
        owner = holder(run)
        pid = owner.get("pid")
        if not is_locked(run) or not isinstance(pid, int):
            raise ConfigError(
                "no process is training this run", run.name, mend="reload the page: the run may have ended"
            )
        if owner.get("host") != socket.gethostname():
            what = "another machine is training this run"
            raise ConfigError(what, run.name, mend=f"stop it on {owner.get('host')}")
        return pid

    # --- what is done with a run --------------------------------------------------------------------------

    def export(self, run: Path, to: str, file_type: str) -> Job:
        self.may()
        words = (str(run), "--to", to, "--type", file_type, "--json")
        return self.jobs.start("export", words, run.name)

    def evaluate(self, run: Path, answers: int) -> Job:
        self.may()
        return self.jobs.start("eval", (str(run), "--answers", str(answers), "--json"), run.name)

    def dry_push(self, run: Path, repo: str) -> Job:
        """What a push would send. Sending itself stays with the command line, where the key is."""
        from sapwood.adapter.facts import ADAPTER_DIR

        self.may()
        if not (run / ADAPTER_DIR).is_dir():
            raise ConfigError("the run has no finished adapter", run.name, mend="let it finish first")
        return self.jobs.start("push", (str(run), repo, "--dry-run", "--json"), run.name)

    def pull(self, model: str) -> Job:
        self.may()
        return self.jobs.start("model", ("pull", model), model)

    # --- files --------------------------------------------------------------------------------------------

    def upload(self, name: str, content: bytes) -> Path:
        """Keep a dropped file below the runs. The same bytes under the same name are one file."""
        self.may()
        plain = Path(name.replace("\\", "/")).name.lstrip(".") or "data"
        if len(content) > MOST_BYTES:
            raise ConfigError("the file is too large for the page", plain, mend="name its path instead")
        folder = self.places.runs / UPLOADS
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / plain
        number = 1
        while path.exists() and path.read_bytes() != content:
            number += 1
            path = folder / f"{Path(plain).stem}-{number}{Path(plain).suffix}"
        if not path.exists():
            write_atomic(path, content)
        return path

    def keep(self, name: str, row: Mapping[str, Any]) -> Path:
        """Append a row to a file of kept ones."""
        self.may()
        folder = self.places.runs / KEPT
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{Path(name).name}.jsonl"
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        return path


def _frozen(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False
