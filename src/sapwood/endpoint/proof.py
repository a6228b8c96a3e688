"""Does the engine say what was trained? Asked at every start, before anybody else may ask.

An adapter that changes nothing, or another one than was meant, answers as fluently as the right one. So its
log probabilities are held against those of training, as an export's are, and against those of the base.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sapwood.endpoint.reference import TOLD, Line, Reference
from sapwood.engine.llama import Llama

INERT = 1e-4  # nats: two programs differ by as much without any cause (`export.check.LEAST`)
STEP = 4  # of an answer's positions, one in so many is asked
PART = 0.5  # of the distance between adapter and base in training, that must be there in the engine

Row = dict[int, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """``difference`` from training, of ``limit`` that is allowed; ``moved`` from the base, in nats, and what
    training says of that; ``fault``: why it is refused, empty if it isn't."""

    difference: float
    limit: float
    positions: int
    moved: float | None
    effect: float | None
    fault: str = ""

    def line(self) -> str:
        told = f"mean |Δ log p| {self.difference:.4f} nat from training (limit {self.limit:.4f})"
        return told if self.moved is None else f"{told}, {self.moved:.3f} from the base"


async def hold(engine: Llama, adapter: Path | None, reference: Reference) -> Verdict:
    """Ask the fixed prompts. Raises `wire.Refused` where the engine doesn't answer."""
    if reference.effect is not None and reference.effect < INERT:
        fault = "it changes nothing: it answers as its base does"
        return Verdict(math.nan, reference.limit, 0, None, reference.effect, fault)
    lines = reference.lines
    told = await asyncio.gather(
        *(_rows(engine, adapter, line, range(0, len(line.answer) + 1, STEP)) for line in lines)
    )
    found = [
        gap
        for line, rows in zip(lines, told, strict=True)
        for place, row in rows.items()
        for gap in _gaps(dict(line.top[place]), row)
    ]
    positions = sum(len(rows) for rows in told)
    difference = sum(found) / len(found) if found else math.nan
    moved = None
    if reference.first is not None:
        plain = await asyncio.gather(*(_rows(engine, None, line, (0,)) for line in lines))
        moved = _moved(lines, told, plain)
    fault = _fault(difference, moved, reference)
    return Verdict(difference, reference.limit, positions, moved, reference.first, fault)


def _fault(difference: float, moved: float | None, reference: Reference) -> str:
    if not difference <= reference.limit:  # NaN fails too
        return (
            f"it doesn't say what was trained: log p differs by {difference:.4f} nat in the mean, "
            f"{reference.limit:.4f} is allowed"
        )
    if moved is not None and reference.first is not None and not moved >= PART * reference.first:
        return f"it answers as its base does: {moved:.5f} nat apart, {reference.first:.5f} in training"
    return ""


async def _rows(engine: Llama, adapter: Path | None, line: Line, places: Iterable[int]) -> dict[int, Row]:
    """What the engine finds likeliest at some positions of the trained answer."""
    rows: dict[int, Row] = {}
    for place in places:
        likely = await engine.likely(adapter, line.ids + line.answer[:place], TOLD, patient=True)
        rows[place] = {one.id: one.log_prob for one in likely}
    return rows


def _gaps(trained: Row, told: Row) -> list[float]:
    least = min(told.values())
    return [abs(log_p - told.get(id, min(least, log_p))) for id, log_p in trained.items()]


def _moved(lines: list[Line], told: list[dict[int, Row]], plain: list[dict[int, Row]]) -> float:
    """Mean distance between adapter and base in the engine, at the first positions."""
    found: list[float] = []
    for line, with_adapter, without in zip(lines, told, plain, strict=True):
        floors = min(with_adapter[0].values()), min(without[0].values())
        found += [
            abs(with_adapter[0].get(id, floors[0]) - without[0].get(id, floors[1])) for id, _ in line.top[0]
        ]
    return sum(found) / len(found) if found else math.nan
