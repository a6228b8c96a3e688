"""Answers from an engine, as parts from which every client's form is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sapwood.endpoint.api.calls import new_id
from sapwood.endpoint.api.prompt import Asked
from sapwood.engine.wire import End, TokenProb

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Delta:
    """A part of answer number ``index``. ``probs``: of its tokens, a stop token among them."""

    index: int
    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    probs: tuple[TokenProb, ...] = ()
    end: End | None = None


@dataclass(slots=True)
class Whole:
    """An answer that has come to its end."""

    index: int
    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    probs: list[TokenProb] = field(default_factory=list[TokenProb])
    end: End | None = None

    def add(self, delta: Delta) -> None:
        self.content += delta.content
        self.reasoning += delta.reasoning
        self.calls += delta.calls
        self.probs += delta.probs
        self.end = delta.end or self.end


async def deltas(asked: Asked, index: int = 0) -> AsyncGenerator[Delta]:
    """The answer to one prompt. Raises Refused."""
    reader = asked.reader()
    async with aclosing(asked.served.engine.stream(asked.served.adapter, asked.ask)) as pieces:
        async for piece in pieces:
            part = reader.feed(piece.text)
            if piece.end is None:
                if part.content or part.reasoning or piece.probs:
                    yield Delta(index, part.content, part.reasoning, [], piece.probs)
                continue
            rest = reader.finish()
            calls = [
                {"id": new_id(), "type": "function", "function": {"name": name, "arguments": arguments}}
                for name, arguments in rest.calls
            ]
            content, reasoning = part.content + rest.content, part.reasoning + rest.reasoning
            yield Delta(index, content, reasoning, calls, piece.probs, piece.end)


async def whole(asked: Asked, index: int = 0) -> Whole:
    found = Whole(index)
    async with aclosing(deltas(asked, index)) as parts:
        async for delta in parts:
            found.add(delta)
    return found


async def all_of(work: Sequence[Awaitable[T]]) -> list[T]:
    """All answers side by side; if one fails, the others are ended at once."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def merged(streams: Sequence[AsyncGenerator[Delta]]) -> AsyncGenerator[Delta]:
    """Several answers, part by part as they come. A single answer is passed through."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as parts:
            async for delta in parts:
                yield delta
        return
    queue: asyncio.Queue[Delta | BaseException | None] = asyncio.Queue()
    tasks = [asyncio.create_task(_into(queue, stream)) for stream in streams]
    try:
        for _ in streams:
            while (got := await queue.get()) is not None:
                if isinstance(got, BaseException):
                    raise got
                yield got
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _into(queue: asyncio.Queue[Delta | BaseException | None], stream: AsyncGenerator[Delta]) -> None:
    try:
        async with aclosing(stream) as parts:
            async for delta in parts:
                queue.put_nowait(delta)
        queue.put_nowait(None)
    except Exception as error:
        queue.put_nowait(error)


def finish_reason(end: End, calls: Sequence[Any]) -> str:
    if calls:
        return "tool_calls"
    return end.reason


def usage(ends: Sequence[End]) -> dict[str, Any]:
    """OpenAI's usage of one request: a prompt counts once, however many answers it has."""
    read, written = max(end.prompt_tokens for end in ends), sum(end.tokens for end in ends)
    cached = max(end.cached for end in ends)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
