"""``sapwood ui``: the local page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def watch_training(runs: Path) -> None:
    """Open the page in a process of its own, which goes on when the training has ended."""
    from sapwood.machine.extras import needs

    needs("nicegui", "ui", "sapwood train --ui")
    detached = {"start_new_session": True} if sys.platform != "win32" else {}
    subprocess.Popen(
        [sys.executable, "-m", "sapwood", "ui", "--runs", str(runs)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **detached,
    )
