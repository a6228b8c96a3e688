"""A tracker's own board inside a notebook: started for the run, shown in a frame, ended with the notebook."""

from __future__ import annotations

import atexit
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from html import escape
from pathlib import Path

from sapwood.errors import ConfigError
from sapwood.run.query import LAST, boards, find_run

PATIENCE = 120.0  # seconds: mlflow takes its time
# How each board's program is told where to listen: words behind the command, or a setting before it.
_LISTEN = {
    "swanlab": "-p {port}",
    "tensorboard": "--port {port}",
    "mlflow": "--port {port} --workers 1",
    "trackio": "GRADIO_SERVER_PORT={port} GRADIO_ANALYTICS_ENABLED=0",
}
_SETTING = re.compile(r"[A-Z_]+=")


class Board:
    """``Board("last")`` at the end of a cell shows the board of a run below it.

    Args:
        run: a run's id, name or folder. tracker: one that was told of the run; the first without it.
        runs: the folder of runs. height: of the frame, in pixels.

    Attributes:
        address: where the board answers, on this machine.

    Raises ConfigError if no tracker was told of the run, or if its board doesn't come up.
    """

    def __init__(
        self, run: str = LAST, tracker: str | None = None, *, runs: str = "runs", height: int = 720
    ) -> None:
        told = boards(find_run(Path(runs), run))
        name = tracker or next((name for name in told if name in _LISTEN), "")
        if name not in told or name not in _LISTEN:
            mend = f"sapwood track {run} --to tensorboard"
            raise ConfigError("no board to show", f"run {run}", f"it was told to: {', '.join(told)}", mend)
        self.height, self.address = height, told[name]
        self._process: subprocess.Popen[bytes] | None = None
        if not self.address.startswith("http"):
            self._start(name, told[name].partition("  (")[0])

    def close(self) -> None:
        """End the board's program."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def _repr_html_(self) -> str:
        return f'<iframe src="{escape(self.address)}" width="100%" height="{self.height}"></iframe>'

    def _start(self, name: str, see: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        words = [*shlex.split(see), *_LISTEN[name].format(port=port).split()]
        settings = dict(word.split("=", 1) for word in words if _SETTING.match(word))
        program, *rest = (word for word in words if not _SETTING.match(word))
        beside = Path(sys.executable).with_name(program)
        command = [str(beside) if beside.exists() else program, *rest]
        try:
            self._process = subprocess.Popen(
                command, env={**os.environ, **settings}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise ConfigError(f"{name}'s board can't be started", shlex.join(command), str(error)) from None
        atexit.register(self.close)
        self.address = f"http://127.0.0.1:{port}"
        self._wait(port, shlex.join(command))

    def _wait(self, port: int, command: str) -> None:
        until = time.monotonic() + PATIENCE
        while self._process is not None and self._process.poll() is None and time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.2)
        self.close()
        raise ConfigError(
            "the tracker's board doesn't start", command, mend="start it in a terminal to see why"
        )
