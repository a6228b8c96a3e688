"""Errors in the form that each client knows."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse

from sapwood.engine.wire import Refused

TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
    404: "not_found_error", 405: "invalid_request_error", 408: "timeout_error", 413: "request_too_large",
    429: "rate_limit_error", 500: "api_error", 503: "overloaded_error",
}  # fmt: skip
LATER = {429: "1", 503: "5"}  # seconds, in Retry-After


def error_response(
    status: int, message: str, code: str = "", param: str | None = None, path: str = ""
) -> Any:
    """OpenAI's error object, or Anthropic's below its own paths."""
    headers = {"Retry-After": LATER[status]} if status in LATER else None
    return JSONResponse(error_body(status, message, code, param, path), status, headers)


def error_body(status: int, message: str, code: str = "", param: str | None = None, path: str = "") -> Any:
    kind = TYPES.get(status, "api_error")
    if path.startswith("/v1/messages"):
        return {"type": "error", "error": {"type": kind, "message": message}}
    return {"error": {"message": message, "type": kind, "param": param, "code": code or None}}


def refusal_response(error: Refused, path: str) -> Any:
    return error_response(error.status, error.message, error.code, path=path)


def invalid_response(error: ValidationError, path: str) -> Any:
    """The first thing that is wrong, by its place in the body."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or None
    message = f"{place}: {first['msg']}" if place else str(first["msg"])
    return error_response(400, message[:500], "invalid_value", place, path)
