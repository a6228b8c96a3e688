"""The paths, and what each does."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sapwood.endpoint.api.anthropic import Messages, as_chat
from sapwood.endpoint.api.chat import Chat
from sapwood.endpoint.api.completions import Completions
from sapwood.endpoint.api.errors import error_response, invalid_response, refusal_response
from sapwood.endpoint.api.guard import Guard
from sapwood.endpoint.api.prompt import (
    chat_asked,
    check_ids,
    completion_asked,
    ids_of,
    in_thread,
    message_of,
    prompted,
)
from sapwood.endpoint.api.rules import Manners, Rules
from sapwood.endpoint.api.schema import (
    ChatRequest,
    CompletionRequest,
    CountRequest,
    DetokenizeRequest,
    LoadRequest,
    MessagesRequest,
    TokenizeRequest,
    UnloadRequest,
)
from sapwood.endpoint.api.transfer import Gone, read_body, stream_response, unless_gone
from sapwood.endpoint.described import described
from sapwood.endpoint.library import Library, Served
from sapwood.endpoint.metrics import Metrics
from sapwood.engine.wire import Refused
from sapwood.errors import SapwoodError

log = logging.getLogger("sapwood")
S = TypeVar("S", bound=BaseModel)
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(slots=True)
class Service:
    """The service behind all paths."""

    library: Library
    manners: Manners = field(default_factory=Manners)
    metrics: Metrics = field(default_factory=Metrics)

    async def read(self, request: Request, schema: type[S]) -> S:
        """Raises Refused, ValidationError, Gone."""
        body = await read_body(request, self.manners.most_bytes, self.manners.body_seconds)
        if self.manners.log_prompts:
            log.warning("%s %s", request.url.path, body.decode("utf-8", "replace"))
        return schema.model_validate_json(body)

    # --- answers ------------------------------------------------------------------------------------------

    async def chat(self, request: Request) -> Response:
        wanted = await self.read(request, ChatRequest)
        served = self.find(request, wanted.model)
        asked = await chat_asked(served, wanted, self.manners.temperature)
        options = wanted.stream_options
        used = bool(options is not None and options.include_usage)
        chat = Chat(asked, wanted.n or 1, logprobs=bool(wanted.logprobs), include_usage=used)
        return await self._answer(request, served, bool(wanted.stream), chat.whole, chat.chunks)

    async def completions(self, request: Request) -> Response:
        wanted = await self.read(request, CompletionRequest)
        served = self.find(request, wanted.model)
        prompts = await completion_asked(served, wanted, self.manners.temperature)
        done = Completions(prompts, wanted)
        return await self._answer(request, served, bool(wanted.stream), done.whole, done.chunks)

    async def messages(self, request: Request) -> Response:
        wanted = await self.read(request, MessagesRequest)
        served = self.find(request, wanted.model)
        asked = await chat_asked(served, as_chat(wanted), self.manners.temperature)
        said = Messages(asked)
        return await self._answer(request, served, bool(wanted.stream), said.whole, said.events, named=True)

    async def count(self, request: Request) -> Response:
        wanted = await self.read(request, CountRequest)
        served, chat = self.find(request, wanted.model), as_chat(wanted)
        tools = [tool.model_dump(exclude_none=True) for tool in chat.tools or ()]
        asked = await prompted(served, [message_of(turn) for turn in chat.messages], tools)
        return JSONResponse({"input_tokens": len(asked.ask.ids)})

    # --- tokens -------------------------------------------------------------------------------------------

    async def tokenize(self, request: Request) -> Response:
        wanted = await self.read(request, TokenizeRequest)
        served = self.find(request, wanted.model)
        if wanted.messages is not None:
            tools = [tool.model_dump(exclude_none=True) for tool in wanted.tools or ()]
            asked = await prompted(served, [message_of(turn) for turn in wanted.messages], tools)
            ids = list(asked.ask.ids)
        else:
            ids = await ids_of(served, wanted.prompt or "", special=wanted.add_special_tokens)
        told = {"tokens": ids, "count": len(ids), "max_model_len": served.engine.context}
        if wanted.return_token_strs:
            told["token_strs"] = served.found.spec.tokenizer.convert_ids_to_tokens(ids)
        return JSONResponse(told)

    async def detokenize(self, request: Request) -> Response:
        wanted = await self.read(request, DetokenizeRequest)
        served = self.find(request, wanted.model)
        if wanted.tokens:
            check_ids(served, wanted.tokens)
        tokenizer = served.found.spec.tokenizer
        text = await in_thread(lambda: tokenizer.decode(wanted.tokens, clean_up_tokenization_spaces=False))
        return JSONResponse({"prompt": text})

    async def tokenizer(self, request: Request) -> Response:
        """The tokenizer's facts, which lm-eval asks for before it trusts `tokenize`."""
        served = self.find(request, request.query_params.get("model"))
        tokenizer = served.found.spec.tokenizer
        names = ("bos_token", "eos_token", "pad_token")
        told = {name: getattr(tokenizer, name) for name in names}
        kind = getattr(tokenizer, "kind", type(tokenizer).__name__)
        return JSONResponse({**told, "tokenizer_class": kind, "model_max_length": served.engine.context})

    # --- models -------------------------------------------------------------------------------------------

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(served) for served in self.library.models]})

    async def model(self, request: Request) -> Response:
        return JSONResponse(_model(self.find(request, request.path_params["name"])))

    async def load(self, request: Request) -> Response:
        wanted = await self.read(request, LoadRequest)
        try:
            served = await self.library.load(wanted.lora_name, wanted.lora_path)
        except SapwoodError as error:
            raise Refused(400, str(error), "adapter_refused") from None
        return JSONResponse({"status": "loaded", "model": _model(served)})

    async def unload(self, request: Request) -> Response:
        wanted = await self.read(request, UnloadRequest)
        await self.library.unload(wanted.lora_name)
        return JSONResponse({"status": "unloaded", "model": wanted.lora_name})

    # --- the server itself --------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        ready = all(engine.ready for engine in self.library.engines)
        return JSONResponse({"status": "ok" if ready else "starting"}, 200 if ready else 503)

    async def figures(self, request: Request) -> Response:
        content = self.metrics.render(self.library.engines)
        return Response(content, media_type="text/plain; version=0.0.4; charset=utf-8")

    # --- inside -------------------------------------------------------------------------------------------

    def find(self, request: Request, name: str | None) -> Served:
        """The model of a request. ``name``: None means the last adapter, or the base if there is none."""
        served = self.library.models[-1] if name is None else self.library.find(name)
        request.state.model = served.name
        return served

    async def _answer(
        self,
        request: Request,
        served: Served,
        stream: bool,
        whole: Callable[[], Any],
        events: Callable[[], AsyncGenerator[dict[str, Any]]],
        *,
        named: bool = False,
    ) -> Response:
        began = time.perf_counter()
        first = self.metrics.first.labels(served.name)
        if stream:
            counted = self._counted(events(), served.name, began)
            seen = lambda: first.observe(time.perf_counter() - began)  # noqa: E731
            return await stream_response(request, counted, named=named, seen=seen)
        told = await unless_gone(request, whole())
        self._count(served.name, told.get("usage"), began)
        return JSONResponse(told)

    async def _counted(
        self, events: AsyncGenerator[dict[str, Any]], name: str, began: float
    ) -> AsyncGenerator[dict[str, Any]]:
        used: Any = None
        try:
            async for event in events:
                used = event.get("usage") or used
                yield event
        finally:
            await events.aclose()
            self._count(name, used, began)

    def _count(self, name: str, used: Any, began: float) -> None:
        self.metrics.seconds.labels(name).observe(time.perf_counter() - began)
        if used:
            read = used.get("prompt_tokens", used.get("input_tokens", 0))
            self.metrics.prompt_tokens.labels(name).inc(read)
            self.metrics.tokens.labels(name).inc(used.get("completion_tokens", used.get("output_tokens", 0)))

    def guarded(self, handler: Handler) -> Handler:
        """A handler whose faults become answers, and are counted."""

        async def answer(request: Request) -> Response:
            path = request.url.path
            request.state.model = ""
            try:
                response = await handler(request)
            except Refused as error:
                response = refusal_response(error, path)
            except ValidationError as error:
                response = invalid_response(error, path)
            except Gone:
                response = Response(status_code=499)
            except Exception:
                log.exception("%s failed", path)
                response = error_response(500, "this is a fault of sapwood; its log says more", path=path)
            route = request.scope["route"].path if "route" in request.scope else path
            self.metrics.requests.labels(route, request.state.model, response.status_code).inc()
            return response

        return answer


def make_app(service: Service, rules: Rules) -> Any:
    """The application."""
    routes = [
        ("/v1/chat/completions", service.chat, "POST"),
        ("/v1/completions", service.completions, "POST"),
        ("/v1/messages", service.messages, "POST"),
        ("/v1/messages/count_tokens", service.count, "POST"),
        ("/v1/models", service.models, "GET"),
        ("/v1/models/{name:path}", service.model, "GET"),
        ("/v1/load_lora_adapter", service.load, "POST"),
        ("/v1/unload_lora_adapter", service.unload, "POST"),
        ("/tokenize", service.tokenize, "POST"),
        ("/tokenizer_info", service.tokenizer, "GET"),
        ("/detokenize", service.detokenize, "POST"),
        ("/health", service.health, "GET"),
        ("/metrics", service.figures, "GET"),
    ]
    app = Starlette(
        routes=[Route(path, service.guarded(handler), methods=[method]) for path, handler, method in routes],
        exception_handlers={404: _unknown, 405: _unknown},
        middleware=_cors(list(rules.origins)),
    )
    return Guard(app, rules)


def _cors(origins: Sequence[str]) -> list[Any]:
    allowed: dict[str, Any] = {"allow_origins": origins, "allow_methods": ["*"], "allow_headers": ["*"]}
    return [Middleware(CORSMiddleware, **allowed)] if origins else []


async def _unknown(request: Request, error: Any) -> Response:
    path, status = request.url.path, error.status_code
    what = (
        f"{request.method} {path} isn't served here" if status == 404 else f"{path} takes no {request.method}"
    )
    return error_response(status, what, "unknown_url", path=path)


def _model(served: Served) -> dict[str, Any]:
    told = described(served)
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "sapwood",
        "parent": served.parent,
        "root": served.found.spec.source,
        **_finite(told),
    }


def _finite(value: Any) -> Any:
    """Data with None in the place of NaN and infinity, for which JSON has no word."""
    if isinstance(value, dict):
        return {key: _finite(held) for key, held in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
