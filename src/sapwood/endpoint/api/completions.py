"""``/v1/completions``: bare prompts, as text or as token ids."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from sapwood.endpoint.api.answer import Delta, all_of, deltas, finish_reason, merged, usage, whole
from sapwood.endpoint.api.prompt import Asked
from sapwood.endpoint.api.schema import CompletionRequest
from sapwood.engine.wire import End, TokenProb


@dataclass(slots=True)
class _Echo:
    """A prompt that is part of its answer. ``probs``: None for its first token."""

    text: str
    tokens: list[str]
    probs: list[TokenProb | None]


class Completions:
    """One request's answers in OpenAI's form: ``n`` for each prompt."""

    def __init__(self, prompts: Sequence[Asked], request: CompletionRequest) -> None:
        n = request.n or 1
        self._asked = [
            asked
            if asked.ask.seed is None
            else replace(asked, ask=replace(asked.ask, seed=asked.ask.seed + i))
            for asked in prompts
            for i in range(n)
        ]
        self._prompts = len(prompts)
        self._top = request.logprobs
        self._echo = bool(request.echo)
        self._empty = request.max_tokens == 0
        options = request.stream_options
        self._include_usage = bool(options is not None and options.include_usage)
        self._head = {
            "id": f"cmpl-{uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": prompts[0].served.name,
        }

    async def whole(self) -> dict[str, Any]:
        found = await all_of([self._one(asked, i) for i, asked in enumerate(self._asked)])
        ends = [end for _, end in found]
        return {**self._head, "choices": [choice for choice, _ in found], "usage": self._usage(ends)}

    async def chunks(self) -> AsyncGenerator[dict[str, Any]]:
        ends: list[End] = []
        places = [0] * len(self._asked)
        if self._echo:
            for i, asked in enumerate(self._asked):
                echo = await self._echoed(asked)
                places[i] = len(echo.text)
                yield self._chunk([self._choice(i, echo.text, self._told(echo, [], 0), None)])
        if not self._empty:
            async for delta in merged([deltas(asked, i) for i, asked in enumerate(self._asked)]):
                yield self._chunk([self._piece(delta, places[delta.index])])
                places[delta.index] += len(delta.content)
                if delta.end is not None:
                    ends.append(delta.end)
        if self._include_usage:
            yield self._chunk([], self._usage(ends or [self._nothing(asked) for asked in self._asked]))

    async def _one(self, asked: Asked, index: int) -> tuple[dict[str, Any], End]:
        echo = await self._echoed(asked) if self._echo else _Echo("", [], [])
        if self._empty:
            end = self._nothing(asked)
            return self._choice(index, echo.text, self._told(echo, [], 0), "length"), end
        found = await whole(asked, index)
        assert found.end is not None
        probs: list[TokenProb | None] = [*found.probs]
        if self._echo:  # a client that scores a prompt counts all tokens, even those without a probability
            probs += [None] * (found.end.tokens - len(probs))
        told = self._told(echo, probs, len(echo.text))
        return self._choice(index, echo.text + found.content, told, finish_reason(found.end, ())), found.end

    async def _echoed(self, asked: Asked) -> _Echo:
        served, ids = asked.served, list(asked.ask.ids)
        tokenizer = served.found.spec.tokenizer
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if self._top is None:
            return _Echo(text, [], [])
        probs = await served.engine.score(served.adapter, ids, self._top)
        return _Echo(text, [tokenizer.decode([id]) for id in ids], probs)

    def _piece(self, delta: Delta, place: int) -> dict[str, Any]:
        reason = finish_reason(delta.end, ()) if delta.end is not None else None
        told = self._told(_Echo("", [], []), delta.probs, place)
        return self._choice(delta.index, delta.content, told, reason)

    def _told(self, echo: _Echo, probs: Sequence[TokenProb | None], place: int) -> dict[str, Any] | None:
        """Tokens with log probabilities, and where each begins in the text; an echoed prompt's first."""
        if self._top is None:
            return None
        tokens = [*echo.tokens, *(one.text if one is not None else "" for one in probs)]
        known: list[TokenProb | None] = [*echo.probs, *probs]
        offsets: list[int] = []
        at = place - len(echo.text)
        for token in tokens:
            offsets.append(at)
            at += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [one.log_prob if one is not None else None for one in known],
            "top_logprobs": [
                {other.text: other.log_prob for other in one.top} if one is not None else None
                for one in known
            ],
            "text_offset": offsets,
        }

    def _choice(self, index: int, text: str, logprobs: Any, reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _chunk(self, choices: list[Any], used: dict[str, Any] | None = None) -> dict[str, Any]:
        chunk = {**self._head, "choices": choices}
        return {**chunk, "usage": used} if self._include_usage else chunk

    def _nothing(self, asked: Asked) -> End:
        return End("length", None, len(asked.ask.ids), 0)

    def _usage(self, ends: Sequence[End]) -> dict[str, Any]:
        """Each prompt counts once."""
        each = len(self._asked) // self._prompts
        read = sum(len(asked.ask.ids) for asked in self._asked[::each])
        told = usage(ends)
        return {**told, "prompt_tokens": read, "total_tokens": read + told["completion_tokens"]}
