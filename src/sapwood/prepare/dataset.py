"""The rows of a run, read and proven: the learnt ones and the held-out ones."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sapwood.config.sections import RunConfig
from sapwood.data.files.sources import size_of
from sapwood.data.formats import ReadReport, read_conversations
from sapwood.data.held_out import held_out_files
from sapwood.errors import DataError, Problem
from sapwood.machine.doing import counted, doing
from sapwood.machine.system import cores, old_objects_kept
from sapwood.prepare.faults import Faults
from sapwood.prepare.overlap import Overlap
from sapwood.prepare.pool import LARGE, prove_batches
from sapwood.prepare.report import Preparation, Tally
from sapwood.prepare.rows import BATCH, Rules
from sapwood.prepare.split import RowHashes, hold_out
from sapwood.template.render import Renderer
from sapwood.template.said.fit import refitted
from sapwood.template.said.strip import strip_control_text
from sapwood.template.unrender import unrender
from sapwood.types import Conversation, RowId

TRAIN, EVAL = 0, 1  # the sides
CHANGED = "the data changed while they were read"


@dataclass(frozen=True, slots=True)
class Dataset:
    """The rows of a run. ``learnt``: which rows of ``hashes`` are learnt, None for all; ``asked``: held-out
    conversations that have a prompt."""

    train: Preparation
    eval: Preparation | None
    hashes: RowHashes
    learnt: NDArray[np.bool_] | None
    asked: list[Conversation]
    notes: ReadReport


def read(
    config: RunConfig, renderer: Renderer, paths: Sequence[str], notes: ReadReport | None = None
) -> Iterator[Conversation]:
    """The conversations of ``paths``. Raises DataError behind the last good one."""
    found = read_conversations(config.data, paths, report=notes)
    if config.data.strip_control_text:
        found = strip_control_text(found, renderer.end_texts)
    found = unrender(found, renderer, config.template.train_on)
    return found if notes is None else _told(found, renderer, notes)


def _told(found: Iterable[Conversation], renderer: Renderer, notes: ReadReport) -> Iterator[Conversation]:
    """The same conversations. Counts those whose calls the template is given in another form than the
    file's."""
    for conversation in found:
        what = refitted(conversation, renderer.fitted(conversation))
        if what is not None:
            notes.counts[what] = notes.counts.get(what, 0) + 1
        yield conversation


def prepare_dataset(
    config: RunConfig, renderer: Renderer, rules: Rules, processes: int | None = None
) -> Dataset:
    """Read, split and prove. The result doesn't depend on ``processes``, by default one for each core if
    there are so much data. Raises DataError with every problem of every row."""
    count = _processes(config) if processes is None else processes
    reading = _Reading(config, renderer)
    faults = Faults(rules)  # of both sides: a fault that both have is told once
    totals = Tally(rules, faults), Tally(rules, faults)
    with (
        old_objects_kept(),
        closing(prove_batches(_batches(reading.sides()), renderer, rules, count)) as proven,
        doing("proving rows") as far,
    ):
        for side, batch in proven:
            totals[side].add(batch)
            far(f"{sum(total.rows for total in totals):,}")
            if totals[side].hopeless:
                break
    train, measured = _finish(totals, renderer, config.data.eval != 0, _overlapping(reading))
    learnt = None if reading.held is None else ~reading.held
    if learnt is not None and train.report.rows != np.count_nonzero(learnt):
        raise DataError(CHANGED, "data.train", mend="start again")
    return Dataset(train, measured, reading.hashes, learnt, reading.asked, reading.notes)


def _processes(config: RunConfig) -> int:
    return min(cores(), size_of([*config.data.train, *held_out_files(config.data)]) // LARGE + 1)


@dataclass(slots=True)
class _Reading:
    """One pass over the rows, and its results. ``held``: which rows of ``hashes`` are held out; None if
    held-out rows have a file of their own."""

    config: RunConfig
    renderer: Renderer
    hashes: RowHashes = field(init=False)
    held: NDArray[np.bool_] | None = None
    asked: list[Conversation] = field(default_factory=list[Conversation])
    notes: ReadReport = field(default_factory=ReadReport)
    overlap: Overlap = field(init=False)

    def __post_init__(self) -> None:
        self.hashes = RowHashes(self.config.template.train_on)
        self.overlap = Overlap(self.config.template.train_on)

    def sides(self) -> Generator[tuple[int, Conversation]]:
        """Each conversation with its side."""
        config, renderer = self.config, self.renderer
        held_out = held_out_files(config.data)
        if splits := not held_out and config.data.eval != 0:
            # Which rows are held out depends on all rows, so all are read once before.
            for conversation in counted("reading rows", read(config, renderer, config.data.train)):
                self.hashes.add(conversation)
            self.held = hold_out(self.hashes, float(config.data.eval), config.train.seed)
        else:
            with suppress(DataError):  # told when they are read again, behind the rows to learn
                self.overlap.hold(read(config, renderer, held_out))
        for conversation in read(config, renderer, config.data.train, self.notes):
            if not splits:
                self.hashes.add(conversation)
                self.overlap.see(conversation)
            yield self._on(self._side(conversation.row), conversation)
        for conversation in read(config, renderer, held_out, self.notes):
            yield self._on(EVAL, conversation)

    def _on(self, side: int, conversation: Conversation) -> tuple[int, Conversation]:
        if side == EVAL and conversation.messages:  # a document has no question
            self.asked.append(conversation)
        return side, conversation

    def _side(self, row: RowId) -> int:
        if self.held is None:
            return TRAIN
        place = self.hashes.place(row)
        if place < 0:
            raise DataError(CHANGED, str(row), mend="start again")
        return EVAL if self.held[place] else TRAIN


def _batches(sides: Iterable[tuple[int, Conversation]]) -> Generator[tuple[int, list[Conversation]]]:
    """`BATCH` conversations of one side at a time, in the order in which batches are full."""
    waiting: dict[int, list[Conversation]] = {TRAIN: [], EVAL: []}
    for side, conversation in sides:
        waiting[side].append(conversation)
        if len(waiting[side]) == BATCH:
            yield side, waiting[side]
            waiting[side] = []
    yield from ((side, rest) for side, rest in waiting.items() if rest)


def _overlapping(reading: _Reading) -> list[Problem]:
    """Held-out rows that are learnt, if data.overlap doesn't allow them. If it does, they are counted."""
    found = reading.overlap
    if not found.pairs:
        return []
    if reading.config.data.overlap == "error":
        return [found.problem()]
    reading.notes.said.append(", first ".join(found.told()))
    return []


def _finish(
    totals: Sequence[Tally], renderer: Renderer, measures: bool, known: Sequence[Problem]
) -> tuple[Preparation, Preparation | None]:
    """What was proven of both sides. Raises DataError with the problems of both."""
    found: list[Preparation] = []
    problems = [*known]
    for total in totals[: 1 + measures]:
        try:
            found.append(total.finish(renderer))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError([*dict.fromkeys(problems)])
    return found[0], found[1] if measures else None
