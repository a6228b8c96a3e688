"""A file that is a program, read by a process that can do nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from sapwood.machine.system import can_confine, set_limits

PATIENCE = 300  # seconds until the process is ended from outside
MEMORY = 6 << 30
SECONDS = 120  # of processor
REFUSED = 3  # exit code: stderr says why
_FORBIDDEN = (
    *("open", "import", "compile", "exec", "os.", "socket.", "subprocess.", "shutil.", "ctypes.", "pty."),
)


class Confined(Exception):
    """The file is refused; str() says why."""


def confined(module: str, source: Path) -> bytes:
    """What ``python -m module`` makes of the file on its stdin. The module gives up its rights before it
    reads the first byte (`give_up_rights`). Raises Confined, and OSError for a file that
    can't be opened."""
    if not can_confine():
        raise Confined("it is a program, and this system has no way to take a process's rights")
    try:
        with source.open("rb") as file:
            done = subprocess.run(
                [sys.executable, "-B", "-s", "-m", module],
                stdin=file,
                capture_output=True,
                timeout=PATIENCE,
                cwd="/",
                env=_environment(),
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise Confined(f"it was not read in {PATIENCE} s") from None
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        raise Confined(told[-1] if told else _ending(done.returncode))
    return done.stdout


def _environment() -> dict[str, str]:
    """Nothing of ours but where the code lies: no token, no proxy."""
    paths = [str(Path(path).absolute()) for path in sys.path if path]
    return {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _ending(code: int) -> str:
    return f"reading it ended by signal {-code}" if code < 0 else f"reading it failed with code {code}"


# --- inside that process -----------------------------------------------------------------------------------


def give_up_rights() -> None:
    """From here on this process can compute, read stdin and write stdout and stderr."""
    set_limits("AS", MEMORY, MEMORY)
    set_limits("CPU", SECONDS, SECONDS)
    set_limits("CORE", 0, 0)
    set_limits("FSIZE", 0, 0)
    set_limits("NPROC", 0, 0)
    os.closerange(3, 65_536)
    set_limits("NOFILE", 3, 3)
    sys.addaudithook(_refuse_events)


def _refuse_events(event: str, arguments: Any) -> None:
    if event.startswith(_FORBIDDEN) and not (event == "import" and arguments[0] in sys.modules):
        sys.stderr.write(f"it tried what no file of data does: {event}\n")
        sys.stderr.flush()
        os._exit(REFUSED)
