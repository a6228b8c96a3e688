"""Only this machine, through its own address, with the key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sapwood.page.guard import Guard

TOKEN, PORT = "k" * 43, 8800
OWN = ("host", f"127.0.0.1:{PORT}")
KEY = ("cookie", f"sapwood-{PORT}={TOKEN}")


async def inner(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside"})


def asked(
    *headers: tuple[str, str], kind: str = "http", path: str = "/", query: str = ""
) -> list[dict[str, Any]]:
    """What comes back for a request with these headers."""
    scope = {
        "type": kind, "path": path, "query_string": query.encode(), "method": "GET",
        "headers": [(key.encode(), value.encode()) for key, value in headers],
    }  # fmt: skip
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    guard: Any = Guard(inner, token=TOKEN, port=PORT)
    asyncio.run(guard(scope, None, send))
    return sent


def status(*headers: tuple[str, str], **about: str) -> int:
    return int(asked(*headers, **about)[0]["status"])


def test_with_the_key_in_its_cookie_the_page_answers() -> None:
    assert status(OWN, KEY) == 200


def test_without_the_key_nobody_is_let_in() -> None:
    assert status(OWN) == 403
    assert status(OWN, ("cookie", f"sapwood-{PORT}=wrong")) == 403
    assert status(OWN, query="token=wrong") == 403


def test_the_key_in_the_address_becomes_a_cookie_that_no_script_reads_and_leaves_the_address() -> None:
    start = asked(OWN, path="/run/x", query=f"tab=log&token={TOKEN}")[0]
    headers = dict(start["headers"])
    assert start["status"] == 303 and headers[b"location"] == b"/run/x?tab=log"
    assert b"HttpOnly" in headers[b"set-cookie"] and b"SameSite=Strict" in headers[b"set-cookie"]


@pytest.mark.parametrize(
    "host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1:1", f"0.0.0.0:{PORT}", ""]
)
def test_another_host_name_is_refused_even_with_the_key(host: str) -> None:
    assert status(("host", host), KEY) == 403


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", f"https://127.0.0.1:{PORT}"]
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_page_of_another_origin_is_refused_even_with_the_key(origin: str, kind: str) -> None:
    first = asked(OWN, KEY, ("origin", origin), kind=kind)[0]
    assert first.get("status") == 403 or first == {"type": "websocket.close", "code": 4403}


def test_a_socket_needs_the_key_too() -> None:
    own = ("origin", f"http://localhost:{PORT}")
    assert asked(OWN, own, kind="websocket")[0]["type"] == "websocket.close"
    assert asked(OWN, own, KEY, kind="websocket")[0]["type"] == "websocket.accept"


def test_a_request_that_another_site_caused_is_refused() -> None:
    cross = (("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors"))
    assert status(OWN, KEY, *cross) == 403


def test_the_address_that_follows_the_key_is_never_another_site() -> None:
    start = asked(OWN, path="//evil.example/", query=f"token={TOKEN}")[0]
    assert dict(start["headers"])[b"location"] == b"/evil.example/"


def test_every_page_says_what_it_may_load_and_that_nothing_may_embed_it() -> None:
    policy = dict(asked(OWN, KEY)[0]["headers"])[b"content-security-policy"].decode()
    assert (
        "default-src 'none'" in policy
        and "frame-ancestors 'none'" in policy
        and "form-action 'self'" in policy
    )
    assert "*" not in policy and "http:" not in policy
