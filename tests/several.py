"""Several processes of one run, forked from a warm parent and started as torchrun would: by variables."""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

from tests.forks import WARM
from tests.measured import Known, known, settle

STARTED: list[ForkServerProcess] = []


@atexit.register
def end() -> None:
    """A test that failed leaves no process behind."""
    for process in STARTED:
        if process.is_alive():
            process.kill()


@dataclass(slots=True)
class Group:
    """Processes by rank, and the file that each one's output goes to."""

    processes: list[ForkServerProcess]
    outputs: list[Path]
    store: Any  # what torchrun keeps for its processes, and outlives them

    def wait(self, timeout: float = 120) -> list[int | None]:
        """Exit codes by rank; negative for the signal that ended one, None for one that had to be killed."""
        until = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.1, until - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
            process.join()
        return codes

    def said(self) -> list[str]:
        """Every line of an error, whoever said it."""
        return [
            line for path in self.outputs for line in path.read_text().splitlines() if "sapwood: " in line
        ]

    def kill(self, rank: int, number: int) -> None:
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)


def start(
    work: Callable[..., object],
    size: int,
    folder: Path,
    *arguments: Any,
    settings: Sequence[Mapping[str, str]] = (),
) -> Group:
    """``size`` processes that run a module-level function. ``settings``: variables for each rank besides
    those of torchrun; NETNS names a network namespace, CWD a folder, HASTE makes signs of life frequent."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(WARM))
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes: list[ForkServerProcess] = []
    outputs: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)
    for rank in range(size):
        output = folder / f"output-{time.monotonic_ns()}-{rank}.txt"
        variables = {
            "RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
            "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size),
        }  # fmt: skip
        variables |= settings[rank] if settings else {}
        process = context.Process(target=_one, args=(known(), variables, output, work, arguments))
        process.start()
        processes.append(process)
        STARTED.append(process)
        outputs.append(output)
    return Group(processes, outputs, store)


def _one(
    found: Known,
    variables: Mapping[str, str],
    output: Path,
    work: Callable[..., object],
    arguments: Sequence[Any],
) -> None:
    settle(found)
    os.environ.update(variables)
    handle = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    if "CWD" in variables:
        os.chdir(variables["CWD"])
    if "NETNS" in variables:
        with Path(f"/run/netns/{variables['NETNS']}").open() as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0):
                raise OSError(ctypes.get_errno(), "setns")
    if "HASTE" in variables:
        from sapwood.train.processes import heartbeat

        heartbeat.BEAT, heartbeat.PATIENCE = 0.1, 2.0
    try:
        work(*arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def command(*arguments: str) -> None:
    """The command line, in this process."""
    from sapwood.cli import main

    sys.argv = ["sapwood", *arguments]
    main()
