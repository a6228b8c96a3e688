"""What the person who starts the server decides about its clients."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """``hosts``: names under which the server may be asked, any name if None; ``origins``: of pages that may
    ask (``*``: any); ``key``: what every request must carry, None for nothing."""

    hosts: Collection[str] | None
    origins: Collection[str] = ()
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Manners:
    """temperature: of requests that name none. most_bytes, body_seconds: of a request's body. log_prompts:
    write what is asked into the log."""

    temperature: float = 0.0
    most_bytes: int = 4 << 20
    body_seconds: float = 30.0
    log_prompts: bool = False


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
