"""Anthropic's ``/v1/messages``: the same prompts and answers in another form."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

from sapwood.endpoint.api.answer import deltas, whole
from sapwood.endpoint.api.prompt import Asked
from sapwood.endpoint.api.schema import (
    AnthropicTurn,
    Block,
    Call,
    ChatRequest,
    CountRequest,
    Definition,
    Function,
    MessagesRequest,
    NamedFunction,
    NamedTool,
    Part,
    Tool,
    Turn,
)
from sapwood.engine.wire import End, Refused


def as_chat(request: CountRequest) -> ChatRequest:
    """The request as OpenAI would have it. Raises Refused for a block that isn't text."""
    turns = [Turn(role="system", content=request.system)] if request.system is not None else []
    for message in request.messages:
        turns += _turns(message)
    tools = [
        Tool(function=Definition(name=t.name, description=t.description, parameters=t.input_schema))
        for t in request.tools or ()
    ]
    more: dict[str, Any] = {}
    if isinstance(request, MessagesRequest):
        more = {
            "max_tokens": request.max_tokens, "stop": request.stop_sequences, "top_p": request.top_p,
            "top_k": request.top_k, "temperature": request.temperature, "tool_choice": _choice(request),
        }  # fmt: skip
    return ChatRequest(model=request.model, messages=turns, tools=tools or None, **more)


def _choice(request: MessagesRequest) -> Any:
    choice = request.tool_choice
    if choice is None:
        return None
    if choice.type == "tool":
        return NamedTool(function=NamedFunction(name=choice.name or ""))
    return {"auto": "auto", "any": "required", "none": "none"}[choice.type]


def _turns(message: AnthropicTurn) -> list[Turn]:
    """In Anthropic's form, results of tools are blocks of the user's turn. They become turns of their own."""
    if isinstance(message.content, str):
        return [Turn(role=message.role, content=message.content)]
    results = [block for block in message.content if block.type == "tool_result"]
    calls = [block for block in message.content if block.type == "tool_use"]
    thoughts = [block.thinking or "" for block in message.content if block.type == "thinking"]
    texts = [block for block in message.content if block.type not in ("tool_result", "tool_use", "thinking")]
    turns = [
        Turn(role="tool", content=block.content or "", tool_call_id=block.tool_use_id) for block in results
    ]
    if texts or calls or not results:
        turns.append(
            Turn(
                role=message.role,
                content=[Part(type=block.type, text=block.text) for block in texts]
                if texts or not calls
                else None,
                reasoning_content="".join(thoughts) if thoughts else None,
                tool_calls=[_call(block) for block in calls] or None,
            )
        )
    return turns


def _call(block: Block) -> Call:
    if not block.name:
        raise Refused(400, "a tool_use block names no tool", "invalid_messages")
    return Call(id=block.id, function=Function(name=block.name, arguments=block.input or {}))


class Messages:
    """One answer in Anthropic's form."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._head = {
            "id": f"msg_{uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": asked.served.name,
        }

    async def whole(self) -> dict[str, Any]:
        found = await whole(self._asked)
        assert found.end is not None
        blocks: list[dict[str, Any]] = []
        if found.reasoning:
            blocks.append({"type": "thinking", "thinking": found.reasoning.strip(), "signature": ""})
        if found.content or not found.calls:
            blocks.append({"type": "text", "text": found.content})
        blocks += [
            {"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": _input(call)}
            for call in found.calls
        ]
        return {
            **self._head,
            "content": blocks,
            **_ended(found.end, bool(found.calls)),
            "usage": _usage(found.end),
        }

    async def events(self) -> AsyncGenerator[dict[str, Any]]:
        used = {"input_tokens": len(self._asked.ask.ids), "output_tokens": 0}
        started = {**self._head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": used}
        blocks = _Blocks()
        first = True
        async for delta in deltas(self._asked):
            if first:
                yield {"type": "message_start", "message": started}
                first = False
            if delta.reasoning:
                for event in blocks.say("thinking", delta.reasoning):
                    yield event
            if delta.content:
                for event in blocks.say("text", delta.content):
                    yield event
            for call in delta.calls:
                for event in blocks.call(call):
                    yield event
            if delta.end is not None:
                for event in blocks.close():
                    yield event
                ended = _ended(delta.end, bool(delta.calls))
                yield {"type": "message_delta", "delta": ended, "usage": _usage(delta.end)}
                yield {"type": "message_stop"}


class _Blocks:
    """Blocks of a stream: each is opened, filled and closed before the next."""

    def __init__(self) -> None:
        self._kind: str | None = None
        self._index = -1

    def say(self, kind: str, text: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        if self._kind != kind:
            empty = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}}[kind]
            events = [*self.close(), self._open(kind, {"type": kind, **empty})]
        delta = {"type": f"{kind}_delta", kind: text}
        return [*events, {"type": "content_block_delta", "index": self._index, "delta": delta}]

    def call(self, call: dict[str, Any]) -> list[dict[str, Any]]:
        named = {"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": {}}
        opened = [*self.close(), self._open("tool_use", named)]
        delta = {"type": "input_json_delta", "partial_json": json.dumps(_input(call), ensure_ascii=False)}
        return [*opened, {"type": "content_block_delta", "index": self._index, "delta": delta}, *self.close()]

    def close(self) -> list[dict[str, Any]]:
        if self._kind is None:
            return []
        self._kind = None
        return [{"type": "content_block_stop", "index": self._index}]

    def _open(self, kind: str, block: dict[str, Any]) -> dict[str, Any]:
        self._kind = kind
        self._index += 1
        return {"type": "content_block_start", "index": self._index, "content_block": block}


def _input(call: dict[str, Any]) -> Any:
    try:
        return json.loads(call["function"]["arguments"])
    except ValueError:
        return {}


def _ended(end: End, called: bool) -> dict[str, Any]:
    reason = "tool_use" if called else "stop_sequence" if end.word else "end_turn"
    return {"stop_reason": "max_tokens" if end.reason == "length" else reason, "stop_sequence": end.word}


def _usage(end: End) -> dict[str, int]:
    return {
        "input_tokens": end.prompt_tokens, "output_tokens": end.tokens,
        "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0,
    }  # fmt: skip
