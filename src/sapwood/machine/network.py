"""Which hubs can be reached from here."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit


def hub_address() -> str:
    """Hugging Face's, or that of its mirror (``HF_ENDPOINT``)."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def answers(endpoint: str) -> bool:
    """Can a connection be made? Nothing is asked for."""
    parts = urlsplit(endpoint)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=3):
            return True
    except OSError:
        return False
