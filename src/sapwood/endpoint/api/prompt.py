"""From a client's messages to the token ids that training would have shown, and to what an engine is asked.

Only the renderer that trained makes prompts: text of a message can't become a control token.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from sapwood.endpoint.api.calls import CallForm, Thinking, call_form, keeps_tools, thinking_of
from sapwood.endpoint.api.grammar import grammar_of, grammar_of_calls
from sapwood.endpoint.api.reading import Reader
from sapwood.endpoint.api.schema import (
    ChatRequest,
    CompletionRequest,
    NamedTool,
    Part,
    Sampled,
    Tool,
    Turn,
)
from sapwood.endpoint.library import Served
from sapwood.engine.wire import Ask, Refused
from sapwood.errors import DataError
from sapwood.serve.found import Found
from sapwood.template.render import Renderer
from sapwood.types import Message

ROLES: dict[str, Any] = {"developer": "system", "function": "tool"}
TAIL = 8  # tokens at a prompt's end, in which a tag that it opens stands
_rendering = ThreadPoolExecutor(1, "sapwood-render")  # long prompts don't hold up the answers of others


@dataclass(frozen=True, slots=True)
class Asked:
    """What is sent to the engine, and how the engine's answer is to be read."""

    served: Served
    ask: Ask
    thinking: Thinking | None = None
    form: CallForm | None = None
    opened: bool = False
    note: str = ""

    def reader(self) -> Reader:
        return Reader(self.thinking, self.form, opened=self.opened)


async def chat_asked(served: Served, request: ChatRequest, temperature: float) -> Asked:
    """Raises Refused for a request that can't be rendered, or that asks for something unknown."""
    tools = [] if request.tool_choice == "none" else [_plain(tool) for tool in request.tools or ()]
    messages = [message_of(turn) for turn in request.messages]
    top = (request.top_logprobs or 0) if request.logprobs else None
    longest = request.max_completion_tokens or request.max_tokens
    asked = await prompted(served, messages, tools)
    ask = sampled(served, request, asked.ask.ids, longest, top, temperature)
    format, forced = request.response_format, request.tool_choice
    if forced == "required" or isinstance(forced, NamedTool):
        if asked.form is None:
            raise Refused(400, "calls of this template can't be read, so none can be forced", "tool_choice")
        named = [
            tool for tool in tools if forced == "required" or tool["function"]["name"] == forced.function.name
        ]
        if not named:
            raise Refused(400, "tool_choice names no tool of this request", "tool_choice")
        ask = replace(ask, grammar=grammar_of_calls(asked.form, named))
    elif format is not None and format.type != "text":
        schema = format.json_schema.wanted if format.json_schema is not None else None
        if format.type == "json_schema" and schema is None:
            raise Refused(400, "response_format.json_schema.schema is missing", "response_format")
        ask = replace(ask, grammar=grammar_of({"type": "object"} if schema is None else schema))
        asked = replace(asked, form=None, thinking=None, opened=False)
    return replace(asked, ask=replace(ask, keep=asked.ask.keep))


async def prompted(served: Served, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Asked:
    """The prompt of a chat, with the system prompt of the training if the messages bring none."""
    said = list(messages)
    if served.found.system and not any(message.role == "system" for message in said):
        said.insert(0, Message("system", served.found.system))
    _refuse_longer(served, sum(len(message.text) for message in said))
    return await in_thread(_prompted, served, said, list(tools))


def _prompted(served: Served, messages: list[Message], tools: list[Mapping[str, Any]]) -> Asked:
    renderer, note = served.found.renderer, ""
    form: CallForm | None = None
    if tools:
        if not keeps_tools(renderer, tools):
            why = "the model's chat template has no place for tools: the model would never see the tools"
            raise Refused(400, why, "tools_unsupported")
        form = call_form(renderer, tools)
        note = (
            ""
            if form is not None
            else "calls in the form of this chat template can't be read: a call comes as text"
        )
    try:
        ids = renderer.prompt_ids(messages, tools)
    except DataError as error:
        problem = error.problems[0]
        raise Refused(400, " · ".join(filter(None, (problem.what, problem.why))), "template") from None
    thinking = _thinking(renderer)
    tail = served.found.spec.tokenizer.decode(ids[-TAIL:]).rstrip()
    opened = thinking is not None and tail.endswith(thinking.opening)
    tags = [form.opening, form.closing] if form is not None else []
    tags += [thinking.opening, thinking.closing] if thinking is not None else []
    keep = tuple(text for text in renderer.encoder.special if any(text in tag for tag in tags if tag))
    return Asked(served, Ask(ids, 1, keep=keep), thinking, form, opened, note)


def warm(found: Found) -> None:
    """Find out now what is asked once of each renderer, so that the first request needn't wait."""
    _longest_token(found.renderer)
    _thinking(found.renderer)
    with suppress(DataError):
        found.renderer.prompt_ids([Message("user", "Hello")])


@lru_cache(64)
def _thinking(renderer: Renderer) -> Thinking | None:
    return thinking_of(renderer)


async def completion_asked(served: Served, request: CompletionRequest, temperature: float) -> list[Asked]:
    """One for each prompt of the request. Raises Refused."""
    if request.suffix:
        raise Refused(
            400, "suffix isn't supported: nothing here was trained to fill in", "unsupported_parameter"
        )
    prompts: list[Any] = [request.prompt] if isinstance(request.prompt, str) else list(request.prompt)
    if prompts and all(isinstance(one, int) for one in prompts):
        prompts = [prompts]
    if not prompts:
        raise Refused(400, "prompt is empty", "invalid_prompt")
    found: list[Asked] = []
    for prompt in prompts:
        ids = await ids_of(served, prompt) if isinstance(prompt, str) else list(prompt)
        check_ids(served, ids)
        longest = request.max_tokens if request.max_tokens is not None else 16  # as OpenAI's
        found.append(Asked(served, sampled(served, request, ids, longest, request.logprobs, temperature)))
    return found


async def ids_of(served: Served, text: str, *, special: bool = True) -> list[int]:
    """A bare text as the tokenizer itself reads it: its sender also writes the control tokens."""
    _refuse_longer(served, len(text))
    tokenizer = served.found.spec.tokenizer
    return await in_thread(lambda: tokenizer.encode(text, add_special_tokens=special))


def check_ids(served: Served, ids: Sequence[int]) -> None:
    size = served.vocabulary
    if not ids:
        raise Refused(400, "the prompt has no tokens", "invalid_prompt")
    if odd := next((id for id in ids if not 0 <= id < size), None):
        raise Refused(400, f"token {odd} is none of this model's {size:,}", "invalid_prompt")


def sampled(
    served: Served,
    request: Sampled,
    ids: Sequence[int],
    longest: int | None,
    top: int | None,
    temperature: float,
) -> Ask:
    """``temperature``: the one that is taken if the request names none."""
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    bias = request.logit_bias or {}
    if odd := next((id for id in bias if not 0 <= id < served.vocabulary), None):
        raise Refused(400, f"logit_bias: token {odd} is none of this model's", "logit_bias")
    return Ask(
        ids,
        longest if longest is not None else served.engine.context,
        frozenset(served.found.renderer.stop_ids),
        stop,
        temperature if request.temperature is None else request.temperature,
        1.0 if request.top_p is None else request.top_p,
        max(request.top_k or 0, 0),
        request.min_p or 0.0,
        request.seed,
        1.0 if request.repetition_penalty is None else request.repetition_penalty,
        request.frequency_penalty or 0.0,
        request.presence_penalty or 0.0,
        bias,
        top,
    )


def message_of(turn: Turn) -> Message:
    """A turn of OpenAI's. Raises Refused for what isn't text."""
    calls = tuple(
        {
            "id": call.id or "",
            "type": "function",
            "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)},
        }
        for call in turn.tool_calls or ()
    )
    if turn.content is None and not calls and turn.role != "assistant":
        raise Refused(400, f"a {turn.role} message has no content", "invalid_messages")
    content = None if turn.content is None and calls else text_of(turn.content or "")
    reasoning = turn.reasoning_content if turn.reasoning_content is not None else turn.reasoning
    role = ROLES.get(turn.role, turn.role)
    return Message(role, content, reasoning, calls, name=turn.name, tool_call_id=turn.tool_call_id)


def text_of(content: str | Sequence[Part]) -> str:
    if isinstance(content, str):
        return content
    if odd := next((part.type for part in content if part.text is None), None):
        raise Refused(
            400, f"a content part of type {odd!r} isn't text, and text is all that is read", "content"
        )
    return "".join(part.text or "" for part in content)


def _arguments(given: str | dict[str, Any]) -> Any:
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        return given


def _plain(tool: Tool) -> dict[str, Any]:
    return tool.model_dump(exclude_none=True)


def _refuse_longer(served: Served, characters: int) -> None:
    """Refuse messages that are too long in any tokens, before they are rendered."""
    longest = served.engine.context * _longest_token(served.found.renderer)
    if characters > longest:
        why = f"the prompt has {characters:,} characters; the model holds {served.engine.context:,} tokens"
        raise Refused(400, why, "context_length_exceeded")


@lru_cache(64)
def _longest_token(renderer: Renderer) -> int:
    return max(map(len, renderer.tokenizer.get_vocab()))


async def in_thread(work: Any, *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(_rendering, work, *arguments)
