"""Bodies in, answers out: bounded in size and time, and ended when the client has gone."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from sse_starlette import EventSourceResponse
from starlette.requests import ClientDisconnect, Request

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
) -> EventSourceResponse:
    """The events as server-sent ones. A failure before the first event raises Refused, and so has an HTTP
    status.

    named: each event says its type, as Anthropic's do; else the stream ends with ``[DONE]``.
    """
    first = await unless_gone(request, anext(events))
    if seen is not None:
        seen()
    content = _sent(first, events, request.url.path, named=named)
    return EventSourceResponse(content, ping=PING_SECONDS, send_timeout=SEND_SECONDS, sep="\n")


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
    head = f"event: {told['type']}\n" if named else ""
    return f"{head}data: {json.dumps(told, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
