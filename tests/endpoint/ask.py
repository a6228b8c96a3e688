"""Plain requests, for what no client sends by itself."""

from __future__ import annotations

from typing import Any

import httpx

HELLO = [{"role": "user", "content": "Hello"}]


def post(url: str, path: str, *, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    return httpx.post(url + path, json=body, headers=headers, timeout=60)


def chat(url: str, model: str, *, content: str = "Hello", **more: Any) -> dict[str, Any]:
    body = {"max_tokens": 12, **more, "model": model, "messages": [{"role": "user", "content": content}]}
    response = post(url, "/v1/chat/completions", **body)
    assert response.status_code == 200, response.text
    return response.json()


def said(url: str, model: str, content: str = "Hello", **more: Any) -> str:
    return chat(url, model, content=content, **more)["choices"][0]["message"]["content"]


def error(response: httpx.Response) -> dict[str, Any]:
    found = response.json()["error"]
    assert {"message", "type"} <= found.keys()
    return found
