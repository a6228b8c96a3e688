"""Starting and ending the process that llama.cpp runs in (`child`)."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from sapwood.engine.child import READY
from sapwood.errors import ExportError
from sapwood.machine.extras import install
from sapwood.machine.system import SPINS, cores


def require_llama_cpp(why: str) -> None:
    """Raises ExportError if llama.cpp isn't installed. ``why``: what it is needed for."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise ExportError("llama.cpp isn't installed", "xllamacpp", why, install("export"))


@dataclass(frozen=True, slots=True)
class Setup:
    """What llama.cpp is started with.

    Attributes:
        model: the base as GGUF; adapters: GGUF files, known to it by their place in this list.
        context: tokens that one caller's prompt and answer may have together.
        slots: callers that are answered at once.
    """

    model: Path
    adapters: tuple[Path, ...] = ()
    context: int = 4096
    slots: int = 1
    threads: int = field(default_factory=cores)


@dataclass(frozen=True, slots=True)
class Started:
    """A process that imports llama.cpp, and waits to be told what to load. ``said``: the file of its stderr.

    If it is started first, it costs no time: meanwhile, the files to load are found.
    """

    popen: subprocess.Popen[str]
    said: IO[bytes]

    @classmethod
    def now(cls) -> Started:
        said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process runs
        spin = {} if "OMP_WAIT_POLICY" in os.environ else {"GOMP_SPINCOUNT": str(SPINS)}
        popen = subprocess.Popen(
            [sys.executable, "-m", "sapwood.engine.child"],
            env=spin | os.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C in a terminal is for us; we end it when all answers are out
        )
        return cls(popen, said)

    def drop(self) -> None:
        """End the process: it isn't needed."""
        self.popen.kill()
        self.popen.wait()


class Process:
    """A running llama.cpp.

    Attributes:
        address: ``host:port``, on the loopback; headers: what each request must carry.
    """

    def __init__(self, setup: Setup, started: Started | None = None) -> None:
        """Start it, or go on with one that was started, and wait until it listens. Raises ExportError with
        llama.cpp's own last words if it refuses a file."""
        key = secrets.token_hex(16)
        self.setup = setup
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        started = started or Started.now()
        self._popen, self._said = started.popen, started.said
        self.address = self._address(key)
        # its further output is read, so that it never waits for us
        threading.Thread(target=self._drain, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def wait(self) -> int:
        """Wait until the process has ended. Returns its exit code."""
        return self._popen.wait()

    def stop(self, patience: float = 5.0) -> None:
        """End the process; kill it after ``patience`` seconds."""
        with contextlib.suppress(OSError):
            if self._popen.stdin is not None:
                self._popen.stdin.close()
        try:
            self._popen.wait(patience)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def last_words(self) -> str:
        """The end of the process's output, or how it ended."""
        self._said.seek(0)
        said = [line for line in self._said.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return " / ".join(said[-3:])[-600:] or f"exit code {self._popen.poll()}"

    def _address(self, key: str) -> str:
        assert self._popen.stdin is not None and self._popen.stdout is not None
        told = asdict(self.setup) | {
            "model": str(self.setup.model), "adapters": list(map(str, self.setup.adapters)), "key": key,
        }  # fmt: skip
        with contextlib.suppress(OSError):
            self._popen.stdin.write(json.dumps(told) + "\n")
            self._popen.stdin.flush()
        for line in self._popen.stdout:
            if line.startswith(READY):
                return line.removeprefix(READY).strip()
        self._popen.wait()
        _, broken, why = self.last_words().rpartition("ImportError: ")
        if broken:
            raise ExportError("llama.cpp can't be loaded", "xllamacpp", why, _mend(why))
        where = str(self.setup.adapters[-1] if self.setup.adapters else self.setup.model)
        raise ExportError("llama.cpp can't run it", where, self.last_words())

    def _drain(self) -> None:
        assert self._popen.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            for _ in self._popen.stdout:
                pass


def scales(adapters: Sequence[Path], chosen: Path | None) -> list[dict[str, float]]:
    """The complete list that each request carries: one adapter whole and the others off, or all of them off.
    llama.cpp takes what a request doesn't name as it was last set. Raises KeyError for one that isn't loaded.
    """
    if chosen is not None and chosen not in adapters:
        raise KeyError(chosen)
    return [{"id": i, "scale": 1.0 if path == chosen else 0.0} for i, path in enumerate(adapters)]


def _mend(why: str) -> str:
    """What helps against a module that can't be imported."""
    if "libgomp" in why:  # small images of Linux leave it out
        return "install the system's OpenMP library: apt install libgomp1, or dnf install libgomp"
    return "pip install --force-reinstall xllamacpp"
