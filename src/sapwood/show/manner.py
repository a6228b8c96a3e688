"""How this process speaks: in colour or not, quietly or not, and what it shows while one waits."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol


class Terminal(Protocol):
    def isatty(self) -> bool: ...


def colours(stream: Terminal) -> bool:
    """May escape sequences be written? To a terminal that knows them, unless NO_COLOR is set (no-color.org)
    or `--no-color` was given."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def quiet() -> bool:
    """`-q` was given: results and errors, and nothing on the way."""
    return not logging.getLogger("sapwood").isEnabledFor(logging.WARNING)


@contextmanager
def waiting(text: str) -> Generator[None]:
    """A spinner on stderr with ``text``, for as long as the block takes; nothing where nobody looks."""
    if quiet() or not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        yield
        return
    from rich.console import Console

    with Console(stderr=True, highlight=False).status(text):
        yield
