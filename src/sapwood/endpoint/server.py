"""Starting the endpoint: everything opened and proven, then the address."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sapwood.endpoint.api.rules import Manners, Rules, is_loopback
from sapwood.endpoint.library import Library, Limits
from sapwood.endpoint.wanted import parse_wanted
from sapwood.engine.process import Started
from sapwood.errors import ConfigError
from sapwood.serve.found import Found

KEY = "SAPWOOD_API_KEY"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
BACKLOG = 512
GRACE = 10  # seconds that answers have to end, when the server is to


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. port: 0 takes any that is free. hosts: names beside the address's own.
    spare: a process for llama.cpp that was started already."""

    targets: Sequence[str]
    runs: Path = Path("runs")
    base: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = None
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)
    manners: Manners = field(default_factory=Manners)
    spare: Started | None = None

    def rules(self) -> Rules:
        """Raises ConfigError if others could ask and there is no key."""
        key = self.key or os.environ.get(KEY) or None
        if not is_loopback(self.host):
            if key is None:
                raise ConfigError(
                    f"{self.host} can be reached by others, and there is no key",
                    "--host",
                    "whoever reaches it could ask, load files of this machine as adapters and see all names",
                    f"--api-key KEY, or {KEY} in the environment; or leave the host at 127.0.0.1",
                )
            return Rules({*self.hosts, self.host.lower()} if self.hosts else None, self.origins, key)
        return Rules(
            {*LOOPBACK, self.host.lower(), *(host.lower() for host in self.hosts)}, self.origins, key
        )


def run_server(options: Options, ready: Callable[[Library, str], None]) -> None:
    """Serve until a signal says otherwise. ``ready``: is told what is served, and where.

    Raises ConfigError, ModelError, ExportError if nothing can be served, or not there.
    """
    loop: Any = None
    with contextlib.suppress(ImportError):
        import uvloop

        loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(serve(options, ready))


async def serve(
    options: Options, ready: Callable[[Library, str], None], ended: asyncio.Event | None = None
) -> None:
    """`run_server` inside an event loop. ``ended``: when it is set, the server ends."""
    rules = options.rules()
    wanted = parse_wanted(options.targets)
    listening = _bound(options.host, options.port)
    library = Library(options.runs, options.limits, options.base, _ready, options.spare)
    try:
        await library.start(wanted)
        server = _server_of()(library, options.manners, rules)
        ready(library, _url(options.host, listening))
        stopping = asyncio.create_task(_stop_when(ended, server)) if ended is not None else None
        await server.serve(sockets=[listening])
        if stopping is not None:
            stopping.cancel()
    finally:
        listening.close()
        await library.stop()


def _ready(found: Found) -> None:
    """Do what the first request would otherwise wait for."""
    _server_of()
    from sapwood.endpoint.api.prompt import warm

    warm(found)


def _server_of() -> Callable[[Library, Manners, Rules], Any]:
    """Import what makes the server, which takes a moment, while llama.cpp reads its files."""
    import uvicorn
    from sse_starlette.sse import AppStatus

    from sapwood.endpoint.api.app import Service, make_app

    def make(library: Library, manners: Manners, rules: Rules) -> uvicorn.Server:
        AppStatus.disable_automatic_graceful_drain()  # a signal lets answers end; uvicorn waits for them
        config = uvicorn.Config(
            make_app(Service(library, manners), rules),
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=GRACE,
            backlog=BACKLOG,
            proxy_headers=False,
            ws="none",
        )
        return uvicorn.Server(config)

    return make


async def _stop_when(ended: asyncio.Event, server: Any) -> None:
    await ended.wait()
    server.should_exit = True


def _bound(host: str, port: int) -> socket.socket:
    """Take the port before anything is loaded, so that a fault of the port is told at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        mend = "name another port with --port; --port 0 takes any free one"
        raise ConfigError(f"can't listen on {host}:{port}", "--port", str(error), mend) from None


def _url(host: str, listening: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listening.getsockname()[1]}"
