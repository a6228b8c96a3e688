"""Which hubs can be reached from here."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

PATIENCE = 2.0  # seconds: who answers at all does so in a few tenths


def hub_address() -> str:
    """Hugging Face's, or that of its mirror (``HF_ENDPOINT``)."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def answers(endpoint: str) -> bool:
    """Can a connection be made? Nothing is asked for."""
    parts = urlsplit(endpoint)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=PATIENCE):
            return True
    except OSError:
        return False


class Asking:
    """`answers` of several addresses, asked beside whatever else is done. A name that isn't resolved can't be
    given up, so each is asked in a thread that nobody waits for in the end."""

    def __init__(self, endpoints: Mapping[str, str]) -> None:
        self._until = time.monotonic() + PATIENCE
        self._found: dict[str, bool] = {}
        self._threads = {
            name: threading.Thread(target=self._ask, args=(name, endpoint), daemon=True)
            for name, endpoint in endpoints.items()
        }
        for thread in self._threads.values():
            thread.start()

    def answers(self) -> dict[str, bool]:
        """By name; False where none came in time."""
        for thread in self._threads.values():
            thread.join(max(0.0, self._until - time.monotonic()))
        return {name: self._found.get(name, False) for name in self._threads}

    def _ask(self, name: str, endpoint: str) -> None:
        self._found[name] = answers(endpoint)
