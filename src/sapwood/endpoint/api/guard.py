"""Who may ask: the key, and for pages in a browser the host and the origin that they name.

A page of the open web can make a browser ask a local address: the page's own name is made to lead there (DNS
rebinding). The Host header, or the Origin, then names that page.
"""

from __future__ import annotations

import hmac
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from sapwood.endpoint.api.errors import error_response
from sapwood.endpoint.api.rules import Rules

OPEN = ("/health",)  # needs no key: a proxy or systemd asks


class Guard:
    """The guard, which runs before everything else."""

    def __init__(self, app: Any, rules: Rules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        refused = self._refused(scope["path"], scope["method"], Headers(scope=scope))
        await (refused or self._app)(scope, receive, send)

    def _refused(self, path: str, method: str, headers: Headers) -> Any:
        rules = self._rules
        host = host_of(headers.get("host", ""))
        if rules.hosts is not None and host not in rules.hosts:
            why = (
                f"the request names the host {host!r}, which isn't this server; --allow-host NAME adds a name"
            )
            return error_response(403, why, "host_refused", path=path)
        origin = headers.get("origin")
        if origin is not None and not self._may_ask(origin, headers.get("host", "")):
            why = f"a page of {origin!r} may not ask this server; --cors ORIGIN allows it"
            return error_response(403, why, "origin_refused", path=path)
        if rules.key is None or path in OPEN or method == "OPTIONS":
            return None
        if not hmac.compare_digest(_given_key(headers).encode(), rules.key.encode()):
            why = "the API key is missing or wrong: Authorization: Bearer KEY, or x-api-key: KEY"
            return error_response(401, why, "invalid_api_key", path=path)
        return None

    def _may_ask(self, origin: str, host: str) -> bool:
        """Whether an origin is the server's own, or one that was allowed."""
        named = self._rules.origins
        return "*" in named or origin in named or urlsplit(origin).netloc == host


def host_of(header: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{header}").hostname or "").rstrip(".").lower()
    except ValueError:
        return ""


def _given_key(headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
