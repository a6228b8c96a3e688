"""Who may see the page: browsers of this machine, at the address that was opened, with the key of this
server."""

from __future__ import annotations

import hmac
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES = ("127.0.0.1", "localhost", "[::1]")
TOKEN = "token"
SECONDS = 30 * 86400
# NiceGUI's templates are compiled in the browser, and it writes styles: that needs the two "unsafe" words.
# Nothing may come from elsewhere, be embedded, or be sent elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self'; connect-src 'self' {sockets}; worker-src 'self' blob:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; object-src 'none'"
)
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
REFUSED = (
    "<!doctype html><meta charset=utf-8>"
    "<title>sapwood</title><body style='font:16px system-ui;margin:9vh auto;"
    "max-width:34rem'><h1>sapwood</h1><p>This page is for the person who started it. Open the address that "
    "<code>sapwood ui</code> printed: it ends in <code>?token=…</code></p>"
    "<p lang=zh-CN>此页面只供启动它的人使用。请打开 <code>sapwood ui</code> 打印的地址，"
    "它以 <code>?token=…</code> 结尾。</p>"
)


class Guard:
    """An ASGI application around another one.

    Every request must name this machine (DNS rebinding), come from a page of this server (Origin) if a
    browser sent it from a page, and bring the key: once in the address, then in a cookie that no script can
    read and no other site sends.
    """

    def __init__(self, app: ASGIApp, *, token: str, port: int) -> None:
        self._app, self._token, self._port = app, token, port
        self._cookie = f"sapwood-{port}"
        self._hosts = {f"{name}:{port}" for name in NAMES}
        self._origins = {f"http://{host}" for host in self._hosts}
        sockets = " ".join(sorted(f"ws://{host}" for host in self._hosts if "[" not in host))
        self._headers = (*HEADERS, (b"content-security-policy", POLICY.format(sockets=sockets).encode()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        if refusal := self._refusal(headers):
            await _answer(scope, send, 403, refusal)
        elif self._known(headers):
            await self._app(scope, receive, self._with_headers(send))
        elif scope["type"] == "http" and (query := self._opened(scope)) is not None:
            await self._welcome(scope, send, query)
        else:
            await _answer(scope, send, 403, REFUSED)

    def _refusal(self, headers: dict[str, str]) -> str | None:
        if headers.get("host", "").lower() not in self._hosts:
            return "not the address of this server"
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in self._origins:
            return "not from a page of this server"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and "sec-fetch-mode" in headers:
            navigates = headers["sec-fetch-mode"] == "navigate"
            return None if navigates else "not from a page of this server"
        return None

    def _known(self, headers: dict[str, str]) -> bool:
        cookies = SimpleCookie()
        cookies.load(headers.get("cookie", ""))
        found = cookies.get(self._cookie)
        return found is not None and hmac.compare_digest(found.value.encode(), self._token.encode())

    def _opened(self, scope: Scope) -> str | None:
        """The rest of a query without the key; None if the query doesn't hold the key."""
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for key, value in pairs if key == TOKEN]
        if not given or not hmac.compare_digest(given[0].encode(), self._token.encode()):
            return None
        return urlencode([(key, value) for key, value in pairs if key != TOKEN])

    async def _welcome(self, scope: Scope, send: Send, query: str) -> None:
        """Leave the key in a cookie and take it out of the address."""
        cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={SECONDS}"
        to = f"/{scope['path'].lstrip('/')}" + (f"?{query}" if query else "")
        await _answer(scope, send, 303, "", [(b"set-cookie", cookie.encode()), (b"location", _ascii(to))])

    def _with_headers(self, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *self._headers]}
            await send(message)

        return sending


def _ascii(address: str) -> bytes:
    from urllib.parse import quote

    return quote(address, safe="/?&=%+-._~:,").encode()


async def _answer(
    scope: Scope, send: Send, status: int, body: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    if scope["type"] == "websocket":
        closing: dict[str, Any] = {"type": "websocket.close", "code": 4403}
        await send(closing)
        return
    content = body.encode()
    told = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-length", str(len(content)).encode()),
        (b"cache-control", b"no-store"),
        *(headers or []),
        *HEADERS,
    ]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": content})
