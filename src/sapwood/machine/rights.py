"""What a process gives up before it looks at a file that is a program."""

from __future__ import annotations

import os
import sys
from typing import Any

from sapwood.machine.system import set_limits

MEMORY = 6 << 30
SECONDS = 120
REFUSED = 3  # exit code: stderr says why
_FORBIDDEN = (
    *("open", "import", "compile", "exec", "os.", "socket.", "subprocess.", "shutil.", "ctypes.", "pty."),
)


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
