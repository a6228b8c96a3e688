"""A process of its own that computes for the page, so that the page stays quick and small.

The process is started at the first question, and ended when nobody has asked for a while. Requests and
replies are lines of JSON; a reply may come in pieces.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from sapwood.errors import Problem, SapwoodError, StorageError

PATIENCE = 600.0  # seconds without a question, after which the process ends
LONGEST = 64 << 20  # bytes of one reply


class Desk:
    """name: which of `page.work.worker`'s tables it serves."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._process: asyncio.subprocess.Process | None = None
        self._waiting: dict[int, asyncio.Queue[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._asked = 0.0
        self._starting = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def ask(self, what: str, **about: Any) -> Any:
        """The reply to one question. Raises SapwoodError as the work does."""
        async for piece in self.stream(what, **about):
            if "done" in piece:
                return piece["done"]
        raise StorageError("a background process of the page ended", what)

    async def stream(self, what: str, **about: Any) -> AsyncGenerator[dict[str, Any]]:
        """Pieces as ``{"piece": …}`` and the end as ``{"done": …}``. If the consumer leaves, the work
        stops."""
        process = await self._running()
        number = next(self._numbers)
        queue = self._waiting[number] = asyncio.Queue()
        self._asked = time.monotonic()
        try:
            await self._send(process, {"id": number, "do": what, "with": about})
            while True:
                reply = await queue.get()
                if "problems" in reply:
                    raise SapwoodError([Problem(**one) for one in reply["problems"]])
                yield reply
                if "done" in reply:
                    return
        finally:
            self._waiting.pop(number, None)
            self._asked = time.monotonic()
            with contextlib.suppress(OSError, ConnectionError):
                await self._send(process, {"stop": number})

    async def warm(self) -> None:
        """Start the process before somebody waits for it."""
        await self._running()

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.terminate()

    async def _running(self) -> asyncio.subprocess.Process:
        async with self._starting:
            if self._process is None or self._process.returncode is not None:
                self._asked = time.monotonic()
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "sapwood.page.work.worker", self._name,
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LONGEST,
                )  # fmt: skip
                for work in (self._read(self._process), self._retire(self._process)):
                    task = asyncio.create_task(work)
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
            return self._process

    async def _send(self, process: asyncio.subprocess.Process, message: Mapping[str, Any]) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(message).encode() + b"\n")
        await process.stdin.drain()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            with contextlib.suppress(ValueError):
                reply = json.loads(line)
                if queue := self._waiting.get(reply.get("id")):
                    queue.put_nowait(reply)
        await process.wait()
        gone = Problem(
            "a background process of the page ended",
            self._name,
            f"exit code {process.returncode}",
            "do the same again",
        )
        for queue in self._waiting.values():
            queue.put_nowait({"problems": [gone_as(gone)]})

    async def _retire(self, process: asyncio.subprocess.Process) -> None:
        while process.returncode is None:
            await asyncio.sleep(5)
            if not self._waiting and time.monotonic() - self._asked > PATIENCE:
                process.terminate()
                return


def gone_as(problem: Problem) -> dict[str, str]:
    return {"what": problem.what, "where": problem.where, "why": problem.why, "mend": problem.mend}
