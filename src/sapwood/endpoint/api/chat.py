"""``/v1/chat/completions``."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from sapwood.endpoint.api.answer import Delta, Whole, all_of, deltas, finish_reason, merged, usage, whole
from sapwood.endpoint.api.prompt import Asked
from sapwood.engine.wire import End, TokenProb


class Chat:
    """One request's answers in OpenAI's form."""

    def __init__(self, asked: Asked, answers: int, *, logprobs: bool, include_usage: bool = False) -> None:
        self._asked = [_nth(asked, i) for i in range(answers)]
        self._logprobs = logprobs
        self._stops = asked.ask.stop_ids
        self._include_usage = include_usage
        self._head = {
            "id": f"chatcmpl-{uuid4().hex}",
            "created": int(time.time()),
            "model": asked.served.name,
            "system_fingerprint": fingerprint(asked),
        }
        if asked.note:
            self._head["note"] = asked.note

    async def whole(self) -> dict[str, Any]:
        found = await all_of([whole(asked, i) for i, asked in enumerate(self._asked)])
        ends = [one.end for one in found if one.end is not None]
        choices = [self._choice(one) for one in found]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage(ends)}

    async def chunks(self) -> AsyncGenerator[dict[str, Any]]:
        """The same answers in pieces, with the usage at the end if the client asked for it."""
        ends: list[End] = []
        begun: set[int] = set()
        async for delta in merged([deltas(asked, i) for i, asked in enumerate(self._asked)]):
            yield self._chunk([self._piece(delta, first=delta.index not in begun)])
            begun.add(delta.index)
            if delta.end is not None:
                ends.append(delta.end)
        if self._include_usage:
            yield self._chunk([], usage(ends))

    def _chunk(self, choices: list[Any], used: dict[str, Any] | None = None) -> dict[str, Any]:
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        return {**chunk, "usage": used} if self._include_usage else chunk

    def _piece(self, delta: Delta, *, first: bool) -> dict[str, Any]:
        said: dict[str, Any] = {"role": "assistant"} if first else {}
        if delta.content or (first and not delta.reasoning and not delta.calls):
            said["content"] = delta.content
        if delta.reasoning:
            said["reasoning_content"] = delta.reasoning
        if delta.calls:
            said["tool_calls"] = [{"index": i, **call} for i, call in enumerate(delta.calls)]
        reason = finish_reason(delta.end, delta.calls) if delta.end is not None else None
        told = self._told(delta.probs) if delta.probs or delta.end is None else None
        return {"index": delta.index, "delta": said, "logprobs": told, "finish_reason": reason}

    def _choice(self, one: Whole) -> dict[str, Any]:
        assert one.end is not None
        content = one.content if one.content or not one.calls else None
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if one.reasoning:
            message["reasoning_content"] = one.reasoning.strip()
        if one.calls:
            message["tool_calls"] = one.calls
        return {
            "index": one.index,
            "message": message,
            "logprobs": self._told(one.probs),
            "finish_reason": finish_reason(one.end, one.calls),
        }

    def _told(self, probs: Sequence[TokenProb]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        shown = [one for one in probs if one.id not in self._stops]  # a stop token isn't shown
        content = [{**_prob(one), "top_logprobs": [_prob(other) for other in one.top]} for one in shown]
        return {"content": content, "refusal": None}


def _nth(asked: Asked, index: int) -> Asked:
    """The seed of one of several answers: each has draws of its own."""
    seed = asked.ask.seed
    return asked if seed is None else replace(asked, ask=replace(asked.ask, seed=seed + index))


def _prob(one: TokenProb) -> dict[str, Any]:
    return {"token": one.text, "logprob": one.log_prob, "bytes": list(one.data)}


def fingerprint(asked: Asked) -> str:
    """A fingerprint that changes if the base, the template or the adapter's training changes."""
    found = asked.served.found
    trained = found.facts.data_sha256[:8] if found.facts is not None else ""
    return "-".join(filter(None, ("sw", found.spec.fingerprint[:8], found.renderer.fingerprint[:8], trained)))
