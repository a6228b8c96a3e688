"""llama.cpp for many callers: each answer from the base, or from one of its adapters, and from no other.

    async with Llama(Setup(base, (first, second), slots=4)) as llama:
        async for piece in llama.stream(first, Ask(ids, max_tokens=64)):  # None: by the base alone
            print(piece.text, end="")

llama.cpp's process is started anew when it dies. The new process answers callers that had no token yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from sapwood.engine.ending import Ending
from sapwood.engine.process import Process, Setup, Started, scales
from sapwood.engine.slots import Slots
from sapwood.engine.wire import Ask, Piece, Refused, TokenProb, body_of, piece_of
from sapwood.errors import ExportError

if TYPE_CHECKING:
    import aiohttp

CERTAIN = 1e4  # added to a logit: no other token can be chosen
EVERY = 1 << 20  # more tokens than a vocabulary has
TRIES = 5  # processes that are asked one question
PAUSES = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # seconds before a start, after so many that failed

log = logging.getLogger("sapwood")


def _client_library() -> Any:
    """The HTTP library. Its import takes a moment, in which llama.cpp reads its files."""
    import aiohttp

    return aiohttp


class Lost(Exception):
    """The process ended, or broke off an answer."""


class Llama:
    """A running llama.cpp with all adapters of one base.

    Attributes:
        setup: what llama.cpp is started with. slots: places and the queue. restarts: how often it was started
        anew.
    """

    kind = "llama.cpp"

    def __init__(
        self,
        setup: Setup,
        most_waiting: int = 256,
        patience: float = 60.0,
        started: Started | None = None,
    ) -> None:
        self.setup = setup
        self._started = started
        self.slots = Slots(setup.slots, most_waiting, patience)
        self.restarts = 0
        self._process: Process | None = None
        self._session: aiohttp.ClientSession | None = None
        self._watch: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._ending = False
        self._visible: int | None = None

    async def __aenter__(self) -> Llama:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.setup.context

    @property
    def ready(self) -> bool:
        return self._up.is_set()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Raises ExportError with llama.cpp's own last words if it refuses a file."""
        self._ending = False
        started, self._started = self._started, None
        process = asyncio.to_thread(Process, self.setup, started)
        self._process, aiohttp = await asyncio.gather(process, asyncio.to_thread(_client_library))
        if self._session is None:
            # a connection that is kept holds a thread of llama.cpp's, also while nothing comes through it
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        self._up.set()
        self._watch = asyncio.create_task(self._revive(self._process))

    async def stop(self) -> None:
        await self._end_process()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def change(self, adapters: Sequence[Path]) -> None:
        """Load other adapters, in a new process. Answers in progress are finished first; new callers wait.

        Raises ExportError if llama.cpp refuses one; the former ones are served again then.
        """
        before = self.setup
        await self.slots.shut()
        try:
            await self._end_process()
            self.setup = replace(before, adapters=tuple(adapters))
            try:
                await self.start()
            except ExportError:
                self.setup = before
                await self.start()
                raise
        finally:
            self.slots.forget()
            self.slots.open()

    async def stream(self, adapter: Path | None, ask: Ask, *, patient: bool = False) -> AsyncGenerator[Piece]:
        """The answer, piece by piece, as soon as each is there; the last one has its end.

        If the caller stops listening, llama.cpp also ends the answer. ``patient``: wait as long as it takes.
        Raises Refused.
        """
        room = self.context - len(ask.ids)
        if room < 1:
            why = f"the prompt has {len(ask.ids):,} tokens; {self.context:,} are held, answer included"
            raise Refused(400, why, "context_length_exceeded")
        ask = replace(ask, max_tokens=min(ask.max_tokens, room))
        fault = _client_library().ClientError
        slot = await self.slots.take(adapter, ask.ids, patient=patient)
        try:
            for _ in range(TRIES):
                await self._wait_until_up()
                begun = False
                lora = self._scales(adapter)
                try:
                    pieces = self._pieces(body_of(ask, lora, slot.number, clean=slot.clean), ask)
                    async with contextlib.aclosing(pieces):
                        async for piece in _ended(pieces, ask):
                            begun = True
                            yield piece
                            if piece.end is not None:
                                return
                    raise Lost("it ended without an end")
                except (TimeoutError, fault, Lost, OSError) as error:
                    slot.clean = True  # a new process has nothing in it
                    if begun:
                        why = "the engine ended in the middle of this answer and is being started anew"
                        raise Refused(503, why, "engine_lost") from error
                    await asyncio.sleep(0.05)  # the process may have ended without our knowing yet
            raise Refused(503, "the engine ended again and again on this request", "engine_lost")
        finally:
            slot.owner = adapter
            self.slots.give(slot)

    def _scales(self, adapter: Path | None) -> list[dict[str, float]]:
        try:
            return scales(self.setup.adapters, adapter)
        except KeyError:
            raise Refused(404, "this adapter was unloaded", "model_not_found") from None

    async def score(self, adapter: Path | None, ids: Sequence[int], top: int) -> list[TokenProb | None]:
        """For each token of ``ids``, its log probability after the tokens before it; None for the first.

        llama.cpp tells probabilities of tokens that it writes, not of tokens that it reads. So it is made to
        write each token, after the beginning that the slot still holds. Raises Refused.
        """
        return [None, *[await self._next(adapter, ids[:k], ids[k], top) for k in range(1, len(ids))]]

    async def _next(self, adapter: Path | None, ids: Sequence[int], id: int, top: int) -> TokenProb:
        """The log probability of ``id`` after ``ids``. If ``id`` is a part of a character, it is looked up
        among all tokens while another token is written: llama.cpp tells nothing if no whole character comes
        out."""
        async for piece in self.stream(adapter, Ask(ids, 1, logit_bias={id: CERTAIN}, top=top)):
            if piece.probs and piece.ids == (id,):
                return piece.probs[-1]
        others = await self.likely(adapter, ids, EVERY)
        one = next((one for one in others if one.id == id), None)
        if one is None:
            raise Refused(400, f"token {id} has no probability", "invalid_prompt")
        return replace(one, top=tuple(others[:top]))

    async def likely(
        self, adapter: Path | None, ids: Sequence[int], top: int, *, patient: bool = False
    ) -> Sequence[TokenProb]:
        """The likeliest tokens after ``ids``. A whole visible character is written in their place, because
        llama.cpp tells nothing if a part of one, or a stop token, comes out. Raises Refused."""
        if self._visible is None:
            self._visible = await self._plain()
        ask = Ask(ids, 1, logit_bias={self._visible: CERTAIN}, top=top)
        found = [p.probs[-1].top async for p in self.stream(adapter, ask, patient=patient) if p.probs]
        if not found:
            raise Refused(503, "llama.cpp tells no probabilities", "engine_silent")
        return found[0]

    async def _plain(self) -> int:
        """A token that is a whole visible character."""
        assert self._session is not None and self._process is not None
        url, body = f"http://{self._process.address}/tokenize", json.dumps({"content": "a"})
        async with self._session.post(url, data=body, headers=self._process.headers) as response:
            return (await response.json())["tokens"][-1]

    async def _pieces(self, body: dict[str, Any], ask: Ask) -> AsyncGenerator[Piece]:
        assert self._session is not None and self._process is not None
        url = f"http://{self._process.address}/completion"
        headers = self._process.headers
        async with self._session.post(url, data=json.dumps(body), headers=headers) as response:
            if response.status != 200:
                raise _refusal(response.status, await response.text())
            async for event in _events(response.content.iter_any()):
                if event.startswith(b"data: "):
                    yield _piece(from_json(event[6:]), ask)
                elif event.startswith(b"error: "):
                    raise _refusal(500, event[7:].decode("utf-8", "replace"))

    async def _wait_until_up(self) -> None:
        try:
            async with asyncio.timeout(self.slots.patience):
                await self._up.wait()
        except TimeoutError:
            raise Refused(503, "the engine is down and is being started anew", "engine_down") from None

    async def _revive(self, process: Process) -> None:
        """Start llama.cpp again whenever it ends by itself."""
        failed = 0
        while True:
            await asyncio.to_thread(process.wait)
            if self._ending:
                return
            self._up.clear()
            log.warning("llama.cpp ended (%s); it is started anew", process.last_words())
            while True:
                await asyncio.sleep(PAUSES[min(failed, len(PAUSES) - 1)])
                try:
                    process = await asyncio.to_thread(Process, self.setup)
                    break
                except (ExportError, OSError) as error:
                    failed += 1
                    log.error("llama.cpp doesn't start: %s", error)
            failed = 0
            self._process = process
            self.restarts += 1
            self._up.set()

    async def _end_process(self) -> None:
        self._ending = True
        self._up.clear()
        if self._process is not None:
            await asyncio.to_thread(self._process.stop)
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        self._watch = self._process = None


async def _events(parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Server-sent events, each whole, without the empty line after it."""
    begun = b""
    async for part in parts:
        *events, begun = (begun + part).split(b"\n\n")
        for event in events:
            yield event
    if begun:
        yield begun


def _piece(told: dict[str, Any], ask: Ask) -> Piece:
    if "error" in told:
        raise _refusal(int(told["error"].get("code", 500)), json.dumps(told))
    return piece_of(told, ask)


async def _ended(pieces: AsyncGenerator[Piece], ask: Ask) -> AsyncGenerator[Piece]:
    """The same pieces, up to where the answer ends."""
    ending = Ending(ask)
    async for piece in pieces:
        for shown in ending.feed(piece):
            yield shown
        if ending.done:
            return


def _refusal(status: int, content: str) -> Exception:
    """llama.cpp's own error as ours. A fault of the caller stays one."""
    try:
        told: Any = json.loads(content)["error"]
        message, kind = str(told.get("message", content)), str(told.get("type", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        message, kind = content[:300], ""
    if 400 <= status < 500 and status not in (401, 403, 404):
        return Refused(400, message, "context_length_exceeded" if "exceed_context" in kind else "")
    return Lost(message)
