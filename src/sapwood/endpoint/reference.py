"""What training says after the fixed prompts, kept beside the files that an engine loads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ADAPTER, REFERENCE = "adapter.gguf", "reference.json"
KEPT = 20  # likeliest tokens that are kept of each position
TOLD = 64  # likeliest tokens that an engine tells; what isn't among them counts as the last of them


@dataclass(frozen=True, slots=True)
class Line:
    """A prompt, the trained model's greedy answer to it, and what it found likeliest on the way.

    top: for each position of the answer and the one behind it, `KEPT` tokens with their log p in nats.
    """

    ids: list[int]
    answer: list[int]
    top: list[list[tuple[int, float]]]


@dataclass(frozen=True, slots=True)
class Reference:
    """The truth that a served adapter is held against.

    Attributes:
        limit: mean |difference of log p| in nats that the number formats of the files explain.
        effect: mean |difference| between adapter and base in training's own arithmetic, over all positions;
            ``first``: at the first positions alone, as an engine can tell it. None of a base.
    """

    lines: list[Line]
    limit: float
    effect: float | None
    first: float | None

    def write(self, folder: Path) -> None:
        (folder / REFERENCE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Reference:
        told: dict[str, Any] = json.loads((folder / REFERENCE).read_text(encoding="utf-8"))
        lines = [
            Line(
                one["ids"],
                one["answer"],
                [[(int(id), float(p)) for id, p in row] for row in one["top"]],
            )
            for one in told.pop("lines")
        ]
        return cls(lines, **told)
