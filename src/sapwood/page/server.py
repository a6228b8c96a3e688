"""The server of the page: one process on loopback, which reads run directories and starts command lines."""

from __future__ import annotations

import gc
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapwood.errors import ConfigError
from sapwood.machine.extras import needs
from sapwood.page.opening import Opening

if TYPE_CHECKING:
    from starlette.types import ASGIApp

HOST, PORT = "127.0.0.1", 8765
TRIED = 20  # ports after the first one, if that is taken
WAITING = 128  # connections that wait while the server starts
CLIENTS = ("aiohttp", "requests", "websocket")  # Socket.IO imports them if it can; a server needs none
OBJECTS = 100_000  # made between two runs of the garbage collector: imports make many, a log makes more


def serve(opening: Opening) -> None:
    """Serve until a signal comes. Raises ConfigError if the library or a port is missing.

    The port is open, and the browser is started, before the library is imported. A browser that comes early
    waits in the queue of the port, so the two starts overlap.
    """
    needs("nicegui", "ui", "sapwood ui")
    gc.set_threshold(OBJECTS)
    listening = listen(opening.port)
    port, token = int(listening.getsockname()[1]), key()
    address = f"http://{HOST}:{port}{opening.path}"
    keyed = f"{address}{'&' if '?' in address else '?'}token={token}"
    print(f"sapwood ui  {keyed}", flush=True)
    if opening.browser:
        threading.Thread(target=_open_browser, args=(keyed,), daemon=True).start()
    import uvicorn

    config = uvicorn.Config(
        application(opening, token, port), log_level="critical", access_log=False, ws="wsproto",
        ws_per_message_deflate=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listening])


def application(opening: Opening, token: str, port: int) -> ASGIApp:
    """The pages, and the guard around all of them."""
    with _hidden(*CLIENTS):
        from fastapi import FastAPI
        from nicegui import app, ui

    from sapwood.page.guard import Guard
    from sapwood.page.routes import register

    state = register(opening)

    async def stopped() -> None:
        await state.desk.close()
        await state.voice.close()

    app.on_shutdown(stopped)
    outside = FastAPI(openapi_url=None)
    ui.run_with(  # nothing is compressed: the way is short, and a processor may be training
        outside, title="sapwood", dark=None, tailwind=False, gzip_middleware_factory=None,
        binding_refresh_interval=None, show_welcome_message=False, reconnect_timeout=8.0,
    )  # fmt: skip
    return Guard(outside, token=token, port=port)


@contextmanager
def _hidden(*names: str) -> Generator[None]:
    """In this context, importing one of these libraries fails, as if it weren't installed."""
    absent: dict[str, Any] = {name: None for name in names if name not in sys.modules}
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def _open_browser(address: str) -> None:
    import webbrowser

    webbrowser.open(address)


def open_beside(runs: Path) -> None:
    """Open the page in a process of its own, which goes on when the training has ended."""
    needs("nicegui", "ui", "sapwood train --ui")
    words = [sys.executable, "-m", "sapwood", "ui", "--runs", str(runs)]
    nowhere = subprocess.DEVNULL
    apart = sys.platform != "win32"
    subprocess.Popen(words, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=apart)


def listen(wanted: int | None) -> socket.socket:
    """A socket at ``wanted``, or at the first free port from `PORT` on; connections wait in it until somebody
    takes them. Raises ConfigError if the port is taken."""
    ports = [wanted] if wanted is not None else range(PORT, PORT + TRIED)
    for port in ports:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((HOST, port))
            made.listen(WAITING)
        except OSError:
            made.close()
        else:
            return made
    raise ConfigError(f"port {ports[0]} is taken", "--port", mend="name another port, or leave --port out")


def key() -> str:
    """This user's key, in a file that only this user can read: an open page goes on after a new start."""
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
