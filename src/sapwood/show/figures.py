"""Figures and foreign text as a person reads them in a terminal."""

from __future__ import annotations

import unicodedata

from sapwood.types import Sample

UNKNOWN = "-"


def number(value: float | None, digits: int = 4) -> str:
    """A figure, for example a loss; ``-`` if it isn't known."""
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def change(value: float, before: float) -> str:
    """``-0.9000, -30 %``: how far ``value`` is from ``before``."""
    share = f", {100 * (value - before) / before:+.0f} %" if before else ""
    return f"{value - before:+.4f}{share}"


def duration(seconds: float) -> str:
    """``45s``, ``2m10s``, ``1h02m``, ``3d04h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def size(num_bytes: float) -> str:
    """``1.8 GB``, in powers of 1000."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes:.0f} B"


def steps(step: int, total: int | None) -> str:
    """``12/120``."""
    return str(step) if total is None else f"{step}/{total}"


def stop_reason(sample: Sample) -> str:
    """How an answer ended; a model that never stops by itself was not taught to."""
    if sample.stopped:
        return "stopped by itself"
    return f"cut at {sample.num_tokens} token{'' if sample.num_tokens == 1 else 's'}"


def visible(text: str, limit: int | None = None) -> str:
    r"""``text`` with control and direction characters written out (``\x1b``), newlines kept.

    A model can write anything, and a terminal obeys escape sequences. ``limit`` is in characters.
    """
    cut = text if limit is None or len(text) <= limit else f"{text[:limit]}…"
    return "".join(_visible(character) for character in cut)


def _visible(character: str) -> str:
    if character == "\n":
        return character
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _DIRECTIONS:
        code = ord(character)
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    return character


# Marks, embeddings, overrides and isolates: they reorder what stands after them on the line.
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
