"""Bodies in, answers out: bounded in size and time, and ended when the client has gone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from pydantic_core import to_json
from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Send

from sapwood.endpoint.api.errors import error_body
from sapwood.engine.wire import Refused

T = TypeVar("T")
DRAINED = 16  # times the limit: so much of a larger body is still read, so that its sender hears why
SEND_SECONDS = 60.0  # that a client may take to receive an event; then it is given up
PING_SECONDS = 15

log = logging.getLogger("sapwood")


class Gone(Exception):
    """The client has left."""


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """Raises Refused: 413 for more than ``most`` bytes, 408 for one that takes longer; Gone."""
    size, parts = 0, list[bytes]()
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size <= most:
                    parts.append(part)
                elif size > most * DRAINED:
                    break
    except TimeoutError:
        raise Refused(408, f"the body took more than {seconds:g} s", "timeout") from None
    except ClientDisconnect:
        raise Gone from None
    if size > most:
        raise Refused(413, f"the body has more than {most:,} bytes", "body_too_large")
    return b"".join(parts)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is ended when the client leaves. Raises Gone."""
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        for one in (task, left):
            one.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def stream_response(
    request: Request,
    events: AsyncGenerator[dict[str, Any]],
    *,
    named: bool = False,
    seen: Callable[[], None] | None = None,
) -> Events:
    """The events as server-sent ones. A failure before the first event raises Refused, and so has an HTTP
    status.

    named: each event says its type, as Anthropic's do; else the stream ends with ``[DONE]``.
    """
    first = await unless_gone(request, anext(events))
    if seen is not None:
        seen()
    return Events(_sent(first, events, request.url.path, named=named))


class Events(EventSourceResponse):
    """Server-sent events, given up when the client takes none of them for ``SEND_SECONDS``.

    One look every few seconds, whatever comes: the library's own limit sets a timer for each event, which was
    a sixth of all that the server does for a token.
    """

    def __init__(self, content: AsyncGenerator[bytes]) -> None:
        super().__init__(content, ping=PING_SECONDS, sep="\n", data_sender_callable=self._watch)
        self._began: float | None = None  # to send what the client hasn't taken yet

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        self._began = time.monotonic()
        await send(message)
        self._began = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(SEND_SECONDS / 4)
            if self._began is not None and time.monotonic() - self._began > SEND_SECONDS:
                raise SendTimeoutError


async def _sent(
    first: dict[str, Any], events: AsyncGenerator[dict[str, Any]], path: str, *, named: bool
) -> AsyncGenerator[bytes]:
    try:
        yield _event(first, named=named)
        async for event in events:
            yield _event(event, named=named)
    except Refused as error:
        yield _event(error_body(error.status, error.message, error.code, path=path), named=named)
        return
    except Exception:
        log.exception("an answer failed")
        yield _event(error_body(500, "this is a fault of sapwood", path=path), named=named)
        return
    finally:
        await events.aclose()
    if not named:
        yield b"data: [DONE]\n\n"


def _event(told: dict[str, Any], *, named: bool) -> bytes:
    head = f"event: {told['type']}\n".encode() if named else b""
    return b"%bdata: %b\n\n" % (head, to_json(told))
