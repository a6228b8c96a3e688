"""Does the engine say what was trained? Asked at every start, before anybody else may ask.

An adapter that changes nothing answers as fluently as the right one, and so does a wrong adapter. So the
engine's log probabilities are held against those of training, as an export's are, and against the base's.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sapwood.endpoint.build import Files
from sapwood.endpoint.reference import TOLD, Line
from sapwood.endpoint.seen import Row, Seen, read_seen, write_seen
from sapwood.engine.ask import Asked
from sapwood.engine.llama import Llama

INERT = 1e-4  # nats: two right programs may differ by as much (`export.check.LEAST`)
SAMPLE = 3  # prompts that a later start asks of files which were proven whole
STEP = 4  # of an answer's positions, one in so many is asked
PART = 0.5  # of training's distance between adapter and base, which the engine must show at least


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the engine was found to say.

    difference: mean distance from training, in nats; limit: the most that is allowed. moved: mean distance
    from the base, in nats; effect: the same in training. fault: why the model is refused; empty if it isn't.
    """

    difference: float
    limit: float
    positions: int
    moved: float | None
    effect: float | None
    fault: str = ""

    def line(self) -> str:
        told = (
            f"log probabilities {self.difference:.4f} nat from training on average (limit {self.limit:.4f})"
        )
        return told if self.moved is None else f"{told}, {self.moved:.3f} from the base"


async def hold(engine: Llama, files: Files) -> Verdict:
    """Ask the fixed prompts. Files that are new to this llama.cpp are asked all of them. Known files are
    asked a sample, and all prompts if the sample leaves a doubt. Raises `wire.Refused` if the engine doesn't
    answer."""
    reference, folder = files.reference, files.folder
    if reference.effect is not None and reference.effect < INERT:
        fault = "the adapter changes nothing: its answers are the base's"
        return Verdict(math.nan, reference.limit, 0, None, reference.effect, fault)
    seen = await asyncio.to_thread(read_seen, files.seen, files.base, folder)
    if seen is not None:
        sampled = await _sampled(engine, files, seen)
        if not sampled.fault:
            return sampled
    verdict, seen = await _whole(engine, files)
    if not verdict.fault:
        await asyncio.to_thread(write_seen, files.seen, files.base, folder, seen)
    return verdict


def fault_at_first(asked: Asked, files: Files) -> str:
    """The quickest form, for one person's own conversation. Returns why llama.cpp differs from what was
    trained, at a few first positions; empty if it doesn't."""
    lines = files.reference.lines[:SAMPLE]
    found = [gap for line in lines for gap in _gaps(dict(line.top[0]), dict(asked.next(line.ids, TOLD)))]
    return _fault(_mean(found), None, None, files.reference.limit)


async def _whole(engine: Llama, files: Files) -> tuple[Verdict, Seen]:
    adapter, reference = files.adapter, files.reference
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
    difference, positions = _mean(found), sum(len(rows) for rows in told)
    firsts = [rows[0] for rows in told]
    if reference.first is None:
        fault = _fault(difference, None, None, reference.limit)
        return Verdict(difference, reference.limit, positions, None, None, fault), Seen(
            [0.0] * len(lines), firsts
        )
    asked = await asyncio.gather(*(_rows(engine, None, line, (0,)) for line in lines))
    plain = [rows[0] for rows in asked]
    apart = [_apart(*one) for one in zip(lines, firsts, plain, strict=True)]
    moved = _mean(apart)
    fault = _fault(difference, moved, reference.first, reference.limit)
    return Verdict(difference, reference.limit, positions, moved, reference.first, fault), Seen(apart, plain)


async def _sampled(engine: Llama, files: Files, seen: Seen) -> Verdict:
    """Ask a few first positions one after the other, so that what the prompts share is read once. The base's
    figures are those of the start at which all was asked."""
    reference, found, apart = files.reference, list[float](), list[float]()
    places = seen.telling(SAMPLE)
    for i in places:
        line = reference.lines[i]
        row = (await _rows(engine, files.adapter, line, (0,)))[0]
        found += _gaps(dict(line.top[0]), row)
        apart.append(_apart(line, row, seen.plain[i]))
    difference = _mean(found)
    if reference.first is None:
        fault = _fault(difference, None, None, reference.limit)
        return Verdict(difference, reference.limit, len(places), None, None, fault)
    moved, then = _mean(apart), _mean([seen.moved[i] for i in places])
    fault = _fault(difference, moved, then, reference.limit)
    return Verdict(difference, reference.limit, len(places), moved, then, fault)


def _fault(difference: float, moved: float | None, meant: float | None, limit: float) -> str:
    """``meant``: how far the adapter moves the base, by training or when all was asked."""
    if not difference <= limit:  # NaN fails too
        return (
            "llama.cpp's answers aren't those of the trained model: log probabilities differ by "
            f"{difference:.4f} nat on average, and {limit:.4f} is allowed"
        )
    if moved is not None and meant is not None and not moved >= PART * meant:
        return f"llama.cpp answers as the base does: {moved:.5f} nat apart, and {meant:.5f} in training"
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


def _apart(line: Line, row: Row, plain: Row) -> float:
    """Mean distance between adapter and base in the engine, at a first position."""
    floors = min(row.values()), min(plain.values())
    return _mean([abs(row.get(id, floors[0]) - plain.get(id, floors[1])) for id, _ in line.top[0]])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
