"""Which conversations are held out, and which repeat or contradict each other."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from json.encoder import encode_basestring

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import DataError, row_count
from sapwood.prepare.answers import answers_of
from sapwood.types import Conversation, Message, RowId

Places = NDArray[np.int64]


class RowHashes:
    """What each row says, as hashes of 32 bytes: one for its prompt, one for the whole row, and one for each
    learnt answer together with all that stands before the answer (see `answers_of`).

    A prompt is the system prompt, the tools, and all but the last answer. The hashes of prompt and row don't
    depend on which turns are trained. ``train_on``: which answers are learnt, as `template.train_on` says.
    """

    def __init__(self, train_on: str = "assistant") -> None:
        self._train_on = train_on
        self._prompts, self._wholes = bytearray(), bytearray()
        self._taught, self._owners = bytearray(), array("q")  # answers that are learnt, and the row of each
        self._sources: dict[str, int] = {}
        self._rows = array("i"), array("q"), array("q")  # source, index, line

    @classmethod
    def of(cls, conversations: Iterable[Conversation]) -> RowHashes:
        hashes = cls()
        for conversation in conversations:
            hashes.add(conversation)
        return hashes

    def __len__(self) -> int:
        return len(self._rows[0])

    def add(self, conversation: Conversation) -> None:
        turns = [_turn(message) for message in conversation.messages]
        tools, text = list(conversation.tools), conversation.text
        rest = f"],{_json(tools)},{_json(text)}]" if tools or text is not None else "],[],null]"
        answered = bool(turns) and conversation.messages[-1].role == "assistant"
        prompt = f"[[{','.join(turns[:-1] if answered else turns)}{rest}"
        self._prompts += hashlib.sha256(prompt.encode()).digest()
        self._wholes += hashlib.sha256(f"[[{','.join(turns)}{rest}".encode()).digest()
        for answer in answers_of(conversation, self._train_on):
            self._taught += answer
            self._owners.append(len(self))
        row = conversation.row
        source, index, line = self._rows
        source.append(self._sources.setdefault(row.source, len(self._sources)))
        index.append(row.index)
        line.append(row.line or 0)

    def place(self, row: RowId) -> int:
        """Where a row stands; -1 if it isn't there. Rows may be missing between others."""
        first, last = self._runs.get(row.source, (0, 0))
        at = bisect.bisect_left(self._rows[1], row.index, first, last)
        return at if at < last and self.row(at) == row else -1

    @cached_property
    def _runs(self) -> dict[str, tuple[int, int]]:
        """Where the rows of each source are, in rising order: (first, behind the last)."""
        source, index = np.array(self._rows[0], np.int32), np.array(self._rows[1], np.int64)
        begins = np.flatnonzero((np.diff(source) != 0) | (np.diff(index) <= 0)) + 1
        bounds = [0, *begins.tolist(), len(source)]
        names = list(self._sources)
        runs: dict[str, tuple[int, int]] = {}
        for first, last in itertools.pairwise(bounds):
            if first < last:
                runs.setdefault(names[source[first]], (first, last))
        return runs

    def row(self, at: int) -> RowId:
        source, index, line = self._rows
        return RowId(list(self._sources)[source[at]], index[at], line[at] or None)

    def prompts(self) -> Iterator[tuple[bytes, Places]]:
        """For each prompt, its hash and the rows that have this prompt."""
        for places in _equal(self._prompts):
            yield self._hash(self._prompts, int(places[0])), places

    def together(self) -> list[tuple[bytes, Places]]:
        """The groups of rows that may not be split, each with a hash of its own. Rows with one prompt are a
        group, and so are rows that learn one answer behind the same turns."""
        prompts = list(self.prompts())
        group = np.empty(len(self), np.int64)
        for number, (_, places) in enumerate(prompts):
            group[places] = number
        roots = list(range(len(prompts)))

        def root(at: int) -> int:
            while roots[at] != at:
                roots[at] = roots[roots[at]]
                at = roots[at]
            return at

        owners = np.array(self._owners, np.int64)
        for same in _equal(self._taught, 2):
            first, *others = np.unique(group[owners[same]]).tolist()
            for other in others:
                roots[root(other)] = root(first)
        merged: dict[int, list[int]] = {}
        for number in range(len(prompts)):
            merged.setdefault(root(number), []).append(number)
        return [
            (
                min(prompts[number][0] for number in numbers),
                np.sort(np.concatenate([prompts[number][1] for number in numbers])),
            )
            for numbers in merged.values()
        ]

    def duplicates(self, among: NDArray[np.bool_] | None = None) -> list[tuple[RowId, ...]]:
        """Groups of rows with the same messages and tools, in order of their first row."""
        groups = _among(_equal(self._wholes, 2), among)
        groups = sorted((group for group in groups if len(group) > 1), key=lambda group: group[0])
        return [tuple(map(self.row, group.tolist())) for group in groups]

    def contradictions(self, among: NDArray[np.bool_] | None = None) -> list[tuple[RowId, ...]]:
        """For each prompt with several answers: the first row of each answer, in order of the first row."""
        found: list[list[int]] = []
        for group in _among(_equal(self._prompts, 2), among):
            answers: dict[bytes, int] = {}
            for at in group.tolist():
                answers.setdefault(self._hash(self._wholes, at), at)
            if len(answers) > 1:
                found.append([*answers.values()])
        return [tuple(map(self.row, group)) for group in sorted(found)]

    def _hash(self, hashes: bytearray, at: int) -> bytes:
        return bytes(hashes[32 * at : 32 * at + 32])


def hold_out(hashes: RowHashes, eval: float, seed: int) -> NDArray[np.bool_]:
    """Which rows are held out.

    Rows with the same prompt stay together, and so do exact duplicates and rows that continue one another: an
    answer that was trained is never tested. Each group's place in the draw is a hash of the group and the
    seed. So the order of the rows doesn't matter, and a row that is added moves few other rows.

    Args:
        eval: below 1 the fraction to hold out, at least one row; else the number of rows; 0 for none. Fewer
            are taken if the groups of equal prompts don't add up to it, never more.

    Raises DataError if a side would be empty.
    """
    if not 0 <= eval < float("inf") or (eval >= 1 and eval != int(eval)):
        raise ValueError(f"{eval} is neither a fraction below 1 nor a number of rows")
    total = len(hashes)
    held = np.zeros(total, np.bool_)
    if eval == 0:
        return held
    wanted = max(1, round(total * eval)) if eval < 1 else int(eval)
    if wanted >= total:
        why = f"{wanted:,} of {row_count(total)} would be held out, and none be left to train on"
        raise DataError("nothing left to train on", "data.eval", why, "lower data.eval, or set it to 0")
    draw = f"{seed}:".encode()
    ranked = sorted((hashlib.sha256(draw + prompt).digest(), rows) for prompt, rows in hashes.together())
    taken = 0
    for _, rows in ranked:
        if taken + len(rows) <= wanted:
            held[rows] = True
            taken += len(rows)
    if not taken:
        smallest = min(len(rows) for _, rows in ranked)
        why = (
            f"rows with one prompt, and rows that continue one another, stay together; "
            f"the smallest such group has {smallest:,} of {row_count(total)}"
        )
        mend = (
            f"hold out {smallest:,} or more" if smallest < total else "set data.eval to 0 or to another file"
        )
        raise DataError(f"can't hold out {row_count(wanted)}", "data.eval", why, mend)
    return held


def split_eval(
    conversations: Sequence[Conversation], eval: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """(train, held out), each in the order of the input; see `hold_out`."""
    held = hold_out(RowHashes.of(conversations), eval, seed).tolist()
    pairs = list(zip(conversations, held, strict=True))
    return [one for one, out in pairs if not out], [one for one, out in pairs if out]


def _equal(hashes: bytearray, least: int = 1) -> Iterator[Places]:
    """Places of equal hashes, rising; groups of ``least`` members or more."""
    words = np.frombuffer(hashes, np.uint64).reshape(-1, 4)
    order = np.lexsort(words.T)  # stable: equal ones keep their order
    new = np.ones(len(order), np.bool_)
    new[1:] = (words[order[1:]] != words[order[:-1]]).any(axis=1)
    starts = np.flatnonzero(new)
    sizes = np.diff(starts, append=len(order))
    chosen = sizes >= least
    for start, size in zip(starts[chosen].tolist(), sizes[chosen].tolist(), strict=True):
        yield order[start : start + size]


def _among(groups: Iterable[Places], among: NDArray[np.bool_] | None) -> Iterable[Places]:
    return groups if among is None else (group[among[group]] for group in groups)


def _turn(message: Message) -> str:
    if message.reasoning is None and not message.tool_calls:
        return f'["{message.role}",{encode_basestring(message.text)},null,[]]'
    return _json([message.role, message.text, message.reasoning, list(message.tool_calls)])


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
