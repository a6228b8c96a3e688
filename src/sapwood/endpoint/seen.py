"""What an engine answered when it was held against training at every position. The answers are kept, and the
next start asks only a sample."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sapwood.base.cache import file_sha256, write_atomic
from sapwood.run.files import MANIFEST

Row = dict[int, float]


@dataclass(frozen=True, slots=True)
class Seen:
    """What was measured of an adapter when every prompt was asked.

    Attributes:
        moved: for each line, the mean distance in nats between adapter and base in the engine.
        plain: for each line, what the base alone finds likeliest there.
    """

    moved: list[float]
    plain: list[Row]

    def telling(self, count: int) -> list[int]:
        """The lines at which adapter and base are farthest apart: there a wrong adapter shows first."""
        return sorted(range(len(self.moved)), key=lambda i: -self.moved[i])[:count]


def read_seen(place: Path, base: Path, folder: Path) -> Seen | None:
    """None if nothing was kept, or of other files or of another llama.cpp."""
    try:
        told: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        if told.pop("of") != _of(base, folder):
            return None
        plain = [{int(id): float(p) for id, p in row.items()} for row in told["plain"]]
        return Seen([float(one) for one in told["moved"]], plain)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_seen(place: Path, base: Path, folder: Path, seen: Seen) -> None:
    """A disk that refuses is no error: the next start asks everything again."""
    try:
        write_atomic(place, json.dumps({"of": _of(base, folder), **asdict(seen)}).encode())
    except OSError:
        return


def _of(base: Path, folder: Path) -> list[str]:
    return [file_sha256(base), file_sha256(folder / MANIFEST), version("xllamacpp")]
