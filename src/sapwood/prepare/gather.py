"""The data of a run, read and proven: by this process alone, or by two that take blocks of rows in turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.config.sections import RunConfig
from sapwood.data.files.folder import held_out_files
from sapwood.data.files.share import ALL, Share
from sapwood.data.files.sources import size_of
from sapwood.data.formats import ReadReport, read_conversations
from sapwood.errors import DataError, Problem
from sapwood.machine.beside import beside, can_fork
from sapwood.prepare.cache import (
    Chunk,
    example_chunks,
    open_blocks,
    pack_blocks,
    read_examples,
    read_tensors,
    tensor_chunks,
)
from sapwood.prepare.overlap import Overlap
from sapwood.prepare.rows import Preparation, Prepared
from sapwood.prepare.split import Said, hold_out
from sapwood.template.render import Renderer
from sapwood.template.unrender import unrender
from sapwood.types import Conversation, Message, RowId

LARGE = 8 << 20  # bytes of data from which on a second process is worth its start
CHANGED = "the data changed while they were read"
Held = Callable[[RowId], bool]


@dataclass(frozen=True, slots=True)
class Gathered:
    """What `gather` found. ``learnt``: which rows of ``said`` are learnt, None for all; ``asked``: held-out
    conversations that have a prompt."""

    train: Prepared
    measured: Prepared | None
    said: Said
    learnt: NDArray[np.bool_] | None
    asked: list[Conversation]
    notes: ReadReport


def gather(config: RunConfig, renderer: Renderer, vocab_rows: int, length: int) -> Gathered:
    """Read, split and prove. Raises DataError with every problem of every row."""

    def sides() -> list[Preparation]:
        known: dict[str, Any] = {"max_length": length, "vocab_rows": vocab_rows}
        return [Preparation(renderer, config.template, **known) for _ in range(2)]

    overlap = _overlap(config, renderer)
    if can_fork() and size_of([*config.data.train, *_eval_paths(config)]) > LARGE:
        try:
            return _gather(config, renderer, sides, _in_two, overlap)
        except DataError:
            pass  # read again by one process, which finds the problems of all rows, in their order
    return _gather(config, renderer, sides, _alone, overlap)


def _overlap(config: RunConfig, renderer: Renderer) -> list[str]:
    """What held-out files and the rows to learn from have in common, in words, where that is allowed. Raises
    DataError where it isn't."""
    paths = _eval_paths(config)
    if not paths:
        return []
    train_on = config.template.train_on
    try:
        found = Overlap.of(read(config, renderer, paths), read(config, renderer, config.data.train), train_on)
    except DataError:
        return []  # the reading that follows says all that is wrong
    if not found.pairs:
        return []
    if config.data.overlap == "error":
        raise DataError([found.problem()])
    return [", first ".join(found.told())]


def read(
    config: RunConfig,
    renderer: Renderer,
    paths: Sequence[str],
    notes: ReadReport | None = None,
    share: Share = ALL,
) -> Iterator[Conversation]:
    """The conversations of ``paths``. Raises DataError behind the last good one."""
    found = read_conversations(config.data, paths, report=notes, share=share)
    return unrender(found, renderer, config.template.train_on)


@dataclass(slots=True)
class _Part:
    """What was found in a share of the rows."""

    said: Said
    sides: list[Preparation]
    asked: list[Conversation]
    notes: ReadReport


Run = Callable[[Callable[[Share], _Part]], _Part]


def _gather(
    config: RunConfig,
    renderer: Renderer,
    sides: Callable[[], list[Preparation]],
    run: Run,
    overlap: list[str],
) -> Gathered:
    """``run`` calls a function for all shares, and gives what was found in all of them."""
    said = learnt = notes = None
    if _eval_paths(config) or config.data.eval == 0:
        found = run(lambda share: _pass(config, renderer, share, sides(), None))
        said, notes = found.said, found.notes
    else:  # read once to know what each row says, and so which are held out
        first = run(lambda share: _pass(config, renderer, share, [], None))
        said, notes = first.said, first.notes
        held = hold_out(said, float(config.data.eval), config.train.seed)
        learnt = ~held

        def is_held(row: RowId) -> bool:
            place = said.place(row)
            if place < 0:
                raise DataError(CHANGED, str(row), mend="start again")
            return bool(held[place])

        found = run(lambda share: _pass(config, renderer, share, sides(), is_held))
    notes.said += overlap
    train, measured = _finish(found.sides, config.data.eval != 0)
    if learnt is not None and train.report.rows != np.count_nonzero(learnt):
        raise DataError(CHANGED, "data.train", mend="start again")
    return Gathered(train, measured, said, learnt, found.asked, notes)


def _eval_paths(config: RunConfig) -> list[str]:
    return held_out_files(config.data)


def _pass(
    config: RunConfig, renderer: Renderer, share: Share, sides: list[Preparation], is_held: Held | None
) -> _Part:
    """Read the rows of a share, and prepare each on its side; without sides only what they say."""
    part = _Part(Said(config.template.train_on), sides, [], ReadReport())

    def take(conversation: Conversation, held: bool) -> bool:
        sides[held].add(conversation)
        if held and conversation.messages:  # nobody asks a document
            part.asked.append(conversation)
        return any(side.hopeless for side in sides)

    for conversation in read(config, renderer, config.data.train, part.notes, share):
        if is_held is None:
            part.said.add(conversation)
        if sides and take(conversation, is_held is not None and is_held(conversation.row)):
            return part
    if sides:
        for conversation in read(config, renderer, _eval_paths(config), part.notes, share):
            if take(conversation, True):
                return part
    return part


def _finish(sides: Sequence[Preparation], measures: bool) -> tuple[Prepared, Prepared | None]:
    """What was proven of both sides. Raises DataError with the problems of both."""
    found: list[Prepared] = []
    problems: list[Problem] = []
    for side in sides[: 1 + measures]:
        try:
            found.append(side.finish())
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return found[0], found[1] if measures else None


def _alone(work: Callable[[Share], _Part]) -> _Part:
    return work(ALL)


# --- in two processes --------------------------------------------------------------------------------------


def _in_two(work: Callable[[Share], _Part]) -> _Part:
    """Raises DataError where either found anything wrong."""
    own, file = beside(lambda: _packed(work(Share(1, 2))), lambda: work(Share(0, 2)))
    if file is None:
        raise DataError("the second process found a problem")
    with file:
        try:
            _absorb(own, *open_blocks(file))
        except (ValueError, KeyError) as error:
            raise DataError(str(error)) from None
    return own


def _packed(part: _Part) -> list[Chunk]:
    said, sources = part.said.tensors()
    states = [side.state() for side in part.sides]
    facts = {
        "sources": sources,
        "sides": [facts for facts, _, _ in states],
        "asked": [dataclasses.asdict(one) for one in part.asked],
        "notes": dataclasses.asdict(part.notes),
    }
    blocks = [tensor_chunks(said, {})]
    for _, examples, lengths in states:
        blocks += [example_chunks(examples), tensor_chunks({"lengths": lengths}, {})]
    return pack_blocks(facts, blocks)


def _absorb(own: _Part, facts: dict[str, Any], blocks: Sequence[memoryview]) -> None:
    own.notes.add(ReadReport(**facts["notes"]))
    sources = [*own.notes.formats]
    own.said = Said.merged(own.said, read_tensors(blocks[0])[0], facts["sources"])
    for side, state, at in zip(own.sides, facts["sides"], range(1, len(blocks), 2), strict=True):
        lengths = read_tensors(blocks[at + 1])[0]["lengths"]
        side.absorb(state, read_examples(blocks[at]), lengths, sources)
    asked = [*own.asked, *map(_conversation, facts["asked"])]
    own.asked = sorted(asked, key=lambda one: (sources.index(one.row.source), one.row.index))


def _conversation(fields: dict[str, Any]) -> Conversation:
    messages = [replace(Message(**one), tool_calls=tuple(one["tool_calls"])) for one in fields["messages"]]
    return Conversation(RowId(**fields["row"]), tuple(messages), tuple(fields["tools"]), fields["text"])
