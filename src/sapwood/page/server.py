"""The server of the page: one process on loopback, which reads run directories and starts command lines."""

from __future__ import annotations

import asyncio
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from sapwood.errors import ConfigError
from sapwood.machine.extras import needs
from sapwood.page.opening import Opening

HOST, PORT = "127.0.0.1", 8765
TRIED = 20  # ports after the first one, where that is taken


def serve(opening: Opening) -> None:
    """Serve until a signal comes. Raises ConfigError where the library or a port is missing."""
    needs("nicegui", "ui", "sapwood ui")
    from nicegui import app, background_tasks, ui

    from sapwood.page.guard import Guard
    from sapwood.page.routes import register

    port = free_port(opening.port)
    token = key()
    state = register(opening)
    app.add_middleware(Guard, token=token, port=port)
    address = f"http://{HOST}:{port}{opening.path}"
    keyed = f"{address}{'&' if '?' in address else '?'}token={token}"

    async def say() -> None:
        await answers(port)
        print(f"sapwood ui  {keyed}", flush=True)
        if opening.browser:
            import webbrowser

            webbrowser.open(keyed)

    def started() -> None:
        background_tasks.create(say())

    async def stopped() -> None:
        await state.desk.close()
        await state.voice.close()

    app.on_startup(started)
    app.on_shutdown(stopped)
    options: dict[str, Any] = {"access_log": False, "timeout_graceful_shutdown": 2}
    ui.run(
        host=HOST, port=port, title="sapwood", dark=None, reload=False, show=False, tailwind=False,
        binding_refresh_interval=None, show_welcome_message=False, reconnect_timeout=8.0,
        uvicorn_logging_level="critical", **options,
    )  # fmt: skip


def open_beside(runs: Path) -> None:
    """Open the page in a process of its own, which goes on when the training has ended."""
    needs("nicegui", "ui", "sapwood train --ui")
    words = [sys.executable, "-m", "sapwood", "ui", "--runs", str(runs)]
    nowhere = subprocess.DEVNULL
    apart = sys.platform != "win32"
    subprocess.Popen(words, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=apart)


def free_port(wanted: int | None) -> int:
    """``wanted``, or the first free one from `PORT` on. Raises ConfigError where it is taken."""
    ports = [wanted] if wanted is not None else range(PORT, PORT + TRIED)
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise ConfigError(f"port {ports[0]} is taken", "--port", mend="name another, or none")


async def answers(port: int) -> None:
    """Return when the server takes connections: an application starts before its port is opened."""
    while True:
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return


def key() -> str:
    """This user's key, kept where only this user reads: a page that is open lives through a new start."""
    from platformdirs import user_state_path

    file = user_state_path("sapwood") / "page-key"
    try:
        found = file.read_text(encoding="ascii").strip()
        if len(found) >= 32:
            return found
    except OSError:
        pass
    made = secrets.token_urlsafe(32)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600, exist_ok=True)
        file.chmod(0o600)
        file.write_text(made, encoding="ascii")
    except OSError:  # a home that can't be written: the key is good for this start
        pass
    return made
