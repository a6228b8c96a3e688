"""The requests that clients send. Fields that are unknown are ignored; a wrong type is the caller's fault."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Stop = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
MOST_ANSWERS, MOST_TOP = 32, 20


class Request(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class StreamOptions(Request):
    include_usage: bool | None = False


class Sampled(Request):
    """Fields that both of OpenAI's endpoints have. top_k, min_p and repetition_penalty are vLLM's."""

    model: str
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    seed: Seed | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    logit_bias: dict[int, Bias] | None = None


class Part(Request):
    type: str
    text: str | None = None


class Function(Request):
    name: Annotated[str, StringConstraints(min_length=1)]
    arguments: str | dict[str, Any] = "{}"


class Call(Request):
    id: str | None = None
    type: str = "function"
    function: Function


class Turn(Request):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None


class Definition(Request):
    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Request):
    type: Literal["function"] = "function"
    function: Definition


class NamedFunction(Request):
    name: str


class NamedTool(Request):
    type: Literal["function"] = "function"
    function: NamedFunction


class JsonSchema(Request):
    name: str | None = None
    wanted: dict[str, Any] | bool | None = Field(None, alias="schema")


class ResponseFormat(Request):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(Sampled):
    messages: Annotated[list[Turn], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None


class CompletionRequest(Sampled):
    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None
    suffix: str | None = None


class Block(Request):
    """A part of Anthropic's messages."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[Part] | None = None


class AnthropicTurn(Request):
    role: Literal["user", "assistant"]
    content: str | list[Block]


class AnthropicTool(Request):
    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class AnthropicChoice(Request):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None


class CountRequest(Request):
    model: str
    messages: Annotated[list[AnthropicTurn], Field(min_length=1)]
    system: str | list[Part] | None = None
    tools: list[AnthropicTool] | None = None


class MessagesRequest(CountRequest):
    max_tokens: Annotated[int, Field(ge=1)]
    stop_sequences: Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    tool_choice: AnthropicChoice | None = None


class TokenizeRequest(Request):
    model: str | None = None
    prompt: str | None = None
    messages: list[Turn] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool | None = None


class DetokenizeRequest(Request):
    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]


class LoadRequest(Request):
    lora_name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    lora_path: str


class UnloadRequest(Request):
    lora_name: str
