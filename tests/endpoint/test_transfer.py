"""Events on their way to a client, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from sse_starlette.sse import SendTimeoutError

from sapwood.endpoint.api import transfer


async def endless(closed: list[bool]) -> AsyncGenerator[bytes]:
    try:
        while True:
            yield b"data: {}\n\n"
            await asyncio.sleep(0.01)
    finally:
        closed.append(True)


SCOPE = {"type": "http", "method": "POST"}


async def connected() -> dict[str, Any]:
    await asyncio.sleep(60)
    return {"type": "http.disconnect"}


def test_a_client_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "SEND_SECONDS", 0.4)
    sent, closed = list[Any](), list[bool]()

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 4:
            await asyncio.sleep(60)

    async def answer() -> None:
        async with asyncio.timeout(10):
            await transfer.Events(endless(closed))(SCOPE, connected, send)

    with pytest.raises(SendTimeoutError):
        asyncio.run(answer())
    assert len(sent) == 4 and closed


def test_a_client_that_reads_for_longer_than_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "SEND_SECONDS", 0.2)
    sent, closed = list[Any](), list[bool]()

    async def send(message: Any) -> None:
        sent.append(message)
        await asyncio.sleep(0)

    async def leaving() -> dict[str, Any]:
        await asyncio.sleep(1)
        return {"type": "http.disconnect"}

    asyncio.run(transfer.Events(endless(closed))(SCOPE, leaving, send))
    assert len(sent) > 20 and closed
